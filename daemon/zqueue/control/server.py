"""The daemon's end of the control socket: reads requests, answers each, publishes events.

Whatever arrives is answered, if only with an error, and nobody waits for anybody else: each request
is a task of its own, and nothing that is sent is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import zmq
from pydantic import TypeAdapter, ValidationError

from zqueue.control import messages
from zqueue.control.followers import Followers
from zqueue.control.messages import MAX_REQUEST_BYTES, PROTOCOL_VERSION, Message, Steered
from zqueue.door import Door
from zqueue.event_filter import event_filter
from zqueue.event_history import EventHistory
from zqueue.events import Event, EventBus
from zqueue.listeners import Listener
from zqueue.loop_socket import LoopSocket
from zqueue.plurals import counted

_REQUESTS: TypeAdapter[messages.Request] = TypeAdapter(messages.Request)
_VERBS = frozenset(
    cls.model_fields["verb"].default
    for cls in vars(messages).values()
    if isinstance(cls, type) and issubclass(cls, Message) and "verb" in cls.model_fields
)
_LONGEST_READ = 64 << 20
_QUEUED_A_CALLER = 1000
_AT_ONCE_A_CALLER = 64
_REFUSALS_TOLD_A_SECOND = 5


class Refusal(Exception):
    """A request that cannot be granted; see :class:`messages.Error` for the codes."""

    def __init__(self, code: str, message: str, *, told: bool = False) -> None:
        """``told``: an event of its own has told of it already."""
        super().__init__(message)
        self.code = code
        self.told = told


@dataclass(frozen=True)
class Caller:
    """Who sent a request: ``str()`` is ``uid/name``, as the kernel vouches for it."""

    uid: int | None
    name: str

    def __str__(self) -> str:
        return f"{self.uid}/{self.name}" if self.uid is not None else self.name


class Handler(Protocol):
    """What does the work; raises :class:`Refusal` where it cannot, or will not for this caller."""

    @property
    def has_left(self) -> bool:
        """True once another process has taken over: what that one can answer is left to it."""

    def permit(self, request: messages.Request, caller: Caller) -> None: ...

    async def handle(
        self,
        request: messages.Request,
        caller: Caller,
        progress: Callable[[tuple[Steered, ...]], None],
    ) -> Message: ...


@dataclass(frozen=True)
class _Return:
    """The way back to a caller: the frames that go before the reply."""

    frames: tuple[bytes, ...]

    @property
    def routing_id(self) -> bytes:
        return self.frames[0]


class ControlServer:
    """Serves the control socket on ``listener`` until its task is cancelled."""

    def __init__(
        self, listener: Listener, handler: Handler, bus: EventBus, history: EventHistory
    ) -> None:
        self._listener = listener
        self._handler = handler
        self._bus = bus
        self._running: Counter[bytes] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._followers = Followers(history)
        self.dropped = 0
        """How many answers their callers did not read."""
        self._refusals = _Refusals(bus)

    async def serve(self) -> None:
        """Answer requests; ends only by being cancelled."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        router = context.socket(zmq.ROUTER)
        router.set(zmq.ROUTER_MANDATORY, 1)
        router.set(zmq.MAXMSGSIZE, _LONGEST_READ)
        router.set(zmq.SNDHWM, _QUEUED_A_CALLER)
        router.set(zmq.RCVHWM, _AT_ONCE_A_CALLER)
        router.set(zmq.HANDSHAKE_IVL, 5000)
        # Whoever looks why clients are kept out has to be let in.
        door = Door(router, self._listener, self._bus.emit, "control", callers=True)
        try:
            self._listener.attach(router)
        except zmq.ZMQError:
            context.destroy(linger=0)
            raise
        self._loop = asyncio.get_running_loop()
        self._socket = LoopSocket(router, self._take)
        unsubscribe = self._bus.subscribe(self._event_happened)
        try:
            await door.watch()
        finally:
            unsubscribe()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._followers.close()
            door.close()
            self._socket.close(500)
            await asyncio.to_thread(context.term)

    # -- requests ----------------------------------------------------------------------------

    def _take(self, frames: list[zmq.Frame]) -> None:
        caller = _caller(frames[0])
        with_delimiter = len(frames) > 1 and len(frames[1]) == 0
        way = _Return((frames[0].bytes, b"") if with_delimiter else (frames[0].bytes,))
        body = frames[len(way.frames) :]
        identity: str | None = None
        verb = ""
        try:
            if len(body) != 1:
                raise Refusal(
                    "malformed",
                    f"a request is one frame of JSON; got {counted(len(body), 'frame')}",
                )
            if len(body[0]) > MAX_REQUEST_BYTES:
                raise Refusal(
                    "malformed",
                    f"{counted(len(body[0]), 'byte')}; a request has at most {MAX_REQUEST_BYTES}",
                )
            raw = _decode(body[0].bytes)
            if isinstance(raw.get("id"), str):
                identity = raw["id"][:128]
            if isinstance(raw.get("verb"), str):
                verb = raw["verb"][:32]
            request = _validate(raw)
            if self._running[way.routing_id] >= _AT_ONCE_A_CALLER:
                raise _busy()
            self._handler.permit(request, caller)
            if self._is_for_successor(request):
                return
        except Refusal as refusal:
            self._refuse(way, caller, identity, verb, refusal)
            return
        if isinstance(request, messages.Events):
            self._follow(way, caller, request)
        elif isinstance(request, messages.Cancel):
            self._cancel(way, request)
        else:
            self._running[way.routing_id] += 1
            task = asyncio.create_task(self._answer(way, caller, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, way: _Return, caller: Caller, request: messages.Request) -> None:
        def progress(queues: tuple[Steered, ...]) -> None:
            if request.progress:
                self._send(way, messages.Progress(id=request.id, queues=queues))

        try:
            result = await self._handler.handle(request, caller, progress)
            if not self._is_for_successor(request):
                self._result(way, request.id, result)
        except Refusal as refusal:
            if not self._is_for_successor(request):
                self._refuse(way, caller, request.id, request.verb, refusal)
        except Exception as error:  # our own mistake: its caller hears of it, nobody else is hurt
            mistake = Refusal("failed", f"{type(error).__name__}: {error}")
            self._refuse(way, caller, request.id, request.verb, mistake)
        finally:
            self._running[way.routing_id] -= 1
            if not self._running[way.routing_id]:
                del self._running[way.routing_id]

    def _is_for_successor(self, request: messages.Request) -> bool:
        return self._handler.has_left and isinstance(request, messages.MAY_BE_ASKED_AGAIN)

    def _result(self, way: _Return, identity: str, result: Message) -> None:
        self._send(way, messages.Result(id=identity, result=result.model_dump(mode="json")))

    def _refuse(
        self, way: _Return, caller: Caller, identity: str | None, verb: str, refusal: Refusal
    ) -> None:
        if not refusal.told:
            self._refusals.tell(str(caller), verb, str(refusal))
        self._send(way, messages.Error(id=identity, code=refusal.code, message=str(refusal)))

    def _send(self, way: _Return, reply: Message) -> None:
        """Send, or drop what the caller does not read."""
        self.dropped += not self._try_to_send(way, reply)

    def _try_to_send(self, way: _Return, reply: Message) -> bool:
        """False if the caller would have to read first.

        Raises:
            zmq.ZMQError: EHOSTUNREACH is swallowed: a caller that left wants no answer.
        """
        try:
            self._socket.send([*way.frames, reply.model_dump_json().encode()])
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._followers.forget(way.routing_id)
        return True

    # -- events --------------------------------------------------------------------------------

    def _follow(self, way: _Return, caller: Caller, request: messages.Events) -> None:
        try:
            wanted = event_filter(request.names, request.level, request.queue)
        except ValueError as error:
            refusal = Refusal("unknown_event", str(error))
            self._refuse(way, caller, request.id, request.verb, refusal)
            return
        if self._followers.of(way.routing_id) >= _AT_ONCE_A_CALLER:
            self._refuse(way, caller, request.id, request.verb, _busy())
            return
        self._followers.add(
            way.routing_id, request, wanted, lambda reply: self._try_to_send(way, reply)
        )

    def _cancel(self, way: _Return, request: messages.Cancel) -> None:
        cancelled = self._followers.cancel(way.routing_id, request.request)
        if cancelled:
            self._result(way, request.request, messages.EventsResult())
        self._result(way, request.id, messages.CancelResult(cancelled=cancelled))

    def _event_happened(self, event: Event) -> None:
        """Called in whatever thread said it."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._followers.tell, event)


class _Refusals:
    """Tells of refused requests, but does not let one caller fill the log with them."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._second = 0
        self._told = 0
        self._untold = 0

    def tell(self, by: str, verb: str, error: str) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._told = second, 0
        if self._told >= _REFUSALS_TOLD_A_SECOND:
            self._untold += 1
            return
        self._told += 1
        more = f" (and {counted(self._untold, 'more refusal')} before it)" if self._untold else ""
        self._untold = 0
        self._bus.emit("control.refused", by=by, verb=verb, error=error + more)


def _busy() -> Refusal:
    return Refusal("busy", f"at most {_AT_ONCE_A_CALLER} requests of a caller at once")


def _decode(body: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(body)
        # An escape such as \\ud800 alone is no text: no answer could repeat it.
        json.dumps(raw, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Refusal("malformed", f"that is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise Refusal("malformed", f"a request is a JSON object; got {type(raw).__name__}")
    return raw


def _validate(raw: dict[str, Any]) -> messages.Request:
    version = raw.get("v")
    if version != PROTOCOL_VERSION or isinstance(version, bool):
        shown = json.dumps(version)[:32] if "v" in raw else "none"
        raise Refusal(
            "version", f"this daemon speaks protocol version {PROTOCOL_VERSION}; got {shown}"
        )
    verb = raw.get("verb")
    if not isinstance(verb, str) or verb not in _VERBS:
        known = ", ".join(sorted(_VERBS))
        raise Refusal("unknown_verb", f"no verb {json.dumps(verb)[:40]}; there are: {known}")
    try:
        return _REQUESTS.validate_python(raw)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'][1:])}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise Refusal("malformed", problems[:1000]) from None


def _caller(frame: zmq.Frame) -> Caller:
    """libzmq gives the address of an ipc peer as ``:uid:gid:pid``, from SO_PEERCRED."""
    import pwd

    try:
        uid = int(str(frame.get("Peer-Address")).split(":")[1])
    except (zmq.ZMQError, LookupError, ValueError):
        return Caller(None, "unknown")
    try:
        return Caller(uid, pwd.getpwuid(uid).pw_name)
    except KeyError:
        return Caller(uid, "?")
