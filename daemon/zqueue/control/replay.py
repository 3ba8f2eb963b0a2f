"""Asks again what was recorded, of any endpoint, and compares the replies."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import zmq

from zqueue.control import recording
from zqueue.control.messages import Message, TappedMessage
from zqueue.control.recording import Recording
from zqueue.plurals import counted

_MOST_SOCKETS = 256
_MOST_UNANSWERED = 1000
_MOST_DIFFERENCES = 20
_KEY = struct.Struct(">Q")


class Difference(Message):
    """A reply that is not the recorded one: the first bytes of both, from ``at`` on, in hex.

    ``frame`` is the first that differs, 0 the first behind the envelope's delimiter; ``None``:
    there are more or fewer frames.
    """

    id: int
    frame: int | None
    at: int
    recorded: str
    got: str


class Times(Message):
    """Seconds from a request to its reply: half took at most ``p50``, 99 of 100 ``p99``."""

    p50: float
    p99: float


class ReplayReport(Message):
    """What became of a replay.

    Of the recorded requests ``sent`` were asked again; ``left_out`` were not, as they were not
    recorded whole or have no envelope in which the reply could be told from others. ``same`` and
    ``different`` replies came to those whose reply is in the recording, ``unrecorded`` to others;
    ``unanswered`` got none. ``recorded`` and ``replayed`` are how long replies took, then and now.
    """

    sent: int
    left_out: int
    same: int
    different: int
    unrecorded: int
    unanswered: int
    seconds: float
    recorded: Times | None
    replayed: Times | None
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        return not self.different and not self.unanswered


@dataclass
class _Asked:
    request: TappedMessage
    recorded: TappedMessage | None
    at: float


@dataclass
class _Progress:
    same: int = 0
    different: int = 0
    unrecorded: int = 0
    took: list[float] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)


def replay(
    found: Recording,
    endpoint: str,
    *,
    speed: float | None = 1.0,
    timeout: float = 5.0,
) -> ReplayReport:
    """Ask again at ``endpoint`` what was asked in a recording, ``speed`` times as fast; ``None``:
    as fast as replies come, at most 1,000 under way. It ends when all is answered, or nothing more
    comes for ``timeout`` seconds.

    Each recorded client is a DEALER, at most 256. A request has one more frame in its envelope than
    was recorded, by which its reply is known.

    Raises:
        zmq.ZMQError: the endpoint cannot be connected to.
    """
    requests = [pair for pair in recording.requests(found) if _can_be_asked(pair[0])]
    left_out = sum(1 for _ in recording.requests(found)) - len(requests)
    began = time.monotonic()
    with zmq.Context() as context:
        sockets = _Sockets(context, endpoint)
        try:
            done, unanswered = _run(requests, sockets, speed, timeout)
        finally:
            sockets.close()
    recorded = [_lasted(reply) for _, reply in requests if reply is not None]
    return ReplayReport(
        sent=len(requests),
        left_out=left_out,
        same=done.same,
        different=done.different,
        unrecorded=done.unrecorded,
        unanswered=unanswered,
        seconds=round(time.monotonic() - began, 3),
        recorded=_times(recorded),
        replayed=_times(done.took),
        differences=tuple(done.differences),
    )


class _Sockets:
    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self._context, self._endpoint = context, endpoint
        self._of_clients: list[zmq.Socket[bytes]] = []
        self._places: dict[str, int] = {}
        self._poller = zmq.Poller()
        self.of("")  # an endpoint that cannot be is told of at once

    def of(self, client: str) -> zmq.Socket[bytes]:
        place = self._places.setdefault(client, len(self._places) % _MOST_SOCKETS)
        if place == len(self._of_clients):
            dealer = self._context.socket(zmq.DEALER)
            dealer.linger = 0
            dealer.set_hwm(0)
            dealer.connect(self._endpoint)
            self._poller.register(dealer, zmq.POLLIN)
            self._of_clients.append(dealer)
        return self._of_clients[place]

    def received(self, within: float) -> Iterator[list[bytes]]:
        for readable, _ in self._poller.poll(int(max(0.0, within) * 1000)):
            while True:
                try:
                    yield readable.recv_multipart(zmq.DONTWAIT)
                except zmq.Again:
                    break

    def close(self) -> None:
        for dealer in self._of_clients:
            dealer.close(0)


def _run(
    requests: list[tuple[TappedMessage, TappedMessage | None]],
    sockets: _Sockets,
    speed: float | None,
    timeout: float,
) -> tuple[_Progress, int]:
    done = _Progress()
    open_: dict[int, _Asked] = {}
    began = heard = time.monotonic()
    sent = 0
    while sent < len(requests) or open_:
        now = time.monotonic()
        due = None if sent == len(requests) else _due(requests, sent, began, speed)
        if due is not None and due <= now and len(open_) < _MOST_UNANSWERED:
            request, recorded = requests[sent]
            sockets.of(request.client_identity).send_multipart(
                [_KEY.pack(sent), *recording.bodies(request)]
            )
            open_[sent] = _Asked(request, recorded, now)
            sent += 1
            heard = max(heard, now)
            within = 0.0
        else:
            if open_ and now - heard > timeout and (due is None or len(open_) >= _MOST_UNANSWERED):
                break
            within = 0.1 if due is None or due <= now else min(0.1, due - now)
        for frames in sockets.received(within):
            heard = time.monotonic()
            _hear(frames, open_, done, heard)
    return done, len(open_) + len(requests) - sent


def _due(
    requests: list[tuple[TappedMessage, TappedMessage | None]],
    place: int,
    began: float,
    speed: float | None,
) -> float:
    if speed is None:
        return began
    return began + (requests[place][0].at - requests[0][0].at) / speed


def _hear(frames: list[bytes], open_: dict[int, _Asked], done: _Progress, now: float) -> None:
    if not frames or len(frames[0]) != _KEY.size:
        return  # somebody else's
    asked = open_.pop(_KEY.unpack(frames[0])[0], None)
    if asked is None:
        return
    done.took.append(now - asked.at)
    if asked.recorded is None:
        done.unrecorded += 1
        return
    difference = _difference(asked.request, asked.recorded, frames[1:])
    if difference is None:
        done.same += 1
        return
    done.different += 1
    if len(done.differences) < _MOST_DIFFERENCES:
        done.differences.append(difference)


def _difference(
    request: TappedMessage, recorded: TappedMessage, got: list[bytes]
) -> Difference | None:
    """Where a reply differs from the recorded one, as far as that was recorded."""
    assert request.id is not None
    was, whole = recording.bodies(recorded), recording.is_whole(recorded)
    behind = was.index(b"") + 1 if b"" in was else 0
    for place, (one, other) in enumerate(zip(was, got, strict=False)):
        end = len(one) if one is was[-1] and not whole else max(len(one), len(other))
        if one[:end] != other[:end]:
            at = next(
                (i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
                min(len(one), len(other)),
            )
            shown = slice(at, at + 16)
            return Difference(
                id=request.id,
                frame=place - behind,
                at=at,
                recorded=one[shown].hex(),
                got=other[shown].hex(),
            )
    if recorded.frames != len(got):
        return Difference(
            id=request.id,
            frame=None,
            at=0,
            recorded=counted(recorded.frames, "frame"),
            got=counted(len(got), "frame"),
        )
    return None


def _can_be_asked(request: TappedMessage) -> bool:
    return recording.is_whole(request) and b"" in recording.bodies(request)[:-1]


def _lasted(reply: TappedMessage) -> float:
    return (reply.waited or 0.0) + (reply.service or 0.0)


def _times(took: list[float]) -> Times | None:
    if not took:
        return None
    ordered = sorted(took)
    return Times(
        p50=round(ordered[(len(ordered) - 1) // 2], 6),
        p99=round(ordered[(len(ordered) * 99 - 1) // 100], 6),
    )
