"""Talk to a running zqueued from a script; ``zqueuectl`` does nothing else.

::

    from zqueue.control.client import ControlClient

    with ControlClient() as zqueued:
        zqueued.pause("orders", wait=True)
        print(zqueued.status().queues[0].in_flight)
        zqueued.resume("orders")
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Self, TypeVar

import zmq
from pydantic import TypeAdapter, ValidationError

from zqueue.control import location, messages
from zqueue.control.location import Unreachable
from zqueue.control.messages import Message, Steered
from zqueue.errors import ZqueueError

__all__ = ["ControlClient", "Events", "Refused", "Unreachable"]

OnProgress = Callable[[tuple[Steered, ...]], None]
"""Called about twice a second while a drain or a wait goes on."""

_REPLIES: TypeAdapter[messages.Reply] = TypeAdapter(messages.Reply)
_ENDS_AFTER_DRAIN = 15.0
_LONGEST_POLL = 0.5
"""A signal that comes just before a poll is noticed only after it."""

R = TypeVar("R", bound=Message)


class Refused(ZqueueError):
    """The daemon refused or failed; ``code`` is as in :class:`zqueue.control.messages.Error`."""

    exit_code = 1

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Events(Iterator[messages.EventReply]):
    """Events one by one; ``remembered`` tells which of those before are not there any more."""

    def __init__(
        self, remembered: messages.Remembered, replies: Iterator[messages.EventReply]
    ) -> None:
        self.remembered = remembered
        self._replies = replies

    def __next__(self) -> messages.EventReply:
        return next(self._replies)


class _Ended(Unreachable):
    """The daemon has ended in the middle of a request."""


class ControlClient:
    """A connection to the control socket, for one thread. Use it in a ``with``, or close it.

    ``endpoint``: ``ipc://…``; ``None`` looks where a daemon may listen, ``instance`` for the one
    started as ``zqueue@NAME``. ``timeout``: seconds of silence after which the daemon counts as
    unreachable; during a drain or a wait it is heard from twice a second. What only looks, and
    ``pause``, ``resume``, ``start`` and ``terminate``, is asked again of the daemon's successor if
    it ends meanwhile, as at an upgrade or a restart.

    The methods for queues take their names; none means the only queue there is, ``all=True``
    each. What became of them is in the result: its ``ok`` is false if any was not ``done``.

    Raises (the constructor and all methods):
        Unreachable: no daemon answers; the message says why.
        Refused: the daemon cannot do it; the message says why.
    """

    def __init__(
        self, endpoint: str | None = None, *, instance: str | None = None, timeout: float = 5.0
    ) -> None:
        if endpoint is None:
            endpoint = location.find(instance)
        else:
            location.probe(endpoint)
        self.endpoint = endpoint
        self.timeout = timeout
        self._numbers = itertools.count(1)
        self._name = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._connect()

    def _connect(self) -> None:
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.set(zmq.SNDHWM, 0)
        self._socket.set(zmq.RCVHWM, 0)
        # The first connect may find a full backlog. After a DISCONNECTED nothing more is sent: a
        # daemon that is started later must not get what was meant for this one.
        self._socket.set(zmq.RECONNECT_IVL, 50)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            self._socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise Unreachable(f"{self.endpoint}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. What was asked for goes on in the daemon."""
        self._disconnect()
        self._context.term()

    def _disconnect(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)

    # -- to look ---------------------------------------------------------------------------------

    def status(self) -> messages.StatusResult:
        """The daemon, and every queue's state and figures."""
        return self._ask(messages.Status(id=self._next()), messages.StatusResult)

    def config(self) -> messages.ConfigResult:
        """The config in force, and where each value came from."""
        return self._ask(messages.Config(id=self._next()), messages.ConfigResult)

    def version(self) -> messages.VersionResult:
        """Versions and pid of the daemon."""
        return self._ask(messages.Version(id=self._next()), messages.VersionResult)

    def events(
        self,
        queue: str | None = None,
        *,
        level: messages.EventLevel = "debug",
        names: Sequence[str] = (),
        since: float | None = None,
        recent: int | None = None,
        follow: bool = True,
    ) -> Events:
        """The events since ``since`` (seconds since the epoch), the newest ``recent`` of them, or
        with neither none; then with ``follow`` each as it happens, without end.

        Those of one ``queue``, of at least ``level``, of the kinds in ``names`` (``"peer.*"``).
        None is missed that happens after this call has returned.
        """
        request = messages.Events(
            id=self._next(),
            queue=queue,
            level=level,
            names=tuple(names),
            since=since,
            recent=recent,
            follow=follow,
            progress=True,
        )
        self._send(request)
        early: list[messages.EventReply] = []
        for reply in self._replies(request.id, self.timeout):
            if isinstance(reply, messages.EventReply):
                early.append(reply)
            else:
                break
        return Events(self._remembered(reply), self._events(request.id, early, follow))

    def _remembered(self, reply: messages.Reply) -> messages.Remembered:
        remembered = None
        if isinstance(reply, messages.Progress):
            remembered = reply.remembered
        elif isinstance(reply, messages.Result):
            remembered = self._validated(reply, messages.EventsResult).remembered
        if remembered is None:
            raise Unreachable(_foreign(self.endpoint))
        return remembered

    def _events(
        self, identity: str, early: list[messages.EventReply], follow: bool
    ) -> Iterator[messages.EventReply]:
        yield from early
        if follow:
            for reply in self._replies(identity, None):
                if isinstance(reply, messages.EventReply):
                    yield reply

    # -- to steer --------------------------------------------------------------------------------

    def workers(
        self,
        *queues: str,
        filter: Sequence[str] = (),
        sort: str | None = None,
        limit: int | None = None,
    ) -> messages.WorkersResult:
        """The workers of a queue; its name may be left out where it is the only one. Of ``filter``
        and ``sort`` see :class:`zqueue.control.messages.Workers`."""
        return self._list(messages.Workers, messages.WorkersResult, queues, filter, sort, limit)

    def clients(
        self,
        *queues: str,
        filter: Sequence[str] = (),
        sort: str | None = None,
        limit: int | None = None,
    ) -> messages.ClientsResult:
        """The clients of a queue, chosen as with :meth:`workers`."""
        return self._list(messages.Clients, messages.ClientsResult, queues, filter, sort, limit)

    def connections(
        self,
        *queues: str,
        filter: Sequence[str] = (),
        sort: str | None = None,
        limit: int | None = None,
    ) -> messages.ConnectionsResult:
        """The connections of a queue, those that have ended of late among them, chosen as with
        :meth:`workers`."""
        return self._list(
            messages.Connections, messages.ConnectionsResult, queues, filter, sort, limit
        )

    def requests(
        self,
        *queues: str,
        filter: Sequence[str] = (),
        sort: str | None = None,
        limit: int | None = None,
    ) -> messages.RequestsResult:
        """The requests of a queue that wait or are in flight, chosen as with :meth:`workers`."""
        return self._list(messages.Requests, messages.RequestsResult, queues, filter, sort, limit)

    def tap(
        self,
        *queues: str,
        content: int = 256,
        client: str | None = None,
        worker: str | None = None,
        smallest: int | None = None,
        largest: int | None = None,
        took: float | None = None,
        contains: str | None = None,
    ) -> Iterator[messages.TapResult]:
        """The messages that pass through a queue from now on, as far as they are as is asked for;
        see :class:`zqueue.control.messages.Tap`. Without end; at least once a second there is a
        result, also if nothing has passed. It is open once the first has come. What is not read in
        time is left out, and counted as ``dropped``."""
        request = messages.Tap(
            id=self._next(),
            queues=queues,
            tap=self._next(),
            content=content,
            client=client,
            worker=worker,
            smallest=smallest,
            largest=largest,
            took=took,
            contains=contains,
        )
        while True:
            yield self._ask(request, messages.TapResult)
            request = request.model_copy(update={"id": self._next(), "wait": 1.0})

    def _list(
        self,
        kind: Callable[..., messages.ListRequest],
        result: type[R],
        queues: tuple[str, ...],
        filter: Sequence[str],
        sort: str | None,
        limit: int | None,
    ) -> R:
        request = kind(id=self._next(), queues=queues, filter=tuple(filter), sort=sort, limit=limit)
        return self._ask(request, result)

    def kick(self, connection: int, *queues: str) -> messages.SteerResult:
        """End a client's or worker's connection, by its id."""
        request = messages.Kick(id=self._next(), queues=queues, connection=connection)
        return self._ask(request, messages.SteerResult)

    def pause(
        self,
        *queues: str,
        all: bool = False,
        wait: bool = False,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> messages.SteerResult:
        """Let no further request go to a worker; with ``wait`` return when nothing is in flight,
        or after ``timeout`` seconds (``timed_out``), or when somebody resumed (``interrupted``)."""
        request = messages.Pause(
            id=self._next(), queues=queues, all=all, wait=wait, timeout=timeout, progress=wait
        )
        return self._ask(request, messages.SteerResult, on_progress)

    def resume(self, *queues: str, all: bool = False) -> messages.SteerResult:
        """Let requests pass again; ends a drain."""
        request = messages.Resume(id=self._next(), queues=queues, all=all)
        return self._ask(request, messages.SteerResult)

    def drain(
        self,
        *queues: str,
        all: bool = False,
        then: Literal["pause", "terminate"] = "pause",
        timeout: float | None = None,
        worker: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> messages.SteerResult:
        """Take no new request, finish what is in flight; return when that is done, or its time is
        up (``timeout`` seconds, else the queue's ``drain_timeout``). With ``worker``, the id of one
        of the queue's, only that one finishes what it has, and gets no more."""
        request = messages.Drain(
            id=self._next(),
            queues=queues,
            all=all,
            then=then,
            timeout=timeout,
            worker=worker,
            progress=True,
        )
        return self._ask(request, messages.SteerResult, on_progress)

    def terminate(self, *queues: str, all: bool = False) -> messages.SteerResult:
        """Stop queues now."""
        request = messages.Terminate(id=self._next(), queues=queues, all=all)
        return self._ask(request, messages.SteerResult)

    def start(self, *queues: str, all: bool = False) -> messages.SteerResult:
        """Start queues that are stopped or failed."""
        request = messages.Start(id=self._next(), queues=queues, all=all)
        return self._ask(request, messages.SteerResult)

    # -- dead letters ----------------------------------------------------------------------------

    def dead_list(
        self,
        *queues: str,
        reasons: Sequence[messages.Reason] = (),
        since: float | None = None,
        last: int | None = None,
        content: bool = False,
    ) -> Iterator[messages.DeadLetter]:
        """The dead letters of some queues, or of every one, queue by queue, the oldest first:
        those that died of one of ``reasons``, if any are named, and not before ``since`` (seconds
        since the epoch); with ``last`` the newest of each queue.

        They are asked for while they are read. With ``content`` each has all that is in it, which
        :func:`zqueue.control.letters.frames` takes apart; that is for those who may steer.
        """
        for queue in queues or [each.name for each in self.status().queues]:
            request: messages.DeadList | None = messages.DeadList(
                id=self._next(),
                queue=queue,
                reasons=tuple(reasons),
                since=since,
                last=last,
                content=content,
            )
            while request is not None:
                page = self._ask(request, messages.DeadListResult)
                for letter in page.letters:
                    whole = self._whole(letter) if content else letter
                    if whole is not None:
                        yield whole
                more = {"id": self._next(), "last": None, "after": page.next}
                request = request.model_copy(update=more) if page.next is not None else None

    def dead_show(self, letter: str, *, content: bool = True) -> messages.DeadLetter:
        """One dead letter, by its id, with ``content`` all that is in it."""
        request = messages.DeadList(id=self._next(), letters=(letter,), content=content)
        [found] = self._ask(request, messages.DeadListResult).letters
        whole = self._whole(found) if content else found
        if whole is None:
            raise Refused("unknown_letter", f"there is no dead letter {letter} any more")
        return whole

    def _whole(self, letter: messages.DeadLetter) -> messages.DeadLetter | None:
        """The letter with the rest of its content; ``None`` if it has gone meanwhile."""
        content = bytearray(base64.b64decode(letter.content or ""))
        while len(content) < letter.size:
            request = messages.DeadRead(id=self._next(), letter=letter.id, offset=len(content))
            try:
                piece = self._ask(request, messages.DeadReadResult)
            except Refused as error:
                if error.code == "unknown_letter":
                    return None
                raise
            content += base64.b64decode(piece.data)
        return letter.model_copy(update={"content": base64.b64encode(content).decode()})

    def dead_retry(
        self,
        *letters: str,
        all: bool = False,
        queues: Sequence[str] = (),
        reasons: Sequence[messages.Reason] = (),
        since: float | None = None,
    ) -> messages.DeadSteerResult:
        """Have requests done that had died: those with these ids, or ``all`` that match, of some
        queues or of every one. Each is asked again in its client's name, who gets the reply if it
        is there, and is a dead letter no more."""
        request = messages.DeadRetry(
            id=self._next(),
            letters=letters,
            all=all,
            queues=tuple(queues),
            reasons=tuple(reasons),
            since=since,
            progress=True,
        )
        return self._ask(request, messages.DeadSteerResult)

    def dead_drop(
        self,
        *letters: str,
        all: bool = False,
        queues: Sequence[str] = (),
        reasons: Sequence[messages.Reason] = (),
        since: float | None = None,
    ) -> messages.DeadSteerResult:
        """Throw dead letters away: those with these ids, or ``all`` that match."""
        request = messages.DeadDrop(
            id=self._next(),
            letters=letters,
            all=all,
            queues=tuple(queues),
            reasons=tuple(reasons),
            since=since,
            progress=True,
        )
        return self._ask(request, messages.DeadSteerResult)

    # -- the daemon ------------------------------------------------------------------------------

    def reload(self) -> messages.ReloadResult:
        """Apply the config file's changes; a bad file changes nothing (``Refused``)."""
        request = messages.Reload(id=self._next(), progress=True)
        return self._ask(request, messages.ReloadResult)

    def shutdown(
        self, *, now: bool = False, wait: bool = True, timeout: float | None = None
    ) -> messages.ShutdownResult:
        """End the daemon, draining first unless ``now``; with ``wait``, return when it is gone.

        It is waited for up to ``timeout`` seconds, else for as long as its drain may take.
        """
        request = messages.Shutdown(id=self._next(), now=now)
        result = self._ask(request, messages.ShutdownResult)
        if wait:
            longest = result.drain_timeout + _ENDS_AFTER_DRAIN
            self._wait_for_end(longest if timeout is None else timeout)
        return result

    def upgrade(self) -> messages.UpgradeResult:
        """Have the daemon start the zqueued that is installed now, hand over to it and end. If that
        one will not have it (``Refused``), nothing has changed."""
        return self._ask(messages.Upgrade(id=self._next(), progress=True), messages.UpgradeResult)

    def log_level(
        self, level: Literal["debug", "info", "warning", "error"] | None = None
    ) -> messages.LogLevelResult:
        """Tell the log level, or change it."""
        return self._ask(messages.LogLevel(id=self._next(), level=level), messages.LogLevelResult)

    # -- asking ----------------------------------------------------------------------------------

    def _next(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    def _send(self, request: Message) -> None:
        if self._monitor.poll(0):
            raise _Ended(f"{self.endpoint}: the daemon has ended; connect anew")
        # What has its default is left out: an older daemon may not know it.
        said = request.model_dump(mode="json", exclude_defaults=True)
        always = request.model_dump(include={"v", "id", "verb"})
        self._socket.send(json.dumps(always | said).encode(), zmq.DONTWAIT)

    def _ask(
        self, request: messages.Request, result: type[R], on_progress: OnProgress | None = None
    ) -> R:
        try:
            return self._asked(request, result, on_progress)
        except _Ended as ended:
            if not isinstance(request, messages.MAY_BE_ASKED_AGAIN):
                raise
            try:
                location.probe(self.endpoint)
            except Unreachable:
                raise ended from None
            self._disconnect()
            self._connect()
            return self._asked(request, result, on_progress)

    def _asked(
        self, request: messages.Request, result: type[R], on_progress: OnProgress | None
    ) -> R:
        self._send(request)
        for reply in self._replies(request.id, self.timeout):
            if isinstance(reply, messages.Result):
                return self._validated(reply, result)
            if isinstance(reply, messages.Progress) and on_progress is not None:
                on_progress(reply.queues)
        raise Unreachable(f"{self.endpoint}: the daemon gave no result")

    def _validated(self, reply: messages.Result, result: type[R]) -> R:
        try:
            return result.model_validate(reply.result)
        except ValidationError as error:
            raise Unreachable(_foreign(self.endpoint)) from error

    def _replies(self, identity: str, silence: float | None) -> Iterator[messages.Reply]:
        """The replies to one request, to its end; an error among them is raised."""
        while True:
            reply = self._receive(silence)
            if isinstance(reply, messages.Error) and reply.id in (identity, None):
                raise Refused(reply.code, reply.message)
            if reply.id == identity:
                yield reply
                if isinstance(reply, messages.Result):
                    return

    def _receive(self, silence: float | None) -> messages.Reply:
        deadline = None if silence is None else time.monotonic() + silence
        while True:
            left = _LONGEST_POLL if deadline is None else max(0.0, deadline - time.monotonic())
            ready = dict(self._poller.poll(int(min(left, _LONGEST_POLL) * 1000)))
            if self._socket in ready:
                reply = self._read(self._socket.recv_multipart()[-1])
                if reply is not None:
                    return reply
            if self._monitor in ready:
                raise _Ended(f"{self.endpoint}: the daemon ended before it answered")
            if not ready and left <= 0:
                raise Unreachable(
                    f"{self.endpoint}: no answer within {silence:g} s; "
                    "the daemon is there but stopped or overloaded"
                )

    def _read(self, frame: bytes) -> messages.Reply | None:
        """The reply; ``None`` if it is of a kind that only newer callers know."""
        try:
            return _REPLIES.validate_json(frame)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False, include_context=False)
            if any(each["type"] == "union_tag_invalid" for each in problems):
                return None
            raise Unreachable(_foreign(self.endpoint)) from error

    def _wait_for_end(self, within: float) -> None:
        if not self._monitor.poll(int(within * 1000)):
            raise Unreachable(
                f"{self.endpoint}: still there {within:g} s after it began to shut down"
            )


def _foreign(endpoint: str) -> str:
    return (
        f"{endpoint}: what answers there speaks another protocol; "
        f"this zqueuectl speaks version {messages.PROTOCOL_VERSION}"
    )
