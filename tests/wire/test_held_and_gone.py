"""Clients that are held back, send and leave: what the kernel has of them is read all the same."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from tests.conftest import StartZqueued
from tests.test_steering import assert_idle
from tests.waiting import wait_for
from tests.wire.exchange import (
    DRAIN,
    FORWARD,
    HOLD,
    Driven,
    assert_nothing_is_left,
    client,
    worker,
)
from tests.wire.raw import RawPeer, message
from tests.zqueued import Zqueued
from zqueue.engine.wire.exchange import Exchange

SIZE = len(message([b"0000", b"", b"0000"]))


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b"%04d" % number for number in range(first, first + count)]


def requests(count: int, first: int = 0) -> bytes:
    return b"".join(message([name, b"", name]) for name in numbered(count, first))


class Kernel:
    """What has come from a peer and may not be read yet; then its end."""

    def __init__(self, peer: Driven, data: bytes) -> None:
        self.peer = peer
        self._data = bytearray(data)

    def read_on(self) -> None:
        """As far as the exchange will, in pieces that cut messages."""
        while self._data and not self.peer.exchange.held_back(self.peer.number):
            piece = bytes(self._data[: 3 * SIZE + 1])
            del self._data[: len(piece)]
            self.peer.feed(piece)

    def read(self) -> None:
        """As far as the exchange will; where all is read it has left."""
        if self.peer.is_there:
            self.read_on()
        held = self.peer.is_there and self.peer.exchange.held_back(self.peer.number)
        if not self._data and self.peer.is_there and not held:
            self.peer.close()


def held_and_gone(exchange: Exchange, count: int, **how: Any) -> Kernel:
    """A client that was held back when it left, and has sent so many requests."""
    asker = client(exchange, **how)
    kernel = Kernel(asker, requests(count))
    kernel.read_on()
    assert exchange.held_back(asker.number)
    exchange.hang_up(asker.number)
    return kernel


def serve_all(serving: Driven, *kernels: Kernel) -> list[bytes]:
    """What it had to answer, as long as there is something, in that order."""
    served: list[bytes] = []
    while True:
        for kernel in kernels:
            kernel.read()
        asked = serving.hear()
        if not asked:
            return served
        for request in asked:
            serving.answer(request)
            served.append(request[-1])


# -- without sockets -----------------------------------------------------------------------------


@pytest.mark.parametrize("bound", ["max_waiting", "client_waiting"])
@pytest.mark.parametrize("type", ["DEALER", "ROUTER"])
def test_with_keep_for_gone_clients_all_of_it_is_done(bound: str, type: str) -> None:
    exchange = Exchange(keep_for_gone_clients=True, prefetch=1, **{bound: 3})
    exchange.steer(HOLD)
    kernel = held_and_gone(exchange, 100, type=type)
    assert (exchange.counters["received"], exchange.counters["withdrawn"]) == (3, 0)
    exchange.steer(FORWARD)
    assert serve_all(worker(exchange), kernel) == numbered(100)
    assert not kernel.peer.is_there
    assert (exchange.counters["received"], exchange.counters["unclaimed"]) == (100, 100)
    assert_nothing_is_left(exchange)


def test_without_it_all_is_received_and_withdrawn_at_once() -> None:
    exchange = Exchange(max_waiting=3)
    exchange.steer(HOLD)
    kernel = held_and_gone(exchange, 100)
    other = client(exchange)
    other.send(b"", b"other")
    kernel.read()
    assert not kernel.peer.is_there
    assert (exchange.counters["received"], exchange.counters["withdrawn"]) == (101, 100)
    assert exchange.counters["waiting"] == 1
    assert_nothing_is_left(exchange)


def test_what_is_already_at_a_worker_is_finished_and_unclaimed() -> None:
    exchange = Exchange(max_waiting=3, prefetch=1)
    serving = worker(exchange)
    kernel = held_and_gone(exchange, 100)
    kernel.read()
    assert exchange.counters["withdrawn"] == 99
    assert serve_all(serving) == [b"0000"]
    assert exchange.counters["unclaimed"] == 1
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("answered_before", [False, True])
def test_who_comes_back_in_time_gets_all_of_it(answered_before: bool) -> None:
    exchange = Exchange(client_grace=60, max_waiting=3, prefetch=1)
    exchange.steer(HOLD)
    kernel = held_and_gone(exchange, 50, identity=b"me")
    exchange.steer(FORWARD)
    serving = worker(exchange)
    served: list[bytes] = []
    if answered_before:
        served = serve_all(serving, kernel)
        assert exchange.counters["kept"] == 50
    back = client(exchange, identity=b"me")
    more = Kernel(back, requests(5, first=50))
    if exchange.held_back(back.number):
        assert not answered_before, "what it sent before comes first"
    served += serve_all(serving, kernel) if not answered_before else []
    while len(served) < 55:
        more.read_on()
        served += serve_all(serving, kernel)
    assert served == numbered(55)
    assert [frames[-1] for frames in back.hear()] == numbered(55)
    assert exchange.counters["replied"] == 55
    assert_nothing_is_left(exchange)


def test_who_does_not_come_back_in_time_has_what_is_left_withdrawn() -> None:
    exchange = Exchange(client_grace=60, max_waiting=3)
    exchange.steer(HOLD)
    kernel = held_and_gone(exchange, 50, identity=b"me")
    kernel.read()
    assert exchange.counters["received"] == 3
    exchange.advance(60)
    kernel.read()
    assert (exchange.counters["received"], exchange.counters["withdrawn"]) == (50, 50)
    assert not kernel.peer.is_there
    assert_nothing_is_left(exchange)


def test_a_req_is_not_waited_for_and_its_routing_id_is_free() -> None:
    exchange = Exchange(client_grace=60, max_waiting=1)
    exchange.steer(HOLD)
    client(exchange).send(b"", b"fills it")
    asker = client(exchange, "REQ", identity=b"me")
    assert exchange.held_back(asker.number)
    exchange.hang_up(asker.number)
    again = client(exchange, "REQ", identity=b"me")
    asker.send(b"", b"x")
    asker.close()
    assert again.is_there
    assert exchange.counters["withdrawn"] == 1
    assert_nothing_is_left(exchange)


def test_another_may_take_its_routing_id_while_it_is_still_read() -> None:
    exchange = Exchange(keep_for_gone_clients=True, max_waiting=3, prefetch=1)
    exchange.steer(HOLD)
    kernel = held_and_gone(exchange, 20, identity=b"me")
    another = client(exchange, identity=b"me")
    assert another.is_there, "the one before it has left"
    exchange.steer(FORWARD)
    assert serve_all(worker(exchange), kernel) == numbered(20)
    assert [frames[-1] for frames in another.hear()] == numbered(20), "as with a ROUTER"
    assert_nothing_is_left(exchange)


def test_what_one_sent_whose_routing_id_is_taken_over_is_read() -> None:
    exchange = Exchange(handover=True, client_grace=60, max_waiting=3, prefetch=1)
    exchange.steer(HOLD)
    asker = client(exchange, identity=b"me")
    with contextlib.suppress(BlockingIOError):
        asker.feed(requests(20))
    back = client(exchange, identity=b"me")
    exchange.steer(FORWARD)
    assert serve_all(worker(exchange)) == numbered(20)
    assert not asker.is_there
    assert [frames[-1] for frames in back.hear()] == numbered(20)
    assert_nothing_is_left(exchange)


def test_whose_routing_id_was_taken_over_ends_once_it_is_read_also_in_another_process() -> None:
    how: dict[str, Any] = {"handover": True, "client_grace": 60, "client_waiting": 1}
    before = Exchange(**how)
    asker = client(before, identity=b"me")
    asker.feed(message([b"", b"one"]) + message([b"", b"two"]))
    taking = client(before, identity=b"me")
    exchange = Exchange(**how)
    exchange.now = before.now
    exchange.restore(before.snapshot())
    assert exchange.peers == [asker.number, taking.number]
    serving = worker(exchange)
    for name in (b"one", b"two"):
        (request,) = serving.hear()
        assert request[-1] == name
        serving.answer(request)
    assert exchange.peers == [taking.number, serving.number]
    assert_nothing_is_left(exchange)


def test_who_is_held_back_and_has_sent_nothing_ends_when_its_routing_id_is_taken_over() -> None:
    exchange = Exchange(handover=True, client_grace=60)
    exchange.steer(DRAIN)
    silent = client(exchange, identity=b"me")
    assert exchange.held_back(silent.number)
    back = client(exchange, identity=b"me")
    assert not silent.is_there
    exchange.steer(FORWARD)
    back.feed(requests(2))
    assert serve_all(worker(exchange)) == numbered(2)
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("how", [{"keep_for_gone_clients": True}, {"client_grace": 60}])
def test_it_may_come_and_go_many_times(how: dict[str, Any]) -> None:
    exchange = Exchange(max_waiting=2, prefetch=1, **how)
    exchange.steer(HOLD)
    client(exchange, identity=b"fills it").send(b"", b"first")
    client(exchange, identity=b"as well").send(b"", b"second")
    kernels = []
    for turn in range(5):
        asker = client(exchange, identity=b"me")
        assert asker.is_there
        kernels.append(Kernel(asker, requests(10, first=10 * turn)))
        assert exchange.held_back(asker.number)
        exchange.hang_up(asker.number)
    exchange.steer(FORWARD)
    served = serve_all(worker(exchange), *kernels)
    assert sorted(served) == sorted([*numbered(50), b"first", b"second"])
    if "client_grace" in how:
        assert served[2:] == numbered(50), "in the order in which it was sent"
    assert not any(kernel.peer.is_there for kernel in kernels)
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize(
    "how", [{}, {"keep_for_gone_clients": True}, {"client_grace": 60.0}], ids=str
)
def test_another_process_may_go_on_with_it(how: dict[str, Any]) -> None:
    settings = {"max_waiting": 3, "prefetch": 1, **how}
    old = Exchange(**settings)
    old.steer(HOLD)
    kernel = held_and_gone(old, 50, identity=b"me")
    new = Exchange(**settings)
    new.steer(HOLD)
    new.now = old.now
    new.restore(old.snapshot())
    assert new.snapshot() == old.snapshot()
    kernel.peer.exchange = new
    new.steer(FORWARD)
    served = serve_all(worker(new), kernel)
    assert served == (numbered(50) if how else [])
    assert new.counters["received"] == 50
    assert_nothing_is_left(new)


def test_while_a_queue_drains_nothing_of_it_is_taken() -> None:
    exchange = Exchange(keep_for_gone_clients=True, max_waiting=3)
    exchange.steer(HOLD)
    kernel = held_and_gone(exchange, 50)
    exchange.steer(DRAIN)
    serving = worker(exchange)
    assert serve_all(serving, kernel) == numbered(3)
    exchange.steer(FORWARD)
    assert serve_all(serving, kernel) == numbered(50)[3:]
    assert_nothing_is_left(exchange)


# -- with sockets --------------------------------------------------------------------------------


def config(transport: str, *settings: str) -> str:
    endpoint = "tcp://127.0.0.1:*" if transport == "tcp" else "ipc://*"
    return (
        f'[queues.default]\nfrontend = "{endpoint}"\nbackend = "{endpoint}"\n'
        "max_waiting = 100\nprefetch = 1\n" + "\n".join(settings) + "\n"
    )


def sent_and_closed(zqueued: Zqueued, count: int, *, reset: bool = False, id: bytes = b"") -> None:
    asker = RawPeer(zqueued.frontend(), "DEALER", identity=id)
    asker.say(requests(count))
    wait_for(lambda: zqueued.queue().waiting == 100)
    if reset:
        asker.reset()
    else:
        asker.close()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_3000_of_3000_are_done(transport: str, start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(config(transport, "keep_for_gone_clients = true"))
    sent_and_closed(zqueued, 3000)
    assert_idle(zqueued)
    with RawPeer(zqueued.backend(), "REP") as serving:
        assert serving.serve(3000) == numbered(3000)
        wait_for(lambda: zqueued.queue().clients.connected == 0)
    found = zqueued.queue()
    assert found.ends is not None
    assert (found.requests.messages, found.ends.unclaimed) == (3000, 3000)


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_3000_of_3000_are_withdrawn(transport: str, start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(config(transport))
    with RawPeer(zqueued.frontend(), "DEALER") as other:
        sent_and_closed(zqueued, 3000)
        other.send(b"", b"mine")
        wait_for(lambda: zqueued.queue().clients.connected == 1)
        wait_for(lambda: zqueued.queue().waiting == 1)
        found = zqueued.queue()
        assert found.ends is not None
        assert (found.requests.messages, found.ends.withdrawn) == (3001, 3000)


def test_what_came_before_a_reset_is_done_too(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(config("tcp", "keep_for_gone_clients = true"))
    sent_and_closed(zqueued, 3000, reset=True)
    with RawPeer(zqueued.backend(), "REP") as serving:
        assert serving.serve(3000) == numbered(3000)
        wait_for(lambda: zqueued.queue().clients.connected == 0)


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
@pytest.mark.parametrize("reset", [False, True])
def test_who_is_held_back_and_has_sent_nothing_more_is_gone_at_once(
    transport: str, reset: bool, start_zqueued: StartZqueued
) -> None:
    """It needs no room, for there is nothing to read."""
    zqueued = start_zqueued(config(transport, "keep_for_gone_clients = true"))
    with RawPeer(zqueued.frontend(), "DEALER") as other:
        asker = RawPeer(zqueued.frontend(), "DEALER")
        asker.say(requests(100))
        wait_for(lambda: zqueued.queue().waiting == 100)
        other.send(b"", b"held back")
        if reset:
            asker.reset()
        else:
            asker.close()
        wait_for(lambda: zqueued.queue().clients.connected == 1)
        assert zqueued.queue().waiting == 100


def test_one_that_comes_back_gets_all_replies(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(config("tcp", 'client_grace = "1h"'))
    sent_and_closed(zqueued, 1000, id=b"me")
    with (
        RawPeer(zqueued.backend(), "REP") as serving,
        RawPeer(zqueued.frontend(), "DEALER", identity=b"me") as back,
    ):
        back.say(requests(10, first=1000))
        assert serving.serve(1010) == numbered(1010)
        assert [back.receive()[-1] for _ in range(1010)] == numbered(1010)


def test_who_goes_on_sending_after_its_routing_id_was_taken_over(
    start_zqueued: StartZqueued,
) -> None:
    """Only what had come by then is read: it might go on for ever."""
    zqueued = start_zqueued(
        config("tcp", 'duplicate_id = "handover"', "keep_for_gone_clients = true")
    )
    with RawPeer(zqueued.frontend(), "DEALER", identity=b"me") as flood:
        flood.say(requests(5000))
        wait_for(lambda: zqueued.queue().waiting == 100)
        with (
            RawPeer(zqueued.frontend(), "DEALER", identity=b"me"),
            RawPeer(zqueued.backend(), "DEALER") as serving,
        ):
            flood.socket.setblocking(False)
            serving.socket.settimeout(0.1)
            while not zqueued.events("peer.disconnected"):
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    flood.socket.send(requests(500))
                with contextlib.suppress(TimeoutError):
                    serving.serve(100)
        [event] = zqueued.events("peer.disconnected", id=1)
        assert event["reason"] == "another client took over its routing id"


def test_a_worker_that_answers_and_closes_at_once_is_heard(
    start_zqueued: StartZqueued,
) -> None:
    """All that the kernel has of its replies is read before what it had goes to another."""
    zqueued = start_zqueued(config("tcp").replace("prefetch = 1", "prefetch = 2000"))
    with RawPeer(zqueued.frontend(), "DEALER") as asker:
        serving = RawPeer(zqueued.backend(), "DEALER")
        for first in range(0, 2000, 50):
            asker.say(requests(50, first))
        got = [serving.receive() for _ in range(2000)]
        serving.say(b"".join(message(frames) for frames in got))
        serving.close()
        assert [asker.receive()[-1] for _ in range(2000)] == numbered(2000)
        with RawPeer(zqueued.backend(), "DEALER") as another:
            asker.send(b"", b"last")
            assert another.serve(1) == [b"last"]
    assert zqueued.events("request.returned") == []
