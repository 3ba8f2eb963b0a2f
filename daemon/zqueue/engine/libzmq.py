"""The libzmq engine: ``zmq.proxy_steerable`` in a thread of its own.

To libzmq's proxy only words whose meaning was established are ever sent. A hold is a departure from
the proxy, which leaves the sockets as they are; see :mod:`zqueue.engine.proxy_thread` for what
happens meanwhile. The proxy counts frames; its messages, and with them what is in flight, are
estimates: frames divided by how many a message had among those that were seen singly.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import zmq

from zqueue.engine import (
    Connection,
    ConnectionCounts,
    DeadRequest,
    OpenRequest,
    Plan,
    Report,
    Side,
    Snapshot,
    Statistics,
    Tapped,
    Traffic,
)
from zqueue.engine.capture import CaptureRelay
from zqueue.engine.connecting import Connecting
from zqueue.engine.connections import Connections
from zqueue.engine.libzmq_options import socket_options
from zqueue.engine.proxy_thread import (
    FAILED,
    LEFT,
    OVERFLOW_ADDRESS,
    ProxyThread,
    PumpTraffic,
)

_SOCKET_TYPES = {
    "queue": (zmq.ROUTER, zmq.DEALER),
    "forwarder": (zmq.XSUB, zmq.XPUB),
    "streamer": (zmq.PULL, zmq.PUSH),
}
_FRAMES_A_MESSAGE = {"queue": 3, "forwarder": 1, "streamer": 1}
_BLOCKED_AFTER = 0.02
_SPINNING_CPU = 0.01
_HELD_WITHIN = 0.2
_CLOSE_WITHIN = 5.0
_SHORTEST_FLUSH = 1.0
_LONGEST_FLUSH = 2.0
_LOOKED_AT_EVERY = 0.1

_ProxyFigures = tuple[int, int, int, int]
"""Frames and bytes of requests, frames and bytes of replies."""


class LibzmqEngine:
    """One queue on libzmq's own proxy. See :class:`zqueue.engine.Engine` for the methods."""

    name = "libzmq"
    not_promised: tuple[str, ...] = (
        "redelivery",
        "deadlines",
        "dead letters",
        "exact counts",
        "restarts that keep connections",
    )

    def __init__(self, plan: Plan, because: str = "") -> None:
        self._plan = plan
        self.because = because
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._past = (Traffic(), Traffic())
        self._now: _ProxyFigures = (0, 0, 0, 0)
        self._lost = 0
        self._orphans = 0
        self._unsure = False
        self._worker_left_at = 0.0
        self._failure: str | None = None
        self._asked_at: float | None = None
        self._taken_at = 0.0
        self._leaving_since: float | None = None
        self._last_tick: tuple[float, int] | None = None
        self._reported_stuck = False

    # -- opening and closing -----------------------------------------------------------------

    def open(self, hold: bool, taken_up: Snapshot | None = None, *, frozen: bool = False) -> None:
        if taken_up is not None or frozen:
            raise ValueError("the libzmq engine cannot take up connections")
        try:
            self._open(hold)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def _open(self, hold: bool) -> None:
        plan = self._plan
        front_type, back_type = _SOCKET_TYPES[plan.type]
        self._frontend = self._data_socket(front_type, Side.FRONTEND)
        self._backend = self._data_socket(back_type, Side.BACKEND)
        # Subscribers are the many of a forwarder; without its publishers nothing passes.
        many = Side.BACKEND if plan.type == "forwarder" else Side.FRONTEND
        self._connections = {
            side: Connections(side, watched, listeners, many=side == many)
            for side, watched, listeners in (
                (Side.FRONTEND, self._frontend, plan.frontend.listeners),
                (Side.BACKEND, self._backend, plan.backend.listeners),
            )
        }
        self._control, proxy_control = self._pair("inproc://control")
        poke, wake = self._pair("inproc://wake")
        self._capture = CaptureRelay(plan.name, plan.capture, self._context)
        if back_type in (zmq.DEALER, zmq.PUSH):
            self._backend.bind(OVERFLOW_ADDRESS)
        self._connecting = {}
        for name, sock, side in (
            (Side.BACKEND, self._backend, plan.backend),
            (Side.FRONTEND, self._frontend, plan.frontend),
        ):
            self._connecting[name] = Connecting(name, sock, side)
            for listener in side.listeners:
                listener.attach(sock)
        self._thread = ProxyThread(
            plan.name,
            self._frontend,
            self._backend,
            proxy_control,
            (wake, poke),
            answers=plan.type == "queue",
            two_way=plan.type != "streamer",
            holds_senders=plan.type == "streamer",
            frames_a_message=_FRAMES_A_MESSAGE[plan.type],
        )
        self._thread.start(hold)

    def _data_socket(self, kind: int, side: Side) -> zmq.Socket[bytes]:
        sock = self._context.socket(kind)
        for option, value in socket_options(self._plan, side).items():
            sock.setsockopt(option, value)
        return sock

    def _pair(self, address: str) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        ends = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        for end in ends:
            end.set_hwm(0)
            end.linger = 0
        ends[0].bind(address)
        ends[1].connect(address)
        return ends

    def close(self, flush: float, meanwhile: Callable[[], bool] = lambda: True) -> int | None:
        if self._thread.end():
            self._leave()
        deadline = time.monotonic() + _CLOSE_WITHIN
        while not self._thread.join(_BLOCKED_AFTER):
            self._let_out_if_blocked()
            if time.monotonic() > deadline:  # cannot be told apart from a broken libzmq
                raise RuntimeError("libzmq's proxy does not return")
        self._read_control()
        for connections in self._connections.values():
            connections.close()
        self._capture.close()
        began = time.monotonic()
        for sock in (self._frontend, self._backend):
            asked = int(sock.get(zmq.LINGER)) / 1000
            longest = min(max(flush, asked), _LONGEST_FLUSH)
            if self._plan.type == "streamer":
                # Its producers will not send again what they have given away; a client will, and
                # one that does not read must not hold up a restart.
                longest = max(flush, longest)
            sock.linger = math.ceil(longest * 1000)
            sock.close()
        ending = threading.Thread(target=self._context.destroy, name="zq.flush", daemon=True)
        ending.start()
        while ending.is_alive():
            ending.join(_LOOKED_AT_EVERY)
            if not meanwhile() and time.monotonic() - began > _SHORTEST_FLUSH:
                longest = 0.0
                break
        # libzmq says nothing of what it drops then, but is done sooner if it need not.
        flushed = time.monotonic() - began < longest
        if self._plan.type == "forwarder" or (self._plan.type == "streamer" and not flushed):
            return None
        return self._thread.left_over

    # -- steering ----------------------------------------------------------------------------

    def hold(self) -> None:
        if self._thread.hold():
            self._leave()
        # Else what comes just after it was asked for would still go out. A proxy that blocks in a
        # send is let out later; it gives out nothing meanwhile but what it has in its hands.
        deadline = time.monotonic() + _HELD_WITHIN
        while not self._thread.held and (left := deadline - time.monotonic()) > 0:
            self._control.poll(int(left * 1000) + 1)
            self._read_control()

    def drain(self) -> None:
        if self._thread.drain():
            self._leave()

    def forward(self) -> None:
        if self._thread.forward():
            self._leave()

    @property
    def held(self) -> bool:
        return self._thread.held

    @property
    def dry(self) -> bool:
        return self._thread.dry

    @property
    def settling(self) -> bool:
        return self._leaving_since is not None

    def refresh(self) -> None:
        if self._asked_at is None and self._thread.tell_proxy(self._control, b"STATISTICS"):
            self._asked_at = time.monotonic()
        elif not self._thread.inside:
            self._taken_at = time.monotonic()

    def _leave(self) -> None:
        """Make the proxy return, with its last figures first: held, they are exact."""
        if self._leaving_since is None and self._thread.tell_proxy(
            self._control, holding_word(), b"STATISTICS", b"TERMINATE"
        ):
            self._leaving_since = time.monotonic()

    def _let_out_if_blocked(self) -> None:
        """Open a way out for a send that blocks because every worker is full or gone."""
        if self._leaving_since is None:
            return
        if time.monotonic() - self._leaving_since < _BLOCKED_AFTER or not self._thread.inside:
            return
        if self._plan.type == "forwarder":
            return
        overflow = self._context.socket(zmq.DEALER if self._plan.type == "queue" else zmq.PULL)
        overflow.rcvhwm = 0
        overflow.connect(OVERFLOW_ADDRESS)
        self._leaving_since = None
        if self._thread.take_in(overflow):
            self._leave()

    # -- hearing -----------------------------------------------------------------------------

    def pollables(self) -> Sequence[zmq.Socket[bytes]]:
        return (
            self._control,
            *(connections.monitor for connections in self._connections.values()),
            *self._capture.pollables(),
        )

    def reports(self) -> Iterator[Report]:
        self._read_control()
        for side, connections in self._connections.items():
            had = connections.counts.disconnected
            connecting = self._connecting[side]
            for report in connections.reports():
                if report.event == "peer.connect_retried":
                    report.fields["endpoint"] = connecting.asked(report.fields["endpoint"])
                    connecting.retried(report.fields["endpoint"])
                elif report.event == "peer.connected":
                    connections.connects.came_up(connecting.asked(report.fields["peer"]))
                    connecting.came_up(report.fields["peer"])
                yield report
            if side is Side.BACKEND and connections.counts.disconnected > had:
                self._worker_left()
        for report in self._capture.reports():
            if self._thread.capture_to(self._capture.feed):
                self._leave()
            yield report
        self._capture.relay()

    def _read_control(self) -> None:
        while True:
            try:
                message = self._control.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            if len(message) == 8:
                figures = [int.from_bytes(frame, "little") for frame in message]
                self._now = (figures[0], figures[1], figures[4], figures[5])
                self._asked_at = None
                self._taken_at = time.monotonic()
            elif message[0] == LEFT:
                self._past = self._proxied()
                self._now = (0, 0, 0, 0)
                self._asked_at = self._leaving_since = self._last_tick = None
                self._taken_at = time.monotonic()
            elif message[0] == FAILED:
                self._failure = message[1].decode(errors="replace")

    def tick(self) -> Iterator[Report]:
        self._let_out_if_blocked()
        yield from self._write_off_if_bereft()
        for connections in self._connections.values():
            yield from connections.reopen_gates()
        for side, connecting in self._connecting.items():
            connects = self._connections[side].connects
            for endpoint, why in self._connections[side].given_up():
                connecting.given_up(endpoint, why)
            for report in connecting.reports():
                yield connects.failed(side, report.fields["endpoint"], report.fields["error"])
            sock = self._frontend if side is Side.FRONTEND else self._backend
            for move in connecting.moves():
                if self._thread.work_on(functools.partial(move.make, sock)):
                    self._leave()
        if self._thread.inside and self._leaving_since is None and self._is_stuck():
            if self._thread.review():
                self._leave()
        elif not self._thread.inside and not self._thread.stuck:
            # It does not look at requests by itself while nobody may take them.
            self._thread.review()
            self._reported_stuck = False
        elif self._thread.stuck and not self._reported_stuck:
            self._reported_stuck = True
            if self._connections[Side.BACKEND].established:
                yield Report("queue.congested", {"reason": "every worker is full"})
            else:
                yield Report("queue.no_workers")
        elif not self._thread.stuck:
            self._reported_stuck = False
        self.refresh()

    def _is_stuck(self) -> bool:
        """In the proxy, and it either blocks in a send or spins without moving anything."""
        if self._asked_at is not None:
            return time.monotonic() - self._asked_at > _BLOCKED_AFTER
        moved = self._now[0] + self._now[2]
        try:
            cpu = time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))
        except OSError:
            return False
        before, self._last_tick = self._last_tick, (cpu, moved)
        return before is not None and moved == before[1] and cpu - before[0] > _SPINNING_CPU

    def _worker_left(self) -> None:
        """It may have taken requests with it, any number of those that are in flight."""
        self._worker_left_at = time.monotonic()
        self._orphans = self.statistics.in_flight or 0
        self._unsure |= self._plan.type == "streamer" and self.statistics.requests.frames > 0
        self.refresh()

    def _write_off_if_bereft(self) -> Iterator[Report]:
        """Without any worker, nothing that is in flight will be answered."""
        bereft = not self._connections[Side.BACKEND].established
        if bereft and self._orphans and self._taken_at > self._worker_left_at + _BLOCKED_AFTER:
            yield from self.write_off_orphans("the last worker left with requests in flight")

    @property
    def orphans(self) -> int:
        # As others are answered fewer of these can be among what is in flight.
        self._orphans = min(self._orphans, self.statistics.in_flight or 0)
        return self._orphans

    def write_off_orphans(self, reason: str) -> Iterator[Report]:
        orphans, self._orphans = self.orphans, 0
        if orphans and not self._plan.backend.connect:
            self._lost += orphans
            yield Report(
                "queue.requests_lost", {"requests": orphans, "estimated": True, "reason": reason}
            )

    # -- figures -----------------------------------------------------------------------------

    @property
    def statistics(self) -> Statistics:
        thread = self._thread
        proxied_requests, proxied_replies = self._proxied()
        requests = _sum(proxied_requests, thread.requests)
        replies = _sum(proxied_replies, thread.replies)
        in_flight: int | None = None
        lost: int | None = self._lost
        if self._plan.type == "forwarder" or self._unsure:
            # An XPUB drops what is too much for a subscriber, and a PUSH what a worker that leaves
            # has not taken; neither says so.
            lost = None
        if self._plan.type == "queue":
            unanswered = requests.messages - replies.messages - thread.parked
            # What was given up for lost may be answered after all.
            lost = max(0, min(self._lost, unanswered))
            in_flight = max(0, unanswered - lost)
        return Statistics(
            requests=requests,
            replies=replies,
            # What stands in the frontend's own line cannot be counted.
            waiting=None if thread.backlog and (thread.held or thread.stuck) else thread.parked,
            in_flight=in_flight,
            lost=lost,
            taken_at=self._taken_at,
        )

    def _proxied(self) -> tuple[Traffic, Traffic]:
        """Requests and replies that the proxy has moved, the latest stay in it by estimate."""
        frames_in, bytes_in, frames_out, bytes_out = self._now
        requests, replies = self._past
        in_now = round(frames_in / self._thread.request_shape.frames_a_message)
        out_now = round(frames_out / self._thread.reply_shape.frames_a_message)
        return (
            _sum(requests, Traffic(in_now, frames_in, bytes_in)),
            _sum(replies, Traffic(out_now, frames_out, bytes_out)),
        )

    def peers(self) -> dict[Side, int]:
        return {side: connections.established for side, connections in self._connections.items()}

    def connection_counts(self) -> dict[Side, ConnectionCounts]:
        return {side: connections.counts for side, connections in self._connections.items()}

    @property
    def not_connected(self) -> dict[str, str]:
        down: dict[str, str] = {}
        for side, connections in self._connections.items():
            asked = self._connecting[side].asked
            down |= {asked(endpoint): why for endpoint, why in connections.connects.down.items()}
        return down

    def connections(self, side: Side | None = None) -> list[Connection]:
        raise LookupError("the libzmq engine cannot tell connections apart")

    def requests(self) -> tuple[list[OpenRequest], int]:
        raise LookupError("the libzmq engine cannot tell requests apart")

    def tap(self, most: int | None) -> None:
        raise LookupError("the libzmq engine cannot tell whose reply is whose; see capture")

    def allow_tap(self, exchanges: int | None) -> None:
        pass

    def tapped(self, most: int) -> list[Tapped]:
        return []

    def skip_tapped(self) -> int:
        return 0

    @property
    def tap_missed(self) -> int:
        return 0

    @property
    def busy_for(self) -> float:
        return 0.0

    def kick(self, number: int) -> None:
        raise LookupError("the libzmq engine cannot tell connections apart")

    def freeze(self) -> Snapshot:
        raise LookupError("the libzmq engine cannot hand over its connections")

    def thaw(self) -> None:
        """Nothing was frozen."""

    def deaths(self) -> Iterable[DeadRequest]:
        return ()  # it does not know of any

    def submit(self, client: bytes, frames: Sequence[bytes]) -> None:
        raise LookupError("the libzmq engine cannot ask in a client's name")

    def drain_worker(self, number: int) -> None:
        raise LookupError("the libzmq engine cannot tell workers apart")

    @property
    def responds(self) -> bool:
        return True

    @property
    def failure(self) -> str | None:
        if self._failure is None and not self._thread.alive:
            self._failure = "the data thread ended"
        return self._failure


def _sum(one: Traffic, other: Traffic | PumpTraffic) -> Traffic:
    return Traffic(
        one.messages + other.messages, one.frames + other.frames, one.bytes + other.bytes
    )


@functools.cache
def holding_word() -> bytes:
    """The word that makes this libzmq's proxy hold: ``PAUSE``, or ``RESUME`` where they are swapped
    (4.3.5; mended later by libzmq PR#4600). Found by trying, because distributions patch."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets = {
        name: context.socket(kind)
        for name, kind in (
            ("source", zmq.PUSH),
            ("frontend", zmq.PULL),
            ("backend", zmq.PUSH),
            ("sink", zmq.PULL),
            ("steer", zmq.PAIR),
            ("control", zmq.PAIR),
        )
    }
    for one, other in (("source", "frontend"), ("backend", "sink"), ("steer", "control")):
        address = f"inproc://{os.urandom(8).hex()}"
        sockets[one].bind(address)
        sockets[other].connect(address)
    steer = sockets["steer"]
    proxy = threading.Thread(
        target=zmq.proxy_steerable,
        args=(sockets["frontend"], sockets["backend"], None, sockets["control"]),
        daemon=True,
    )
    proxy.start()
    steer.send(b"PAUSE")
    _frames_taken(steer)
    sockets["source"].send(b"probe")
    # Each answer is a turn of the proxy, in which it also takes what is there if it takes any.
    passed = any(_frames_taken(steer) for _ in range(20))
    steer.send(b"TERMINATE")
    proxy.join(5)
    context.destroy(linger=0)
    return b"RESUME" if passed else b"PAUSE"


def _frames_taken(steer: zmq.Socket[bytes]) -> int:
    steer.send(b"STATISTICS")
    while True:
        answer = steer.recv_multipart()
        if len(answer) == 8:
            return int.from_bytes(answer[0], "little")
