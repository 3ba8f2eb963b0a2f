"""Brokers that are clients and workers of each other: no request goes round."""

from __future__ import annotations

import contextlib

import pytest

from tests.conftest import StartZqueued
from tests.peers import Peers
from tests.test_doctor import finds
from tests.waiting import wait_for
from tests.wire.exchange import assert_nothing_is_left, bodies, client, worker
from tests.wire.raw import RawPeer
from tests.zqueued import Zqueued, free_port
from zqueue.engine.wire.exchange import Exchange

ANOTHER = [(b"X-Zqueued", b"another")]


def config(own: int, *others: int, more: str = "") -> str:
    """A broker whose frontend is a worker of the others."""
    connect = ", ".join(f'"tcp://127.0.0.1:{port}"' for port in others)
    return f"""
[queues.default]
engine = "wire"
frontend = {{ bind = "tcp://127.0.0.1:*", connect = [{connect}], reconnect = "50ms" }}
backend = "tcp://127.0.0.1:{own}"
{more}
"""


def start_ring(start_zqueued: StartZqueued, size: int, more: str = "") -> list[Zqueued]:
    """Each is the next one's worker, and the last the first one's."""
    ports = [free_port() for _ in range(size)]
    brokers = [
        start_zqueued(config(ports[n], ports[(n + 1) % size], more=more)) for n in range(size)
    ]
    wait_for(lambda: all(each.queue().workers.connected for each in brokers))
    wait_for(lambda: all(each.queue().clients.connected for each in brokers))
    return brokers


@pytest.mark.parametrize("size", [2, 3])
def test_a_request_that_no_worker_takes_does_not_go_round(
    start_zqueued: StartZqueued, peers: Peers, size: int
) -> None:
    brokers = start_ring(start_zqueued, size)
    first = brokers[0]
    with contextlib.ExitStack() as stack:
        asker = stack.enter_context(RawPeer(first.frontend(), "DEALER", identity=b"me"))
        for number in range(5):
            asker.send(b"%d" % number, b"", b"a request")
        received = [each.queue().requests.messages for each in brokers]

        def have_settled() -> bool:
            nonlocal received
            before, received = received, [each.queue().requests.messages for each in brokers]
            waiting = sum(each.queue().waiting or 0 for each in brokers)
            return before == received and waiting == 5

        wait_for(have_settled)
        assert sum(received) <= 2 * 5
        # Wherever they wait, a worker there has them answered, and whatever else is asked.
        for each in brokers:
            peers.worker(each.backend())
        replies = sorted(asker.receive() for _ in range(5))
        assert replies == [[b"%d" % n, b"", b"w:a request"] for n in range(5)]
        wait_for(lambda: not any(each.queue().waiting for each in brokers))
        wait_for(lambda: not any(each.queue().in_flight for each in brokers))


def test_what_has_a_deadline_dies_of_it(start_zqueued: StartZqueued) -> None:
    more = 'deadline = "300ms"\nerror_reply = "died of {reason}"'
    brokers = start_ring(start_zqueued, 2, more)
    with RawPeer(brokers[0].frontend(), "DEALER") as asker:
        assert asker.ask(b"a request") == b"died of deadline"
    wait_for(lambda: all(each.queue().waiting == 0 for each in brokers))


def test_the_operator_is_told(start_zqueued: StartZqueued) -> None:
    brokers = start_ring(start_zqueued, 2)
    for each in brokers:
        each.wait_event("queue.broker_loop")
        finds(each, "are each other's worker", "warn", "default")
    with RawPeer(brokers[0].frontend(), "DEALER") as asker:
        asker.send(b"", b"a request")
        wait_for(lambda: brokers[1].queue().waiting == 1)
        finds(brokers[1], "of other zqueueds wait: each worker here is a zqueued", "bad", "default")
        assert brokers[1].upgrade().returncode == 0
        finds(brokers[1], "are each other's worker", "warn", "default")
        with RawPeer(brokers[1].backend(), "REP") as serving:
            assert serving.serve(1, b"served") == [b"a request"]
            assert asker.receive() == [b"", b"served"]


def test_what_came_from_a_broker_holds_up_nothing_behind_it() -> None:
    exchange = Exchange()
    broker = client(exchange, metadata=ANOTHER)
    asker = client(exchange)
    next_one = worker(exchange, "ROUTER", metadata=ANOTHER)
    broker.send(b"1", b"", b"from a broker")
    asker.send(b"2", b"", b"from a client")
    asker.send(b"without an envelope")
    broker.send(b"from a broker, without an envelope")
    assert bodies(next_one.hear()) == [b"from a client", b"without an envelope"]
    assert exchange.counters["waiting"] == 2
    other = worker(exchange, "DEALER")
    assert bodies(other.hear()) == [b"from a broker", b"from a broker, without an envelope"]
    assert_nothing_is_left(exchange)


def test_what_came_from_a_broker_keeps_its_age_when_it_is_returned() -> None:
    exchange = Exchange(max_attempts=0, prefetch=1)
    broker, asker = client(exchange, metadata=ANOTHER), client(exchange)
    lost = worker(exchange)
    broker.send(b"1", b"", b"1")
    asker.send(b"2", b"", b"2")
    assert bodies(lost.hear()) == [b"1"]
    lost.close()
    next_one = worker(exchange, "ROUTER", metadata=ANOTHER)
    assert bodies(next_one.hear()) == [b"2"]
    asker.send(b"3", b"", b"3")
    taken_up = Exchange(max_attempts=0, prefetch=1)
    taken_up.now = exchange.now
    taken_up.restore(exchange.snapshot())
    last = worker(taken_up)
    assert bodies(last.hear()) == [b"1"]
    assert_nothing_is_left(exchange)
    assert_nothing_is_left(taken_up)


@pytest.mark.parametrize("id", [b"", b"x" * 33, b"a b", b"\x1b[31m", bytes(8)])
def test_what_is_no_name_of_a_broker_is_passed_over(id: bytes) -> None:
    exchange = Exchange()
    asker = client(exchange, metadata=[(b"X-Zqueued", id)])
    next_one = worker(exchange, "ROUTER", metadata=ANOTHER)
    asker.send(b"", b"a request")
    assert bodies(next_one.hear()) == [b"a request"]
