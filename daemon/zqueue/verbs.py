"""What each verb of the control socket does to the daemon: one method a verb."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable
from typing import Any

import zmq

import zqueue
from zqueue.control import messages, permissions
from zqueue.control.messages import Steered, SteerResult
from zqueue.control.server import Caller, Refusal
from zqueue.daemon import SOCKETS_WITHIN, Daemon
from zqueue.dead_letter_verbs import DeadLetterVerbs
from zqueue.errors import ConfigError, ZqueueError
from zqueue.queue_named import queue_named
from zqueue.steering import Steering
from zqueue.telling import telling

_LOOKED_AT_EVERY = 0.05
_ABOUT_NO_QUEUE = {
    messages.Reload,
    messages.Shutdown,
    messages.Upgrade,
    messages.LogLevel,
    messages.Config,
    messages.Version,
}

Progress = Callable[[tuple[Steered, ...]], None]


class Verbs:
    """Answers the requests of the control socket. See :mod:`zqueue.control.messages` for each."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._verbs: dict[type[messages.Message], Callable[..., Awaitable[messages.Message]]] = {
            messages.Status: self._status,
            messages.Workers: self._list,
            messages.Clients: self._list,
            messages.Connections: self._list,
            messages.Requests: self._list,
            messages.Kick: self._kick,
            messages.Tap: self._tap,
            messages.Pause: self._pause,
            messages.Resume: self._resume,
            messages.Drain: self._drain,
            messages.Terminate: self._terminate,
            messages.Start: self._start,
            messages.Reload: self._reload,
            messages.Shutdown: self._shutdown,
            messages.Upgrade: self._upgrade,
            messages.LogLevel: self._log_level,
            messages.Config: self._config,
            messages.Version: self._version,
            **DeadLetterVerbs(daemon).verbs(),
        }

    @property
    def has_left(self) -> bool:
        return self._daemon.handed_over

    def permit(self, request: messages.Request, caller: Caller) -> None:
        """Raise ``Refusal`` unless the config lets ``caller`` make this request."""
        control = self._daemon.config.control
        permissions.check(request, caller, control.may_look, control.may_steer)

    async def handle(
        self, request: messages.Request, caller: Caller, progress: Progress
    ) -> messages.Message:
        """Do what ``request`` asks for.

        Raises:
            Refusal: it cannot be done; the code and the message say why.
        """
        if type(request) not in _ABOUT_NO_QUEUE:
            await self._daemon.until_there(SOCKETS_WITHIN)
        return await self._verbs[type(request)](request, str(caller), progress)

    # -- steering --------------------------------------------------------------------------------

    async def _pause(self, request: messages.Pause, by: str, progress: Progress) -> SteerResult:
        queues = self._select(request)
        steered = await self._each(queues, "PAUSE", by)
        if not request.wait or not all(each.outcome == "done" for each in steered):
            return SteerResult(queues=steered)
        waits = [self._until_quiet(queue, request.timeout) for queue in queues]
        return await self._with_progress(queues, waits, progress)

    async def _resume(self, request: messages.Resume, by: str, _: Progress) -> SteerResult:
        return SteerResult(queues=await self._each(self._select(request), "RESUME", by))

    async def _terminate(self, request: messages.Terminate, by: str, _: Progress) -> SteerResult:
        return SteerResult(queues=await self._each(self._select(request), "TERMINATE", by))

    async def _start(self, request: messages.Start, by: str, _: Progress) -> SteerResult:
        return SteerResult(queues=await self._each(self._select(request), "START", by))

    async def _drain(self, request: messages.Drain, by: str, progress: Progress) -> SteerResult:
        queues = self._select(request)
        if request.worker is not None:
            queue = self._only(queues)
            drained = self._drain_worker(queue, request.worker, request.timeout, by)
            return await self._with_progress([queue], [drained], progress)

        async def drain(queue: Steering) -> Steered:
            timeout = request.timeout
            if timeout is None:
                timeout = self._daemon.drain_timeout(queue)
            return _steered(queue, await queue.drain(by, timeout, request.then))

        return await self._with_progress(queues, [drain(queue) for queue in queues], progress)

    async def _drain_worker(
        self, queue: Steering, worker: int, timeout: float | None, by: str
    ) -> Steered:
        """Wait until a worker that gets no more has answered all, or has left."""
        if timeout is None:
            timeout = self._daemon.drain_timeout(queue)
        deadline = time.monotonic() + timeout
        answer = await queue.ask("DRAIN_WORKER", by, worker=worker)
        if not answer["ok"]:
            return _steered(queue, answer)
        while True:
            listed = await queue.ask("WORKERS", by, filter=[f"id={worker}"])
            if not listed["ok"]:
                return _steered(queue, listed)
            left = [each["in_flight"] for each in listed["rows"]]
            if not left or not left[0]:
                return _told(queue, "done").model_copy(update={"in_flight": 0})
            if time.monotonic() >= deadline:
                told = _told(queue, "timed_out", f"worker {worker} still has requests")
                return told.model_copy(update={"in_flight": left[0]})
            await asyncio.sleep(_LOOKED_AT_EVERY)

    async def _list(self, request: messages.ListRequest, by: str, _: Progress) -> messages.Message:
        queue = self._only(self._select(request))
        what, result = request.verb, messages.LISTS[request.verb]
        answer = await self._ask(
            queue, what.upper(), by, filter=request.filter, sort=request.sort, limit=request.limit
        )
        if not answer["ok"]:
            raise Refusal("refused", f"{queue.name}: {answer['detail']}")
        return result.model_validate(
            {"queue": queue.name, what: answer["rows"], "total": answer["total"]}
        )

    async def _kick(self, request: messages.Kick, by: str, _: Progress) -> SteerResult:
        queue = self._only(self._select(request))
        answer = await self._ask(queue, "KICK", by, connection=request.connection)
        return SteerResult(queues=(_steered(queue, answer),))

    async def _tap(self, request: messages.Tap, by: str, _: Progress) -> messages.TapResult:
        queue = self._only(self._select(request))
        wish = request.model_dump(exclude={"v", "id", "verb", "progress", "queues", "all"})
        answer = await self._ask(queue, "TAP", by, **wish)
        if not answer["ok"]:
            raise Refusal("refused", f"{queue.name}: {answer['detail']}")
        return messages.TapResult(
            queue=queue.name, messages=answer["messages"], dropped=answer["dropped"]
        )

    def _only(self, queues: list[Steering]) -> Steering:
        if len(queues) != 1:
            raise Refusal("ambiguous", "connections belong to one queue; name it")
        return queues[0]

    async def _each(self, queues: list[Steering], word: str, by: str) -> tuple[Steered, ...]:
        answers = await asyncio.gather(*(self._ask(queue, word, by) for queue in queues))
        return tuple(_steered(queue, answer) for queue, answer in zip(queues, answers, strict=True))

    async def _ask(self, queue: Steering, word: str, by: str, **arguments: Any) -> dict[str, Any]:
        """Ask a queue, or the one that takes its place just now."""
        answer = await queue.ask(word, by, **arguments)
        if not answer["ok"]:
            await self._daemon.until_there(SOCKETS_WITHIN)
            after = self._daemon.queues.get(queue.name, queue)
            if after is not queue:
                return await after.ask(word, by, **arguments)
        return answer

    async def _until_quiet(self, queue: Steering, timeout: float | None) -> Steered:
        """Wait until a paused queue has nothing in flight, or is steered elsewhere."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            status = await queue.fresh()
            if status.state != "paused":
                return _told(queue, "interrupted", f"the queue is {status.state} again")
            if not status.in_flight:
                return _told(queue, "done")
            if deadline is not None and time.monotonic() >= deadline:
                return _told(queue, "timed_out", "requests are still in flight")
            await queue.change(within=0.1)

    async def _with_progress(
        self, queues: list[Steering], waits: list[Any], progress: Progress
    ) -> SteerResult:
        def tell() -> None:
            progress(tuple(_told(queue, "pending") for queue in queues))

        return SteerResult(queues=tuple(await telling(asyncio.gather(*waits), tell)))

    def _select(self, request: messages.Selection) -> list[Steering]:
        queues = self._daemon.queues
        if request.all:
            return list(queues.values())
        if not request.queues:
            if len(queues) != 1:
                names = ", ".join(queues) or "none"
                raise Refusal("ambiguous", f"which queue? There are: {names}. Or say --all")
            return list(queues.values())
        return [queue_named(queues, name) for name in dict.fromkeys(request.queues)]

    # -- the daemon ------------------------------------------------------------------------------

    async def _status(
        self, _request: messages.Status, _by: str, _progress: Progress
    ) -> messages.StatusResult:
        daemon = self._daemon
        return messages.StatusResult(
            queues=tuple(await daemon.fresh_statuses()),
            name=daemon.name,
            version=zqueue.__version__,
            pid=os.getpid(),
            started=daemon.started,
            uptime=round(daemon.uptime, 3),
            config=str(daemon.loaded.path) if daemon.loaded.path else None,
            control=daemon.control_endpoint,
            state=daemon.phase,
            log_level=daemon.log.level,
            log=daemon.log.place,
            log_lines_lost=daemon.log.dropped,
            slow_subscribers=daemon.slow_subscribers,
            replies_dropped=daemon.replies_dropped,
        )

    async def _reload(
        self, _request: messages.Reload, by: str, progress: Progress
    ) -> messages.ReloadResult:
        reload = asyncio.ensure_future(self._daemon.reload(by))
        try:
            return await telling(reload, lambda: progress(()))
        except ConfigError as error:
            raise Refusal("config", str(error), told=True) from error
        except ZqueueError as error:
            raise Refusal("failed", str(error), told=True) from error

    async def _shutdown(
        self, request: messages.Shutdown, by: str, _: Progress
    ) -> messages.ShutdownResult:
        timeout = 0.0 if request.now else self._daemon.longest_drain()
        self._daemon.stop(by, now=request.now)
        return messages.ShutdownResult(drain_timeout=timeout)

    async def _upgrade(
        self, _request: messages.Upgrade, by: str, progress: Progress
    ) -> messages.UpgradeResult:
        # Once begun it goes on, whether or not anybody is there to hear of it.
        upgrade = asyncio.ensure_future(self._daemon.upgrade(by))
        try:
            taken = await telling(asyncio.shield(upgrade), lambda: progress(()))
        except ZqueueError as error:
            raise Refusal("failed", str(error)) from error
        return messages.UpgradeResult(**taken)

    async def _log_level(
        self, request: messages.LogLevel, by: str, _: Progress
    ) -> messages.LogLevelResult:
        log = self._daemon.log
        if request.level is not None and request.level != log.level:
            old, log.level = log.level, request.level
            self._daemon.bus.emit("log.level_changed", by=by, old=old, new=request.level)
        return messages.LogLevelResult(level=log.level)

    async def _config(
        self, _request: messages.Config, _by: str, _progress: Progress
    ) -> messages.ConfigResult:
        loaded = self._daemon.loaded
        return messages.ConfigResult(
            path=str(loaded.path) if loaded.path else None,
            values=tuple(
                messages.ConfigValue(key=key, value=value, origin=origin)
                for key, value, origin in self._daemon.in_force()
            ),
        )

    async def _version(
        self, _request: messages.Version, _by: str, _progress: Progress
    ) -> messages.VersionResult:
        return messages.VersionResult(
            version=zqueue.__version__,
            protocol=messages.PROTOCOL_VERSION,
            pid=os.getpid(),
            libzmq=zmq.zmq_version(),
            pyzmq=zmq.pyzmq_version(),
            python=platform.python_version(),
        )


def _steered(queue: Steering, answer: dict[str, Any]) -> Steered:
    """What became of ``queue``, from its answer to a word."""
    outcome: messages.Outcome = answer.get("outcome", "done") if answer["ok"] else "failed"
    status = queue.status
    return Steered(
        queue=queue.name,
        state=answer["state"],
        changed=answer.get("changed", False),
        outcome=outcome,
        detail=answer.get("detail", "") or _explain(outcome, answer["state"]),
        waiting=answer.get("waiting", status.waiting),
        in_flight=answer.get("in_flight", status.in_flight),
        estimated=status.estimated,
    )


def _told(queue: Steering, outcome: messages.Outcome, detail: str = "") -> Steered:
    status = queue.status
    return Steered(
        queue=queue.name,
        state=status.state,
        changed=True,
        outcome=outcome,
        detail=detail,
        waiting=status.waiting,
        in_flight=status.in_flight,
        estimated=status.estimated,
    )


def _explain(outcome: str, state: str) -> str:
    if outcome == "timed_out":
        return "the time was up before everything in flight was answered"
    if outcome == "interrupted":
        return f"somebody steered the queue meanwhile: it is {state}"
    return ""
