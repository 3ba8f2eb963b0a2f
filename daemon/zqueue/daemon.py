"""The supervisor: owns the queues, the control socket, signals, reload, what systemd hears."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

import zqueue
from zqueue import clocks, descriptors, limits, rebinding, systemd
from zqueue import config as configuration
from zqueue.arrival import Arrival, Sent, Stored
from zqueue.config import APPLIED_BY_A_RESTART, Config, Difference, LoadedConfig
from zqueue.control import location
from zqueue.control.messages import Message, Phase, QueueStatus, ReloadResult, Request
from zqueue.control.server import Caller, ControlServer, Handler
from zqueue.dead_letters import DeadLetters
from zqueue.departure import STORED, Departure
from zqueue.endpoint_service import EndpointService
from zqueue.engine.choice import make_engine
from zqueue.errors import ConfigError, EndpointError, HandoverRefused, ZqueueError
from zqueue.event_filter import kinds
from zqueue.event_history import EventHistory
from zqueue.event_publisher import EventPublisher
from zqueue.events import EventBus
from zqueue.handover import QueueState
from zqueue.inherited import Inherited, Wish
from zqueue.letter_file import LetterFile
from zqueue.listeners import Listener, listen_control
from zqueue.logs import Log
from zqueue.plan import Claims, wishes
from zqueue.queue import Keep, Queue
from zqueue.steering import Steering
from zqueue.upgrade import Predecessor
from zqueue.web.service import WebService

_STATUS_EVERY = 1.0
_STALLED_AFTER = 3.0
_END_WITHIN = 10.0
_LOOKS = 3

SOCKETS_WITHIN = 3.0
"""How long, in seconds, a caller waits at most while a reload replaces sockets."""


class StartError(ZqueueError):
    """zqueued could not start; the message says why."""


class Failed(ZqueueError):
    """zqueued served, and could not go on; an event has told why."""

    told = True


class Mismatch(StartError):
    """A socket unit and the config do not fit together: another try would end in the same way."""

    exit_code = 78  # EX_CONFIG of sysexits.h


class Daemon:
    """One zqueued, from its config to its end. :meth:`run` is the table of contents."""

    def __init__(
        self,
        path: Path | None,
        loaded: LoadedConfig,
        log: Log,
        predecessor: Predecessor | None = None,
    ) -> None:
        self._path = path
        self.loaded = loaded
        self._until_restart = {
            each[0]: each for each in loaded.effective() if each[0] in APPLIED_BY_A_RESTART
        }
        self.log = log
        log.muted = kinds(loaded.config.log.mute)
        self.bus = EventBus()
        self.bus.subscribe(log)
        self.history = EventHistory()
        self.bus.subscribe(self.history)
        self._started = time.time(), time.monotonic()
        self.phase: Phase = "starting"
        self.queues: dict[str, Steering] = {}
        # They outlive a queue whose sockets are made anew.
        self._letters: dict[str, DeadLetters] = {}
        self.name = loaded.config.daemon.name
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        limits.raise_sockets(self._context)
        self._notifier = systemd.Notifier()
        passed = systemd.passed(STORED)
        self._inherited = Inherited(passed.sockets, self._notifier.store, self._notifier.unstore)
        stored = Stored(passed.parcel, STORED, self._notifier)
        source = Sent(predecessor) if predecessor else stored
        self._arrival = Arrival(source, self.bus.emit, self.history)
        self._upgrading = asyncio.Lock()
        self.handed_over = False
        self._stop = asyncio.Event()
        self._stopped_by = ""
        self._stop_now = asyncio.Event()
        self._reloading = asyncio.Lock()
        # Odd while a reload drains queues and replaces their sockets.
        self._rebind_steps = 0
        # Clear while it replaces them.
        self._there = asyncio.Event()
        self._there.set()
        self._failure = ""
        self._signalled: set[asyncio.Task[None]] = set()
        self._control: Listener | None = None
        self._services: tuple[EndpointService, ...] = ()
        self._publisher: EventPublisher | None = None
        self._server: ControlServer | None = None

    @property
    def uptime(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started[1]

    @property
    def started(self) -> float:
        """When that was, as :func:`zqueue.clocks.told` has it."""
        return clocks.told(*self._started)

    @property
    def config(self) -> Config:
        return self.loaded.config

    def in_force(self) -> list[tuple[str, Any, str]]:
        """Every key, the value that it has now, and where that is from."""
        return [self._until_restart.get(each[0], each) for each in self.loaded.effective()]

    @property
    def slow_subscribers(self) -> int:
        """How often a subscriber of events read so slowly that it began to miss some."""
        return self._publisher.overtaken if self._publisher is not None else 0

    @property
    def replies_dropped(self) -> int:
        """How many answers a caller of the control socket did not read."""
        return self._server.dropped if self._server is not None else 0

    @property
    def control_endpoint(self) -> str:
        return self._control.endpoint if self._control is not None else ""

    # -- the life of a daemon ------------------------------------------------------------------

    async def run(self, handler: Handler) -> None:
        """Start, serve until asked to stop, drain, end. ``handler`` answers the control socket.

        Raises:
            ZqueueError: it could not start, or could not go on.
        """
        self._heed_signals()
        self._say_hello()
        try:
            await self._arrival.unpack(self._inherited)
            self._services = self._make_services(handler)
            self._inherited.expect(self._wishes())
            self._control = self._open_control()
            self._claim_services(self.config)
            await self._start_queues()
            await self._arrival.settle(self.queues, self._inherited)
            async with self._serving(self._control, handler), self._watching():
                for service in self._services:
                    await service.serve(self.config)
                self._say_ready()
                await self._stop.wait()
                self.phase = "stopping"
                self._notifier.stopping()
                await self._leave()
                if self.handed_over:
                    # They are the other process's, which serves already.
                    await self._close_services()
                await self._end_all()
        finally:
            await self._end_all()
            await self._close_services()
            self._end_control()
            self._heed_signals_no_more()
        self.bus.emit("daemon.stopped", uptime=round(self.uptime, 1))
        if self._failure:
            raise Failed(self._failure)

    def stop(self, by: str, *, now: bool = False) -> None:
        """Begin to end: drain every queue first, or with ``now`` at once."""
        if now:
            self._stop_now.set()
            if not self.handed_over:
                for queue in self.queues.values():
                    queue.hurry()
        if not self._stop.is_set():
            self._stopped_by = by
            self.bus.emit(
                "daemon.stopping", by=by, drain_timeout=0.0 if now else self.longest_drain()
            )
            self._stop.set()

    # -- start -----------------------------------------------------------------------------------

    def _tell_of_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        detail = f": {type(error).__name__}: {error}" if error is not None else ""
        self.bus.emit("daemon.error", error=f"{context['message']}{detail}")

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._tell_of_error)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_on_signal, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._reload_on_signal)

    def _heed_signals_no_more(self) -> None:
        """It is ending: one more signal could only spoil its exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)

    def _stop_on_signal(self, name: str) -> None:
        """The second one is from somebody who does not want to wait."""
        self.stop(name, now=self._stop.is_set())

    def _say_hello(self) -> None:
        descriptors.raise_limit()
        self.bus.emit(
            "daemon.starting",
            version=zqueue.__version__,
            pid=os.getpid(),
            config=str(self.loaded.path or "built-in default"),
        )
        for warning in (*self.loaded.warnings, *configuration.check(self.loaded)):
            self.bus.emit("config.warning", warning=warning)

    def _wishes(self) -> list[Wish]:
        """What is listened at over tcp, and by the queues."""
        of_queues = [
            wish for name, queue in self.config.queues.items() for wish in wishes(name, queue)
        ]
        of_services = [wish for each in self._services for wish in each.wishes(self.config)]
        return of_queues + of_services

    def _open_control(self) -> Listener:
        settings = self.config.control
        mode, group = int(settings.mode, 8), location.group(settings.group)
        of_unit = self._inherited.endpoint_of("control")
        known = settings.endpoint or of_unit or self._inherited.last_asked("control")
        endpoint = known or location.choose_to_bind(None)
        listener = self._inherited.take(Wish("control", endpoint), 1024, mode=mode, group=group)
        if listener is None and of_unit is not None:
            raise Mismatch(_mismatch("control", of_unit, "control.endpoint", self.loaded))
        listener = listener or listen_control(endpoint, mode=mode, group=group)
        if settings.endpoint is not None:
            location.remember(self.loaded.path or configuration.DEFAULT_PATH, settings.endpoint)
        return listener

    def _make_services(self, handler: Handler) -> tuple[EndpointService, ...]:
        async def ask(request: Request) -> Message:
            return await handler.handle(request, Caller(None, "http"), lambda queues: None)

        what = self.config, self.bus, self._inherited
        web = WebService(ask, self._stalled, lambda: self._rebind_steps, *what)
        self._publisher = EventPublisher(*what)
        return web, self._publisher

    def _claim_services(self, config: Config) -> None:
        """Claim what they want of ``config``.

        Raises:
            EndpointError: something cannot be had; nothing is claimed.
        """
        try:
            for service in self._services:
                service.claim(config)
        except BaseException:
            self._unclaim_services()
            raise

    def _unclaim_services(self) -> None:
        for service in self._services:
            service.unclaim()

    async def _start_queues(self) -> None:
        beyond = limits.problems(self.config)
        if beyond:  # libzmq would end the process where it can have no thread
            raise StartError("\n".join(beyond))
        left_over = self._left_over(self.loaded)
        problems = list(left_over)
        starting: list[tuple[Steering, QueueState | None]] = []
        for name, queue in self.config.queues.items():
            claims = Claims(name, queue, self._inherited)
            try:
                claims.claim()
                made = self._make(claims)
            except (EndpointError, OSError, RuntimeError, zmq.ZMQError) as error:
                problems.append(f"queues.{name}: {_described(error)}")
            else:
                before = self._arrival.of(name)
                starting.append((self._add(made, before), before))
        if problems:  # before any queue takes a request that nobody would answer
            raise (Mismatch if left_over else StartError)("\n".join(problems))
        whys = await asyncio.gather(*(self._arrival.start(*each) for each in starting))
        problems = [
            f"queues.{queue.name}: {why}"
            for (queue, _), why in zip(starting, whys, strict=True)
            if why
        ]
        if problems:
            raise StartError("\n".join(problems))

    def _left_over(self, config: LoadedConfig) -> list[str]:
        """One problem for each socket of a socket unit that no queue wants."""
        wanted = [
            wish for name, queue in config.config.queues.items() for wish in wishes(name, queue)
        ]
        return [
            _mismatch(name, endpoint, f"queues.{name}", config)
            for name, endpoint in self._inherited.mismatches(wanted)
            if name != "control"
        ]

    def _add(self, queue: Steering, before: QueueState | None = None) -> Steering:
        self.queues[queue.name] = queue
        if before is not None:
            queue.take_up(before)
        return queue

    def _make(self, claims: Claims) -> Steering:
        """A queue that does nothing yet.

        Raises:
            zmq.ZMQError, RuntimeError: there is no room for another socket or thread.
        """
        letters = self._letters.setdefault(claims.name, DeadLetters(claims.name, self.name))
        queue = Queue(claims, letters, make_engine, self.bus.emit, self._context)
        return Steering(queue, self._context)

    def _say_ready(self) -> None:
        self.phase = "running"
        self._warn_of_open_doors(self.queues.values())
        self.bus.emit("daemon.ready", control=self.control_endpoint, queues=len(self.queues))
        self._notifier.ready(self._status_line())

    def _warn_of_open_doors(self, queues: Iterable[Steering]) -> None:
        doors = [endpoint for queue in queues for endpoint in queue.claims.open_to_anyone()]
        if doors:
            self.bus.emit("daemon.open_to_anyone", endpoints=", ".join(doors))

    # -- serve -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _serving(self, control: Listener, handler: Handler) -> AsyncIterator[None]:
        self._server = ControlServer(control, handler, self.bus, self.history)
        server = asyncio.create_task(self._server.serve())
        server.add_done_callback(self._server_ended)
        try:
            yield
        finally:
            for task in (server, *self._signalled):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    def _server_ended(self, server: asyncio.Task[None]) -> None:
        if not server.cancelled() and not self._stop.is_set():
            error = server.exception()
            self._failure = f"the control socket ended: {error}"
            self.bus.emit("daemon.failed", error=self._failure)
            self.stop("zqueued")

    @contextlib.asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def _watch(self) -> None:
        """Tell systemd the live numbers, and that all is well for as long as it is."""
        interval = min(_STATUS_EVERY, systemd.watchdog_interval() or _STATUS_EVERY)
        stalled: list[str] = []
        while True:
            before, stalled = stalled, self._stalled()
            if stalled and stalled != before:
                self.bus.emit("daemon.stalled", queues=", ".join(stalled))
            if not stalled:
                self._notifier.watchdog()
            self._notifier.status(self._status_line())
            await asyncio.sleep(interval)

    def _stalled(self) -> list[str]:
        oldest = time.monotonic() - _STALLED_AFTER
        return [name for name, queue in self.queues.items() if queue.alive_at < oldest]

    def _status_line(self) -> str:
        statuses = [queue.status for queue in self.queues.values()]
        states = dict.fromkeys(sorted({status.state for status in statuses}), 0)
        for status in statuses:
            states[status.state] += 1
        rate = sum(status.requests.messages_per_second for status in statuses)
        about = "~" if any(status.estimated for status in statuses) else ""
        in_flight = _sum_or_dash(about, (status.in_flight for status in statuses))
        waiting = _sum_or_dash(about, (status.waiting for status in statuses))
        counted = ", ".join(f"{count} {state}" for state, count in states.items()) or "no queues"
        return f"{counted}; {about}{rate:.0f} requests/s, {in_flight} in flight, {waiting} waiting"

    async def fresh_statuses(self) -> list[QueueStatus]:
        """The status of each queue; one that does not answer gives its last, marked stale."""
        for _ in range(_LOOKS):
            queues = list(self.queues.values())
            statuses = await asyncio.gather(*(queue.fresh() for queue in queues))
            if self._there.is_set() and queues == list(self.queues.values()):
                break  # else some of them have ended meanwhile
            if not await self.until_there(SOCKETS_WITHIN):
                break  # one of them still waits for what it has handed out to get out
        return list(statuses)

    async def until_there(self, within: float) -> bool:
        """Wait while a reload replaces the sockets of queues; False if it does after ``within``
        seconds, too."""
        try:
            return await asyncio.wait_for(self._there.wait(), within)
        except TimeoutError:
            return False

    # -- reload ----------------------------------------------------------------------------------

    def _reload_on_signal(self) -> None:
        if self.phase == "starting":
            return
        reload = asyncio.create_task(self._reload_quietly())
        self._signalled.add(reload)
        reload.add_done_callback(self._signalled.discard)

    async def _reload_quietly(self) -> None:
        with contextlib.suppress(ZqueueError):  # it was told of
            await self.reload("SIGHUP")

    async def reload(self, by: str) -> ReloadResult:
        """Read the config again and apply the difference.

        Raises:
            ConfigError: the file is refused; nothing has changed.
            EndpointError: an endpoint cannot be had; nothing has changed.
            DeadLettersError: a file for dead letters cannot be had; nothing has changed.
            ZqueueError: the daemon is shutting down, or something unexpected ended it; what it had
                begun by then is what the next reload goes on from.
        """
        async with self._reloading:
            if self._stop.is_set():
                raise ZqueueError("the daemon is shutting down")
            self._notifier.reloading()
            try:
                result = await self._reload(by)
            finally:
                self._notifier.ready(self._status_line())
            self.bus.emit(
                "config.reloaded",
                by=by,
                added=list(result.added),
                removed=list(result.removed),
                changed=list(result.changed),
                unchanged=len(result.unchanged),
                needs_restart=list(result.needs_restart),
            )
            return result

    async def _reload(self, by: str) -> ReloadResult:
        try:
            change = await self._prepare_change(by)
        except Exception as error:  # whatever it is, nothing has changed
            self.bus.emit("config.refused", by=by, error=_described(error))
            if isinstance(error, ZqueueError):
                raise
            raise ZqueueError(f"{_described(error)}; the old config stays in force") from error
        try:
            return await self._apply(change, by)
        except Exception as error:
            self.bus.emit("config.failed", by=by, error=_described(error))
            raise ZqueueError(
                f"{_described(error)}; the config is applied in part: mend the cause, reload again"
            ) from error

    async def _prepare_change(self, by: str) -> _Change:
        """Get hold of all that the config file asks for now, and change nothing.

        Raises:
            Exception: something cannot be had; nothing is left of what could.
        """
        loaded = configuration.load(self._path)
        if self.loaded.names_queues and not loaded.names_queues:
            # Such is a file that was emptied by accident, or is gone.
            file = loaded.path or configuration.DEFAULT_PATH
            what = "it names no queue any more; describe those that are to stay, be it the built-in"
            raise ConfigError([f"{file}: {what} one, in [queues.NAME]"])
        # Not the last config: a reload that failed may have left queues as they were before it.
        present = {name: queue.claims.config for name, queue in self.queues.items()}
        difference = configuration.difference(
            self.config.model_copy(update={"queues": present}), loaded.config
        )
        rebound = [
            name for name, keys in difference.changed.items() if configuration.needs_rebind(keys)
        ]
        for path in _letter_files(loaded.config) - _letter_files(self.config):
            LetterFile(path).close()  # one that cannot be had refuses the whole config
        moving = [
            self.queues[name]
            for name in rebound
            if rebinding.keeps_connections(self.queues[name], loaded.config.queues[name])
        ]
        leaving = [self.queues[name] for name in (*difference.removed, *rebound)]
        problems = [*limits.problems(loaded.config), *self._left_over(loaded)]
        if problems:
            raise ZqueueError("\n".join(problems))
        wanted = [
            Claims(name, loaded.config.queues[name], self._inherited)
            for name in (*difference.added, *rebound)
        ]
        arriving: list[Steering] = []
        in_the_way = [each for queue in leaving for each in queue.claims.listeners()]
        in_the_way += [each.listener for each in self._services if each.listener is not None]
        with self._inherited.beside(in_the_way):
            self._claim_services(loaded.config)
            try:
                rebinding.claim(wanted, leaving)
            except BaseException:
                self._unclaim_services()
                raise
        try:
            for claims in wanted:
                arriving.append(self._make(claims))
        except BaseException:
            await self._end(arriving, by)
            for claims in wanted:
                claims.close()
            self._unclaim_services()
            raise
        return _Change(loaded, difference, rebound, leaving, moving, arriving)

    async def _apply(self, change: _Change, by: str) -> ReloadResult:
        """Make the change: from here on nothing is refused any more."""
        loaded, difference, rebound = change.loaded, change.difference, change.rebound
        self.loaded = loaded
        self.log.level = loaded.config.log.level
        self.log.muted = kinds(loaded.config.log.mute)
        self._rebind_steps += 1
        try:
            for service in self._services:
                await service.serve(loaded.config)
            whys = await self._rebind(change, by)
        finally:
            self._rebind_steps += 1
            unused = (each for each in change.arriving if self.queues.get(each.name) is not each)
            await self._end(list(unused), by)
        for name in difference.removed:
            self._forget_letters(name)
        self._warn_of_open_doors(change.arriving)
        for name, keys in difference.changed.items():
            if name not in rebound:
                self.queues[name].reconfigure(loaded.config.queues[name])
            self.bus.emit(
                "queue.changed", queue=name, by=by, keys=list(keys), rebound=name in rebound
            )
        self.queues = {name: self.queues[name] for name in loaded.config.queues}
        return ReloadResult(
            added=difference.added,
            removed=difference.removed,
            changed=difference.changed,
            rebound=tuple(rebound),
            failed=whys,
            unchanged=difference.unchanged,
            settings=difference.settings,
            needs_restart=tuple(key for key in difference.settings if key in APPLIED_BY_A_RESTART),
            warnings=(*loaded.warnings, *configuration.check(loaded)),
        )

    async def _rebind(self, change: _Change, by: str) -> dict[str, str]:
        """End the queues that are leaving, and start those that are arriving, which go on with the
        connections of those that are moving.

        Returns for each that could not be started why.
        """
        leaving, moving, arriving = change.leaving, change.moving, change.arriving
        before = {queue.name: queue.status.state for queue in leaving}
        drained = [queue for queue in leaving if queue not in moving]
        async with self._asking_for_time():
            with contextlib.ExitStack() as away:
                try:
                    ends = await self._drain(drained, by)
                    away.enter_context(_clear(self._there))
                    left = await rebinding.freeze(moving, by)
                    failed = [queue for queue in moving if queue.name not in left]
                    ends += await self._drain(failed, by)
                    was = before | {
                        name: state.standing.state.value for name, state in left.items()
                    }
                    for queue, end in zip((*drained, *failed), ends, strict=True):
                        if end["outcome"] == "interrupted" or end["state"] == "stopped":
                            was[queue.name] = end["state"]  # an operator's wish, since it began
                    for queue in arriving:
                        for old in sorted(leaving, key=lambda old: old.name != queue.name):
                            queue.claims.take_over(old.claims)
                except Exception:
                    await self._stay(change, before, by)
                    raise
                problems: list[BaseException] = []
                try:
                    await self._end(leaving, by, reason="the config was reloaded")
                except Exception as error:  # they are no more: it can only go on
                    problems.append(error)
                self.queues |= {queue.name: queue for queue in arriving}
                started = await asyncio.gather(
                    *(
                        rebinding.start(
                            *(queue, by, was.get(queue.name), left.get(queue.name)), self.bus.emit
                        )
                        for queue in arriving
                    ),
                    return_exceptions=True,
                )
                whys = dict(zip(arriving, started, strict=True))
                broken = {queue: why for queue, why in whys.items() if not isinstance(why, str)}
                if broken:  # the next reload adds them
                    problems += broken.values()
                    await self._end(list(broken), by)
                if problems:
                    raise problems[0]
        return {queue.name: str(why) for queue, why in whys.items() if why}

    async def _stay(self, change: _Change, before: dict[str, str], by: str) -> None:
        """Have the queues that were about to leave, and have not, go on as they were ``before``."""
        for queue in change.leaving:
            for other in change.arriving:
                queue.claims.take_over(other.claims)
            await queue.ask("THAW", by)
            if before[queue.name] == "running":
                await queue.ask("RESUME", by)

    # -- stop ------------------------------------------------------------------------------------

    def longest_drain(self) -> float:
        """The longest that a drain of all queues may take, in seconds."""
        return max(map(self.drain_timeout, self.queues.values()), default=0.0)

    async def upgrade(self, by: str) -> dict[str, Any]:
        """Start what is installed now, hand over to it, and end; returns what it says of it.

        Raises:
            HandoverRefused: it will not have it, and this process goes on.
            ZqueueError: the daemon is shutting down.
        """
        if self._notifier.listens:
            unit = await systemd.unit()
            how = f"systemctl restart {unit.name if unit is not None else 'zqueue'}"
            raise HandoverRefused(
                f"systemd supervises this zqueued: {how} hands over in the same way"
            )
        if os.getpid() == 1:
            raise HandoverRefused("this zqueued is pid 1, with which all would end")
        async with self._upgrading, self._reloading:
            if self._stop.is_set():
                raise ZqueueError("the daemon is shutting down")
            taken = await self._departure(by).to_successor()
            self.handed_over = True
            self.stop(by, now=True)
        return taken

    def _departure(self, by: str) -> Departure:
        assert self._control is not None
        others = {"control": self._control}
        for service in self._services:
            if service.listener is not None:
                others[service.name] = service.listener
        queues = list(self.queues.values())
        return Departure(queues, others, self._drain, self.bus.emit, self.history, by)

    async def _leave(self) -> None:
        """Hand over to the next run, if one follows, else drain. A second signal ends both."""
        async with self._upgrading:
            if self.handed_over:
                return

        async def leave() -> None:
            async with self._reloading:
                departure = self._departure(self._stopped_by)
                self.handed_over = await departure.to_next_run(self._notifier)
                if not self.handed_over:
                    await self._drain(list(self.queues.values()), "shutdown")

        leaving = asyncio.create_task(leave())
        hurry = asyncio.create_task(self._stop_now.wait())
        async with self._asking_for_time():
            await asyncio.wait((leaving, hurry), return_when=asyncio.FIRST_COMPLETED)
        for task in (leaving, hurry):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @contextlib.asynccontextmanager
    async def _asking_for_time(self) -> AsyncIterator[None]:
        """Ask systemd for more time for as long as a drain goes on; it ends by its own timeout."""

        async def ask() -> None:
            while True:
                self._notifier.extend_timeout(_END_WITHIN)
                await asyncio.sleep(1)

        asking = asyncio.create_task(ask())
        try:
            yield
        finally:
            asking.cancel()

    async def _drain(self, queues: list[Steering], by: str) -> list[dict[str, Any]]:
        drains = (queue.drain(by, self.drain_timeout(queue), "pause") for queue in queues)
        return list(await asyncio.gather(*drains))

    def drain_timeout(self, queue: Steering) -> float:
        """How long a drain of this queue may take, in seconds."""
        own = queue.claims.config.drain_timeout
        return self.config.daemon.drain_timeout if own is None else own

    async def _close_services(self) -> None:
        for service in self._services:
            await service.close(self._let_go)

    async def _end_all(self) -> None:
        """Close what is there; what was handed over goes on elsewhere."""
        keep: Keep = "all" if self.handed_over else "stored"
        await self._end(list(self.queues.values()), "shutdown", keep=keep)
        for name in list(self._letters):
            self._forget_letters(name)

    def _forget_letters(self, name: str) -> None:
        letters = self._letters.pop(name, None)
        if letters is not None and letters.unwritten:
            self.bus.emit("dead_letters.lost", queue=name, letters=letters.unwritten)

    def _end_control(self) -> None:
        if self._control is not None:
            self._let_go(self._control)
            if not self.handed_over:
                location.forget(self.loaded.path or configuration.DEFAULT_PATH, self._control.asked)

    def _let_go(self, listener: Listener) -> None:
        if self.handed_over:
            listener.leave()
        else:
            listener.let_go()

    async def _end(
        self, queues: list[Steering], by: str, reason: str = "", *, keep: Keep = "none"
    ) -> None:
        """Close these queues for good; their threads have ended then.

        ``keep`` is as for the word ``END`` of :class:`~zqueue.queue.Queue`.
        """
        for queue in queues:
            with contextlib.suppress(zmq.ZMQError):  # its thread has ended
                queue.tell("END", by, reason=reason, keep=keep)
        flushed_at = max((queue.flush_until for queue in queues), default=0.0)
        deadline = max(time.monotonic(), flushed_at) + _END_WITHIN
        problems: list[Exception] = []
        for queue in queues:
            try:
                if not await queue.ended(deadline):
                    self.bus.emit("daemon.stalled", queues=queue.name)
                if keep == "all":
                    queue.claims.leave()
                queue.close()
            except Exception as error:  # the others are to be closed all the same
                problems.append(error)
            if self.queues.get(queue.name) is queue:
                del self.queues[queue.name]
        if problems:
            raise problems[0]


@dataclass(frozen=True)
class _Change:
    """What a reload is about to do, with all that it needs for that in its hands.

    ``arriving`` are made and not started; those of the same name are ``leaving``, as are those that
    were removed. ``moving`` are those of them whose connections go on.
    """

    loaded: LoadedConfig
    difference: Difference
    rebound: list[str]
    leaving: list[Steering]
    moving: list[Steering]
    arriving: list[Steering]


def _described(error: Exception) -> str:
    return str(error) if isinstance(error, ZqueueError) else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _clear(event: asyncio.Event) -> Iterator[None]:
    """Clear ``event`` for as long as this lasts."""
    event.clear()
    try:
        yield
    finally:
        event.set()


def _sum_or_dash(about: str, counts: Iterable[int | None]) -> str:
    """The sum of those that are known, if any is."""
    counts = list(counts)
    known = [count for count in counts if count is not None]
    return f"{about}{sum(known)}" if known or not counts else "-"


def _letter_files(config: Config) -> set[str | None]:
    return {queue.dead_letters for queue in config.queues.values()}


def _mismatch(name: str, endpoint: str, key: str, loaded: LoadedConfig) -> str:
    """A socket unit and the config do not agree: both places where that can be mended."""
    file = loaded.path or configuration.DEFAULT_PATH
    return (
        f"{key}: the socket unit with FileDescriptorName={name} listens at {endpoint}, and the "
        f"config does not: change {key} in {file}, or ListenStream= of that unit "
        "(systemctl edit --full zqueue.socket, then restart it), or disable it"
    )
