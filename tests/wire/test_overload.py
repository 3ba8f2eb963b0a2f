"""More requests than the queue may hold: ``when_full``."""

from __future__ import annotations

from typing import Any

import pytest
import zmq

from tests.conftest import StartZqueued
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
from tests.wire.raw import message
from tests.wire.test_routing import ends
from zqueue.engine.wire.exchange import Exchange

Context = zmq.Context[zmq.Socket[bytes]]
MARKED = [[b"died of ", "reason", b" after ", "attempts"]]
"""An ``error_reply`` as an exchange takes it."""


def full(**settings: Any) -> tuple[Exchange, Driven]:
    """A queue in which 1 and 2 wait, as many as may, and the client that asked for them."""
    exchange = Exchange(max_waiting=2, error_reply=MARKED, **settings)
    asker = client(exchange)
    for name in (b"1", b"2"):
        asker.send(name, b"", b"x")
    return exchange, asker


def test_hold_reads_no_more_and_drops_nothing() -> None:
    exchange, asker = full(when_full="hold", prefetch=1)
    assert exchange.held_back(asker.number)
    serving = worker(exchange)
    assert not exchange.held_back(asker.number)
    asker.send(b"3", b"", b"x")
    for name in (b"1", b"2", b"3"):
        [request] = serving.hear()
        assert request[1] == name
        serving.answer(request)
    assert len(asker.hear()) == 3
    assert_nothing_is_left(exchange)


def test_reject_answers_the_new_one_at_once() -> None:
    exchange, asker = full(when_full="reject")
    other = client(exchange, "REQ")
    other.send(b"", b"x")
    assert other.hear() == [[b"", b"died of queue_full after 0"]]
    asker.send(b"3", b"", b"x")
    assert asker.hear() == [[b"3", b"", b"died of queue_full after 0"]]
    assert exchange.counters["rejected"] == 2
    assert exchange.counters["dead"] == 0
    assert exchange.deaths() == [], "a rejected request is no dead one"
    serving = worker(exchange)
    other.send(b"", b"again")
    assert other.hear() == [], "there is room again, and it waits"
    assert len(serving.hear()) == 1
    assert_nothing_is_left(exchange)


def test_oldest_dies_and_the_new_one_waits() -> None:
    exchange, asker = full(when_full="oldest")
    client(exchange).send(b"3", b"", b"x")
    assert asker.hear() == [[b"1", b"", b"died of queue_full after 0"]]
    assert exchange.counters["waiting"] == 2
    [death] = exchange.deaths()
    assert (death["number"], death["cause"]) == (1, "queue_full")
    serving = worker(exchange, "DEALER")
    assert [frames[1] for frames in serving.hear()] == [b"2", b"3"]
    assert_nothing_is_left(exchange)


def test_oldest_is_told_by_age_also_with_and_without_an_envelope() -> None:
    exchange = Exchange(max_waiting=2, when_full="oldest", error_reply=MARKED)
    asker = client(exchange)
    asker.send(b"odd")
    asker.send(b"2", b"", b"x")
    asker.send(b"3", b"", b"x")
    assert asker.hear() == [[b"died of queue_full after 0"]]
    asker.send(b"odd")
    assert asker.hear() == [[b"2", b"", b"died of queue_full after 0"]]
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("when_full", ["reject", "oldest"])
def test_bytes_count_as_well_also_those_of_one_client(when_full: str) -> None:
    exchange = Exchange(max_waiting_bytes=1000, when_full=when_full, error_reply=MARKED)
    asker = client(exchange)
    for name in (b"1", b"2", b"3"):
        assert not exchange.held_back(asker.number)
        asker.send(name, b"", bytes(600))
    [told] = asker.hear()
    assert told[0] == (b"3" if when_full == "reject" else b"1")
    assert exchange.counters["waiting"] == 2
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("when_full", ["reject", "oldest"])
def test_one_that_is_too_large_for_the_queue_waits_alone(when_full: str) -> None:
    exchange = Exchange(max_waiting_bytes=1000, when_full=when_full)
    asker = client(exchange)
    asker.send(b"", bytes(5000))
    assert exchange.counters["waiting"] == 1
    assert len(worker(exchange).hear()) == 1
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("when_full", ["reject", "oldest"])
def test_what_comes_in_one_piece_is_not_refused_while_workers_are_idle(when_full: str) -> None:
    exchange = Exchange(max_waiting=1, when_full=when_full, prefetch=1)
    asker = client(exchange)
    workers = [worker(exchange) for _ in range(5)]
    asker.feed(b"".join(message([b"%d" % number, b"", b"x"]) for number in range(6)))
    assert [len(each.hear()) for each in workers] == [1] * 5
    assert exchange.counters["waiting"] == 1
    assert exchange.counters["rejected"] == exchange.counters["dead"] == 0
    assert_nothing_is_left(exchange)


def test_nor_for_one_before_it_that_no_worker_takes() -> None:
    exchange = Exchange(max_waiting=1, when_full="reject", error_reply=MARKED)
    asker, serving = client(exchange), worker(exchange)
    asker.feed(message([b"without an empty frame"]) + message([b"", b"x"]))
    assert len(serving.hear()) == 1
    assert (exchange.counters["malformed"], exchange.counters["rejected"]) == (1, 0)
    assert_nothing_is_left(exchange)


def test_a_paused_queue_that_is_full_rejects_and_a_draining_one_holds() -> None:
    exchange, asker = full(when_full="reject")
    worker(exchange, "DEALER")
    exchange.steer(HOLD)
    for name in (b"3", b"4", b"5"):
        asker.send(name, b"", b"x")
    assert [frames[0] for frames in asker.hear()] == [b"5"]
    exchange.steer(DRAIN)
    assert exchange.held_back(asker.number)
    exchange.steer(FORWARD)
    assert not exchange.held_back(asker.number)
    assert_nothing_is_left(exchange)


# -- a real daemon -------------------------------------------------------------------------------


def test_a_req_is_rejected_and_may_ask_again(start_zqueued: StartZqueued, context: Context) -> None:
    zqueued = start_zqueued("""
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
max_waiting = 1
when_full = "reject"
error_reply = ["try again later: {reason}"]
""")
    first, second, serving = (context.socket(kind) for kind in (zmq.REQ, zmq.REQ, zmq.REP))
    first.connect(zqueued.frontend())
    second.connect(zqueued.frontend())
    first.send(b"first")
    wait_for(lambda: zqueued.queue().waiting == 1)
    for _ in range(3):
        second.send(b"second")
        assert second.recv() == b"try again later: queue_full"
    serving.connect(zqueued.backend())
    assert serving.recv() == b"first"
    serving.send(b"done")
    assert first.recv() == b"done"
    second.send(b"second")
    assert serving.recv() == b"second"
    serving.send(b"done as well")
    assert second.recv() == b"done as well"
    assert (ends(zqueued).rejected, ends(zqueued).replied) == (3, 2)
    assert zqueued.events("request.dead") == []
