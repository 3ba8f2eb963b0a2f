"""The wire engine: one queue's data path of our own, in a thread that holds no GIL.

The data path tells by notices what happened; here they become reports. Its counters are exact.
"""

from __future__ import annotations

import dataclasses
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import zmq

from zqueue.descriptors import Budget
from zqueue.engine import (
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
from zqueue.engine.connects import Connects
from zqueue.engine.wire.addresses import Address
from zqueue.engine.wire.copies import Copies
from zqueue.engine.wire.datapath import DataPath
from zqueue.engine.wire.latency import latency
from zqueue.engine.wire.records import connection, dead_request, open_request
from zqueue.engine.wire.reports import CONNECT_RETRIED, CONNECTED, REJECTED, report
from zqueue.threads import name_this_thread

_MODES = {"forward": 0, "hold": 1, "drain": 2}
_SIDES = (Side.FRONTEND, Side.BACKEND)
_NUDGED_EVERY = 1.0
_ANSWERS_WITHIN = 2.0
_CLOSE_WITHIN = 5.0
_LONGEST_FLUSH = 2.0
_BOTH_SIDES = -1
_ORDERS_WITHIN = 0.5
_FREEZE_WITHIN = 5.0
_A_TURN = 0.0002
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
        self._connects = Connects()
        self._connecting: list[tuple[Side, str]] = []
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
        self._copies = Copies(self._path, plan.name, plan.capture, self._context)
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
        self._connecting = [(_SIDES[number], endpoint) for number, endpoint in connecting]
        self._path.sockets(listening, connecting)
        self._find_addresses()
        self._mode = "hold" if hold else "forward"
        if taken_up is not None:
            try:
                self._path.restore(taken_up.state, taken_up.descriptors)
            except BaseException:
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
        counted = self._path.counters
        requests = sum(counted[each] for each in ("waiting", "in_flight", "kept"))
        return Snapshot(*self._path.snapshot(), requests)

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

    def close(self, flush: float, meanwhile: Callable[[], bool] = lambda: True) -> int:
        if self._frozen:
            self._path.give_back()
        else:
            self._end(flush)
        self.refresh()  # what was counted since the last tick counts, too
        self._copies.close()
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
        order()
        self._mode = mode
        # What whoever steers looks at next was counted since. A data path that does not come round
        # is told of elsewhere.
        _wait_for(lambda: not self.settling)

    @property
    def held(self) -> bool:
        return self._mode != "forward" and self._path.mode == _MODES[self._mode]

    @property
    def settling(self) -> bool:
        return self._path.mode != _MODES[self._mode]

    @property
    def dry(self) -> bool:
        return True  # its counters say so, exactly

    @property
    def orphans(self) -> int:
        return 0

    def write_off_orphans(self, reason: str) -> Iterator[Report]:
        yield from ()  # what a worker that left had was given to others

    def connections(self, side: Side | None = None) -> list[Connection]:
        self._path.ask_for_connections(_BOTH_SIDES if side is None else _SIDES.index(side))
        self._until_obeyed()
        return [connection(row) for row in self._path.connections()]

    def requests(self) -> tuple[list[OpenRequest], int]:
        self._path.ask_for_requests()
        self._until_obeyed()
        rows, in_all = self._path.requests()
        return [open_request(row) for row in rows], in_all

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
        self._queueing = latency(*self._path.queueing)
        self._service = latency(*self._path.service)

    # -- hearing -----------------------------------------------------------------------------

    def pollables(self) -> Sequence[zmq.Socket[bytes] | int]:
        return [self._path.fileno(), *self._copies.pollables()]

    def reports(self) -> Iterator[Report]:
        for notice in self._path.notices():
            place = notice["number"]
            if notice["kind"] == CONNECT_RETRIED:
                address = self._addresses[place]
                again = f"tried again in {notice['one'] // 1_000_000} ms"
                error = address.error or notice["detail"]
                side, endpoint = self._connecting[place]
                yield self._connects.failed(side, endpoint, error, again)
                address.find()
                continue
            told = report(notice)
            yield told
            yield from self._of_connects(notice, told)
        lost = self._path.notices_lost
        if lost > self._lost_notices:
            yield Report("queue.events_lost", {"events": lost - self._lost_notices})
            self._lost_notices = lost
        yield from self._copies.reports()

    def _of_connects(self, notice: dict[str, Any], told: Report) -> Iterator[Report]:
        """What a connection of ours has come to, which has the name of its endpoint."""
        if not self._connecting or notice["kind"] not in (CONNECTED, REJECTED):
            return
        for side, endpoint in self._connecting:
            if notice["name"] and endpoint.startswith(notice["name"]):
                if notice["kind"] == CONNECTED:
                    self._connects.came_up(endpoint)
                else:
                    yield self._connects.failed(side, endpoint, str(told.fields["reason"]))
                return

    @property
    def not_connected(self) -> dict[str, str]:
        return self._connects.down

    def tap(self, most: int | None) -> None:
        self._copies.tap(most)

    def allow_tap(self, exchanges: int | None) -> None:
        self._copies.allow_tap(exchanges)

    def tapped(self, most: int) -> list[Tapped]:
        return self._copies.tapped(most)

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
        return [dead_request(each, since_the_epoch) for each in died]

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
    most, reserved = plan.dispatch.max_connections, dispatch.pop("reserved_for_workers")
    path = DataPath(
        client_waiting=plan.frontend.options.high_water_mark,
        client_unsent=dispatch.pop("max_unsent"),
        worker_ahead=plan.backend.options.high_water_mark,
        max_message_size=largest[0] or 0,
        max_reply_size=largest[1] or 0,
        descriptors=Budget().highest,
        descriptors_for_clients=Budget(many=True, reserved=reserved).highest,
        reserved_for_workers=reserved or _part(most),
        reserved_for_clients=min(_part(most), most - (reserved or _part(most))),
        first_id=random.getrandbits(32),
        secret=os.urandom(16),
        broker_id=secrets.token_hex(8).encode(),
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
            keepalive_interval=round(side.tcp_keepalive_interval or 0),
            keepalive_count=side.tcp_keepalive_count or 0,
            send_buffer=side.send_buffer or 0,
            receive_buffer=side.receive_buffer or 0,
            reconnect=side.reconnect,
            reconnect_max=side.reconnect_max,
        )
    return path


def _part(connections: int) -> int:
    """How many of them one side may not have all of, unless the config says so: a sixteenth; of few
    four, and of fewer a quarter, of 2 or 3 one."""
    return max(connections // 16, min(4, connections // 4), int(connections > 1))


def _keepalive(side: SocketOptions) -> int:
    if side.tcp_keepalive is None:
        return 0
    return -1 if side.tcp_keepalive is False else max(1, round(side.tcp_keepalive))
