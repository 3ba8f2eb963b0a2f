"""The wire engine: one queue's data path of our own, in a thread that holds no GIL.

The data path tells by notices what happened; here they become reports. Its counters are exact.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import zmq

from zqueue.descriptors import Budget
from zqueue.engine import (
    LATENCY_BOUNDS,
    Attempt,
    Connection,
    ConnectionCounts,
    DeadRequest,
    Died,
    Ends,
    Incidents,
    Latency,
    OpenRequest,
    Plan,
    Report,
    Side,
    Snapshot,
    SocketOptions,
    Statistics,
    Tapped,
    Traffic,
)
from zqueue.engine.capture import CapturePublisher
from zqueue.engine.wire.addresses import Address
from zqueue.engine.wire.datapath import DataPath
from zqueue.engine.wire.histogram import bucket_bounds
from zqueue.engine.wire.reports import CONNECT_RETRIED, report
from zqueue.threads import name_this_thread

_MODES = {"forward": 0, "hold": 1, "drain": 2}
_SIDES = (Side.FRONTEND, Side.BACKEND)
_NUDGED_EVERY = 1.0
_ANSWERS_WITHIN = 2.0
_CLOSE_WITHIN = 5.0
_LONGEST_FLUSH = 2.0
_ALL_BYTES = 2**63
_ANY_NUMBER = 1 << 62
_BOTH_SIDES = -1
_CAPTURED_A_TURN = 500
_ORDERS_WITHIN = 0.5
_FREEZE_WITHIN = 5.0
_A_TURN = 0.0002
_NO_LIMIT = 0x7FFFFFFF
_ENDS = tuple(each.name for each in dataclasses.fields(Ends))
_INCIDENTS = tuple(each.name for each in dataclasses.fields(Incidents))


class WireEngine:
    """One queue on zqueue's own data path. See :class:`zqueue.engine.Engine` for the methods."""

    name = "wire"
    because = ""
    not_promised: tuple[str, ...] = ()

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._path = _data_path(plan)
        self._thread = self._new_thread()
        self._frozen = False
        self._mode = "forward"
        self._failure: str | None = None
        self._nudged_at = time.monotonic()
        self._lost_notices = 0
        self._submitted: int | None = None
        self._tap: int | None = None
        self._tap_allowed: int | None = None
        self._captured: deque[dict[str, Any]] = deque(maxlen=_CAPTURED_A_TURN)
        self._queueing: Latency | None = None
        self._service: Latency | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    # -- opening and closing -----------------------------------------------------------------

    def open(self, hold: bool, taken_up: Snapshot | None = None, *, frozen: bool = False) -> None:
        try:
            self._open(hold, taken_up, frozen)
        except BaseException:
            # Left to the garbage collector it would wait for its sockets, and they for it.
            self._context.destroy(linger=0)
            raise

    def _open(self, hold: bool, taken_up: Snapshot | None, frozen: bool) -> None:
        plan = self._plan
        sides = tuple(zip(_SIDES, (plan.frontend, plan.backend), strict=True))
        self._addresses = [
            Address(endpoint, side.options.ipv6) for _, side in sides for endpoint in side.connect
        ]
        self._capture = CapturePublisher(plan.name, plan.capture, self._context)
        if plan.capture is not None:
            self._path.tap(False, 0, False)
        listening = [
            (number, os.dup(listener.fileno()), listener.asked)
            for number, (_, side) in enumerate(sides)
            for listener in side.listeners
        ]
        connecting = [
            (number, endpoint)
            for number, (_, side) in enumerate(sides)
            for endpoint in side.connect
        ]
        self._path.sockets(listening, connecting)
        self._find_addresses()
        self._mode = "hold" if hold else "forward"
        if taken_up is not None:
            try:
                self._path.restore(taken_up.state, taken_up.descriptors)
            except ValueError:
                self._frozen = True
                self.close(0)
                raise
        self._frozen = frozen
        if not frozen:
            self._thread.start()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name=f"zq-{self._plan.name}", daemon=True)

    def freeze(self) -> Snapshot:
        self._path.freeze()
        self._thread.join(_FREEZE_WITHIN)
        if self._thread.is_alive():
            raise TimeoutError("the data path does not answer")
        self._frozen = True
        return Snapshot(*self._path.snapshot())

    def thaw(self) -> None:
        self._frozen = False
        self._thread = self._new_thread()
        self._thread.start()

    def _run(self) -> None:
        name_this_thread(self._thread.name)
        try:
            self._failure = self._path.run(_MODES[self._mode])
        except BaseException as error:  # whatever it is, the queue's thread has to hear of it
            self._failure = f"{type(error).__name__}: {error}"

    def close(self, flush: float) -> int:
        if self._frozen:
            self._path.give_back()
        else:
            self._end(flush)
        self.refresh()  # what was counted since the last tick counts, too
        self._capture.close()
        self._context.destroy(0)
        left = {what: count for what, count in self._path.left_behind.items() if count}
        if left:
            raise RuntimeError(f"the data path ended, but not all of it was given back: {left}")
        return int(self._path.counters["waiting"])

    def _end(self, flush: float) -> None:
        lingers = (self._plan.frontend.options.linger, self._plan.backend.options.linger)
        flush = min(max(flush, *lingers), _LONGEST_FLUSH)
        self._path.close(flush)
        self._thread.join(flush + _CLOSE_WITHIN)
        if self._thread.is_alive():
            raise RuntimeError("the data path does not end")

    # -- steering ----------------------------------------------------------------------------

    def hold(self) -> None:
        self._steer("hold", self._path.hold)

    def drain(self) -> None:
        self._steer("drain", self._path.drain)

    def forward(self) -> None:
        self._steer("forward", self._path.forward)

    def _steer(self, mode: str, order: Callable[[], None]) -> None:
        self._mode = mode
        order()
        # What whoever steers looks at next was counted since. A data path that does not come round
        # is told of elsewhere.
        _wait_for(lambda: not self.settling)

    @property
    def held(self) -> bool:
        return self._mode != "forward" and self._path.mode == _MODES[self._mode]

    @property
    def settling(self) -> bool:
        return self._path.mode != _MODES[self._mode]

    def write_off_orphans(self, reason: str) -> Iterator[Report]:
        yield from ()  # what a worker that left had was given to others

    def connections(self, side: Side | None = None) -> list[Connection]:
        self._path.ask_for_connections(_BOTH_SIDES if side is None else _SIDES.index(side))
        self._until_obeyed()
        return [_connection(row) for row in self._path.connections()]

    def requests(self) -> tuple[list[OpenRequest], int]:
        self._path.ask_for_requests()
        self._until_obeyed()
        rows, in_all = self._path.requests()
        return [_open_request(row) for row in rows], in_all

    def _until_obeyed(self) -> None:
        if not _wait_for(lambda: self._path.obeyed):
            raise TimeoutError("the data path does not answer")

    def drain_worker(self, number: int) -> None:
        self._must_be_connected(number, "worker", Side.BACKEND)
        self._path.drain_worker(number)

    def kick(self, number: int) -> None:
        self._must_be_connected(number, "connection", None)
        self._path.end_peer(number)

    def _must_be_connected(self, number: int, what: str, side: Side | None) -> None:
        there = self.connections(side)
        if not any(each.id == number and each.closed_for is None for each in there):
            raise LookupError(f"there is no {what} {number}")

    def refresh(self) -> None:
        """Its counters are always fresh; here its latencies are, too."""
        self._queueing = _latency(*self._path.queueing)
        self._service = _latency(*self._path.service)

    # -- hearing -----------------------------------------------------------------------------

    def pollables(self) -> Sequence[zmq.Socket[bytes] | int]:
        return [self._path.fileno(), *self._capture.pollables()]

    def reports(self) -> Iterator[Report]:
        for notice in self._path.notices():
            if notice["kind"] == CONNECT_RETRIED:
                self._addresses[notice["number"]].find()
            yield report(notice)
        lost = self._path.notices_lost
        if lost > self._lost_notices:
            yield Report("queue.events_lost", {"events": lost - self._lost_notices})
            self._lost_notices = lost
        for told in self._capture.reports():
            self._switch_tap()
            yield told
        if self._capture.wanted:
            for each in self._path.tapped(_CAPTURED_A_TURN):
                if each["whole"]:
                    self._capture.publish(each["bodies"])
                if self._tap is not None:
                    self._captured.append(each)

    def tap(self, most: int | None) -> None:
        if most is None:
            self._tap_allowed = None
            self._captured.clear()
        self._tap = most
        self._switch_tap()

    def allow_tap(self, exchanges: int | None) -> None:
        self._tap_allowed = exchanges
        if self._capture.wanted or exchanges is None:
            exchanges = _ANY_NUMBER
        self._path.allow_tap(exchanges)

    def _switch_tap(self) -> None:
        captured = self._capture.wanted
        wanted = captured or self._tap is not None
        self._path.tap(wanted, _ALL_BYTES if captured else self._tap or 0, captured)
        self.allow_tap(self._tap_allowed)

    def tapped(self, most: int) -> list[Tapped]:
        since_the_epoch = time.time() - time.monotonic()
        found = [self._captured.popleft() for _ in range(min(most, len(self._captured)))]
        if not self._capture.wanted:
            found += self._path.tapped(most - len(found))
        return [_tapped(each, since_the_epoch) for each in found]

    def skip_tapped(self) -> int:
        return self._path.skip_tapped()

    @property
    def tap_missed(self) -> int:
        return self._path.tap_missed

    def deaths(self) -> list[DeadRequest]:
        died = self._path.deaths()
        if not died:
            return []
        since_the_epoch = time.time() - time.monotonic()
        return [_dead_request(each, since_the_epoch) for each in died]

    def submit(self, client: bytes, frames: Sequence[bytes]) -> None:
        dispatch, counted = self._plan.dispatch, self._path.counters
        if self._submitted is None:
            self._submitted = counted["retried"]
        waiting = counted["waiting"] + self._submitted - counted["retried"]
        if (dispatch.max_waiting and waiting >= dispatch.max_waiting) or (
            dispatch.max_waiting_bytes and counted["waiting_bytes"] >= dispatch.max_waiting_bytes
        ):
            raise BlockingIOError("as much waits as may")
        self._path.submit(client, list(frames))
        self._submitted += 1

    def tick(self) -> Iterator[Report]:
        now = time.monotonic()
        if self._path.obeyed and now - self._nudged_at >= _NUDGED_EVERY:
            self._nudged_at = now
            self._path.nudge()
        self._find_addresses()
        self.refresh()
        yield from ()

    def _find_addresses(self) -> None:
        """Tell the data path of addresses that were found since."""
        for place, address in enumerate(self._addresses):
            found = address.take()
            if found is not None:
                self._path.connect_to(place, found)

    @property
    def busy_for(self) -> float:
        try:
            clock = time.pthread_getcpuclockid(self._thread.ident or 0)
            return time.clock_gettime(clock)
        except OSError:  # it has ended
            return 0.0

    @property
    def responds(self) -> bool:
        return self._path.obeyed or time.monotonic() - self._nudged_at < _ANSWERS_WITHIN

    @property
    def failure(self) -> str | None:
        if self._failure is None and not self._frozen and not self._thread.is_alive():
            self._failure = "the data path ended"
        return self._failure

    # -- figures -----------------------------------------------------------------------------

    @property
    def statistics(self) -> Statistics:
        counted = self._path.counters
        return Statistics(
            requests=Traffic(
                counted["received"], counted["request_frames"], counted["request_bytes"]
            ),
            replies=Traffic(
                counted["reply_messages"], counted["reply_frames"], counted["reply_bytes"]
            ),
            waiting=counted["waiting"],
            in_flight=counted["in_flight"],
            kept=counted["kept"],
            lost=0,
            estimated=False,
            taken_at=time.monotonic(),
            ends=Ends(**{name: counted[name] for name in _ENDS}),
            died=Died(*counted["died"]),
            incidents=Incidents(**{name: counted[name] for name in _INCIDENTS}),
            queueing=self._queueing,
            service=self._service,
        )

    def peers(self) -> dict[Side, int]:
        connected = self._path.counters["connected"]
        return {side: connected[number] for number, side in enumerate(_SIDES)}

    def connection_counts(self) -> dict[Side, ConnectionCounts]:
        counted = self._path.counters
        return {
            side: ConnectionCounts(
                accepted=counted["accepted"][number],
                disconnected=counted["disconnected"][number],
                rejected=counted["turned_away"][number],
            )
            for number, side in enumerate(_SIDES)
        }


def _wait_for(done: Callable[[], bool]) -> bool:
    """Whether the data path came to it in the time that it may take."""
    deadline = time.monotonic() + _ORDERS_WITHIN
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(_A_TURN)
    return True


def _data_path(plan: Plan) -> DataPath:
    dispatch = dict(vars(plan.dispatch))
    largest = plan.frontend.options.max_message_size, plan.backend.options.max_message_size
    path = DataPath(
        client_waiting=plan.frontend.options.high_water_mark,
        client_unsent=dispatch.pop("max_unsent"),
        worker_ahead=plan.backend.options.high_water_mark,
        max_message_size=largest[0] or 0,
        max_reply_size=largest[1] or 0,
        descriptors=Budget().highest,
        first_id=random.getrandbits(32),
        **dispatch,
    )
    for number, side in enumerate((plan.frontend.options, plan.backend.options)):
        heartbeat = side.heartbeat or 0.0
        path.side(
            number,
            handshake_timeout=side.handshake_timeout,
            heartbeat=heartbeat,
            heartbeat_timeout=heartbeat
            if side.heartbeat_timeout is None
            else side.heartbeat_timeout,
            keepalive=_keepalive(side),
            send_buffer=side.send_buffer or 0,
            receive_buffer=side.receive_buffer or 0,
            reconnect=side.reconnect,
            reconnect_max=side.reconnect_max,
        )
    return path


def _connection(row: dict[str, Any]) -> Connection:
    return Connection(
        id=row["number"],
        side=_SIDES[row["side"]],
        peer=row["name"],
        identity=row["id"].hex(),
        type=row["type"],
        zmtp=f"{row['major']}.{row['minor']}" if row["arrived"] else "",
        state=_state(row),
        connected_for=_seconds(row["age"]),
        silent_for=_seconds(row["silent_for"]),
        requests=row["requests"],
        replies=row["replies"],
        waiting=row["waiting"],
        in_flight=row["in_flight"],
        ahead=row["ahead"] or None,
        service=row["service"] / 1e9 or None,
        p50=row["p50"] / 1e9 or None,
        p99=row["p99"] / 1e9 or None,
        received_bytes=row["received_bytes"],
        sent_bytes=row["sent_bytes"],
        unsent_bytes=row["unsent_bytes"],
        closed_for=None if row["closed_for"] is None else _seconds(row["closed_for"]),
        reason=row["reason"],
    )


def _state(
    row: dict[str, Any],
) -> Literal["handshake", "ready", "held", "draining", "aside", "closed"]:
    if row["closed_for"] is not None:
        return "closed"
    if not row["arrived"]:
        return "handshake"
    if row["aside"]:
        return "aside"
    if row["draining"]:
        return "draining"
    return "held" if row["held_back"] else "ready"


def _open_request(row: dict[str, Any]) -> OpenRequest:
    return OpenRequest(
        id=row["number"],
        state="in_flight" if row["worker"] else "waiting",
        age=_seconds(row["age"]),
        state_for=_seconds(row["for"]),
        attempts=row["attempts"],
        size=row["size"],
        client=row["peer"] or None,
        client_peer=row["client_name"],
        client_identity=row["id"].hex(),
        worker=row["worker"] or None,
        worker_peer=row["worker_name"],
    )


def _seconds(nanoseconds: int) -> float:
    return round(nanoseconds / 1e9, 6)


def _tapped(copied: dict[str, Any], since_the_epoch: float) -> Tapped:
    is_reply = bool(copied["way"])
    timed = is_reply and copied["number"]
    return Tapped(
        way="reply" if is_reply else "request",
        number=copied["number"],
        at=round(copied["at"] / 1e9 + since_the_epoch, 6),
        waited=copied["waited"] / 1e9 if timed else None,
        service=copied["service"] / 1e9 if timed else None,
        client=copied["client"] or None,
        client_peer=copied["client_name"],
        identity=copied["bodies"][0],
        worker=copied["worker"] or None,
        worker_peer=copied["worker_name"],
        frames=copied["frames"] - 1,
        sizes=tuple(copied["sizes"][1:]),
        bodies=tuple(copied["bodies"][1:]),
        whole=bool(copied["whole"]),
    )


def _dead_request(died: dict[str, Any], since_the_epoch: float) -> DeadRequest:
    def at(nanoseconds: int) -> float:
        return round(nanoseconds / 1e9 + since_the_epoch, 6)

    return DeadRequest(
        number=died["number"],
        cause=died["cause"],
        received_at=at(died["received_at"]),
        died_at=at(died["died_at"]),
        client=died["client"],
        named=died["named"],
        peer=died["peer"],
        attempts=died["attempts"],
        history=tuple(
            Attempt(
                worker=each["worker"],
                peer=each["peer"],
                given_at=at(each["given_at"]),
                ended_at=at(each["ended_at"]),
                cause=each["cause"],
            )
            for each in died["history"]
        ),
        frames=tuple(died["frames"]),
        envelope=died["frames"].index(b"") + 1 if died["envelope"] else 0,
    )


def _keepalive(side: SocketOptions) -> int:
    if side.tcp_keepalive is None:
        return 0
    return -1 if side.tcp_keepalive is False else max(1, round(side.tcp_keepalive))


@functools.cache
def _step(bucket: int) -> int:
    """The first of ``LATENCY_BOUNDS`` that all of a bucket is within."""
    return bisect.bisect_left(LATENCY_BOUNDS, bucket_bounds(bucket)[1] / 1e9)


def _latency(buckets: Sequence[int], nanoseconds: int) -> Latency | None:
    """The median and the 99th percentile of a histogram, each within a thirty-second of the truth:
    the middle of its bucket; and the counts by larger steps."""
    total = sum(buckets)
    if not total:
        return None
    wanted = [total * 0.5, total * 0.99]
    found: list[float] = []
    seen = 0
    counts = [0] * (len(LATENCY_BOUNDS) + 1)
    for bucket, count in enumerate(buckets):
        if not count:
            continue
        counts[_step(bucket)] += count
        seen += count
        while len(found) < len(wanted) and seen >= wanted[len(found)]:
            least, most = bucket_bounds(bucket)
            found.append((least + most) / 2e9)
    p50, p99 = found
    return Latency(p50, p99, nanoseconds / 1e9, tuple(counts))
