"""``duplicate_id = "refuse"``: who comes with a routing id that another connection has."""

from __future__ import annotations

import socket
import threading

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.peers import Peers
from tests.waiting import DEADLINE, wait_for
from tests.wire.exchange import assert_nothing_is_left, client, worker
from tests.wire.raw import Gone, RawPeer, frame, greeting, hello, message, ready
from tests.wire.test_snapshot import handed_over
from tests.zqueued import Zqueued
from zqueue.engine.wire.exchange import Exchange

MARK = 1_000_000_000


def comes(exchange: Exchange, identity: bytes, *more: bytes) -> int:
    """A client's connection that has said all that it may; its number."""
    number = exchange.connect(0)
    exchange.feed(number, hello("DEALER", (3, 1), identity) + b"".join(more))
    return number


def has_ready(exchange: Exchange, number: int) -> bool:
    return b"READY" in exchange.output(number)


# -- without sockets -----------------------------------------------------------------------------


def test_it_hears_no_ready_before_its_own_is_judged() -> None:
    exchange = Exchange()
    said = hello("DEALER", (3, 1), b"me")
    number = exchange.connect(0)
    exchange.feed(number, said[:70])
    assert not has_ready(exchange, number)
    exchange.feed(number, said[70:])
    assert has_ready(exchange, number)
    assert_nothing_is_left(exchange)


def test_one_that_waits_for_ours_gets_it_after_a_while() -> None:
    exchange = Exchange()
    number = exchange.connect(0)
    exchange.feed(number, greeting())
    assert not has_ready(exchange, number)
    exchange.advance(1)
    assert has_ready(exchange, number)
    exchange.feed(number, ready("DEALER", b"me") + message([b"", b"x"]))
    assert not has_ready(exchange, number), "once"
    assert exchange.counters["waiting"] == 1
    assert_nothing_is_left(exchange)


def test_who_comes_while_the_holder_is_there_is_closed_without_a_word() -> None:
    exchange = Exchange()
    holder = client(exchange, identity=b"me")
    second = comes(exchange, b"me")
    exchange.advance(0.049)
    assert not has_ready(exchange, second)
    assert second in exchange.peers
    exchange.advance(0.02)
    assert second not in exchange.peers
    assert holder.is_there
    assert exchange.counters["turned_away"] == [1, 0]
    assert_nothing_is_left(exchange)


def test_who_comes_just_before_the_holder_leaves_gets_its_place() -> None:
    exchange = Exchange()
    holder = client(exchange, identity=b"me")
    second = comes(exchange, b"me", message([b"", b"asked at once"]))
    assert exchange.counters["received"] == 0
    exchange.advance(0.03)
    holder.close()
    exchange.advance(0.03)
    assert has_ready(exchange, second)
    [request] = worker(exchange).hear()
    assert request[-1] == b"asked at once"
    assert_nothing_is_left(exchange)


def test_of_several_that_wait_the_first_gets_it() -> None:
    exchange = Exchange()
    holder = client(exchange, identity=b"me")
    several = [comes(exchange, b"me") for _ in range(3)]
    holder.close()
    exchange.advance(0.1)
    assert len([each for each in several if each in exchange.peers]) == 1
    exchange.advance(0.1)
    assert len(exchange.peers) == 1
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("reachable", [True, False])
def test_a_holder_that_cannot_be_reached_loses_its_place(reachable: bool) -> None:
    """It was cut off, and nobody has said so: its kernel does not acknowledge a PING."""
    exchange = Exchange(client_grace=60)
    holder = client(exchange, identity=b"me")
    holder.send(b"", b"x")
    exchange.advance(1)
    exchange.moved(holder.number, 100, 0 if reachable else 9, edge=65536)
    second = comes(exchange, b"me")
    assert exchange.output(holder.number).endswith(b"\x04PING\0\0")
    exchange.advance(0.5)
    assert (second in exchange.peers) is not reachable
    for _ in range(20):
        exchange.advance(0.1)
    assert has_ready(exchange, second) if not reachable else holder.is_there
    if not reachable:
        serving = worker(exchange)
        [request] = serving.hear()
        serving.answer(request)
        assert exchange.output(second) == message([b"", b"x"])
    assert_nothing_is_left(exchange)


def test_one_that_waits_may_leave() -> None:
    exchange = Exchange()
    holder = client(exchange, identity=b"me")
    second = comes(exchange, b"me", message([b"", b"x"]))
    third = comes(exchange, b"me")
    exchange.close(second)
    exchange.hang_up(third)
    exchange.advance(1)
    assert exchange.peers == [holder.number]
    assert_nothing_is_left(exchange)


def test_one_that_waits_goes_on_in_the_next_process() -> None:
    old = Exchange()
    holder = client(old, identity=b"me")
    second = comes(old, b"me", message([b"", b"asked at once"]))
    new = handed_over(old, holder)
    holder.close()
    new.advance(0.1)
    assert has_ready(new, second)
    assert new.counters["received"] == 1
    assert_nothing_is_left(new)
    assert_nothing_is_left(old)


def test_nobody_may_take_a_routing_id_of_those_that_are_made() -> None:
    exchange = Exchange()
    client(exchange)
    for made in (b"\0\0\0\0\1", b"\0\0\0\0\x02", b"\0abcd"):
        number = exchange.connect(0)
        exchange.feed(number, hello("DEALER", (3, 1), made))
        assert number not in exchange.peers
    assert exchange.counters["turned_away"] == [3, 0]
    assert client(exchange, identity=b"\0abc").is_there, "as libzmq's ROUTER takes it"
    assert_nothing_is_left(exchange)


# -- with sockets --------------------------------------------------------------------------------


def test_what_is_told_of_one(zqueued: Zqueued) -> None:
    for identity, reason in (
        (b"\0abcd", "its routing id is of those that zqueued makes"),
        (bytes(256), "its routing id is longer than 255 bytes"),
    ):
        with RawPeer(zqueued.frontend(), "DEALER", identity=identity) as peer:
            assert peer.farewell() == reason
            assert zqueued.wait_event("peer.rejected", peer=peer.name)["reason"] == reason
    with RawPeer(zqueued.frontend(), "DEALER", shake=False) as old:
        old.say(greeting((2, 0), type="DEALER") + frame(bytes(256)))
        with pytest.raises(Gone):
            old.heard_hello() and old.frame()
        event = zqueued.wait_event("peer.rejected", peer=old.name)
        assert event["reason"] == "its routing id is longer than 255 bytes"


def test_a_connection_that_has_ended_keeps_nobody_out(zqueued: Zqueued) -> None:
    """All of it in one turn: the end of the one, and all that the other says."""
    with RawPeer(zqueued.backend(), "REP") as serving:
        holder = RawPeer(zqueued.frontend(), "DEALER", identity=b"me")
        for number in range(30):
            with RawPeer(zqueued.frontend(), "DEALER", shake=False) as following:
                following.say(hello("DEALER", (3, 1), b"me") + message([b"", b"%d" % number]))
                holder.close()
                following.heard_hello()
                assert serving.serve(1) == [b"%d" % number]
                assert following.receive()[-1] == b"%d" % number
                holder = following
                following.socket = following.socket.dup()
        holder.close()
    assert zqueued.events("peer.duplicate_id") == []


def test_lazy_pirates_with_a_routing_id_of_their_own(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    """Each opens another REQ under the same routing id for each request; none hangs."""
    zqueued = start_zqueued(
        '[queues.default]\nfrontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'
    )
    frontend = zqueued.frontend()
    peers.worker(zqueued.backend(), "w")
    hung: list[int] = []
    done: list[int] = []

    def pirate(context: zmq.Context[zmq.Socket[bytes]], number: int) -> None:
        for turn in range(3):
            with context.socket(zmq.REQ) as req:
                req.linger = 0
                req.routing_id = b"pirate %d" % number
                req.connect(frontend)
                req.send(b"%d/%d" % (number, turn))
                if req.poll(round(DEADLINE * 1000)):
                    req.recv()
                else:
                    hung.append(number)
        done.append(number)

    with zmq.Context() as context:
        context.set(zmq.MAX_SOCKETS, 2000)
        crew = [threading.Thread(target=pirate, args=(context, each)) for each in range(150)]
        for each in crew:
            each.start()
        for each in crew:
            each.join(4 * DEADLINE)
    assert (hung, len(done)) == ([], 150)


def test_a_second_one_waits_with_its_request_until_the_first_leaves(
    zqueued: Zqueued, peers: Peers
) -> None:
    """libzmq keeps what it has to ask, for it never got READY, and comes back by itself."""
    holder = RawPeer(zqueued.frontend(), "DEALER", identity=b"me")
    with zmq.Context() as context, context.socket(zmq.REQ) as req:
        req.linger = 0
        req.routing_id = b"me"
        req.connect(zqueued.frontend())
        req.send(b"patient")
        peers.worker(zqueued.backend(), "w")
        wait_for(lambda: len(zqueued.events("peer.duplicate_id")) > 2)
        holder.socket.shutdown(socket.SHUT_RDWR)
        holder.close()
        assert req.poll(round(DEADLINE * 1000))
        assert req.recv() == b"w:patient"
