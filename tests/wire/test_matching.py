"""Replies of ROUTER and DEALER workers: which request each is the reply to, also where some are
never answered."""

from __future__ import annotations

import pytest

from tests.wire.exchange import (
    MARKED,
    Driven,
    assert_adds_up,
    assert_nothing_is_left,
    bodies,
    client,
    worker,
)
from zqueue.engine.wire.exchange import Exchange

LOOSE = pytest.mark.parametrize("type", ["DEALER", "ROUTER"])
SECOND = 1_000_000_000


def asks(exchange: Exchange, asker: Driven, serving: Driven, missed: set[int]) -> list[bytes]:
    """What a client hears of ten requests, each asked when the last was answered or has died."""
    for number in range(10):
        asker.send(b"", b"%d" % number)
        [request] = serving.hear()
        if number not in missed:
            exchange.advance(0.1)
            serving.answer(request)
        before = len(asker.got)
        if not asker.hear():
            exchange.advance(5)
            asker.hear()
        assert len(asker.got) == before + 1
    return [frames[-1] for frames in asker.got]


@LOOSE
@pytest.mark.parametrize("asking", ["REQ", "DEALER"])
@pytest.mark.parametrize("missed", [{0}, {3}, {0, 1}, {0, 4, 5}, {9}])
def test_a_missed_answer_costs_its_request_alone(asking: str, type: str, missed: set[int]) -> None:
    exchange = Exchange(deadline=5, error_reply=MARKED)
    asker, serving = client(exchange, asking), worker(exchange, type)
    heard = asks(exchange, asker, serving, missed)
    for number, said in enumerate(heard):
        assert said == (b"died of deadline after 1" if number in missed else b"%d" % number)
    assert exchange.counters["late_replies"] == exchange.counters["extra_replies"] == 0
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("asking", ["REQ", "DEALER"])
@pytest.mark.parametrize("missed", [{0}, {3}, {0, 1}, {0, 4, 5}])
def test_with_a_routing_id_of_its_own_each_costs_one_more_at_most(
    asking: str, missed: set[int]
) -> None:
    """Its worker gets that id, so that replies to equal envelopes look alike."""
    exchange = Exchange(deadline=5, error_reply=MARKED)
    asker, serving = client(exchange, asking, identity=b"me"), worker(exchange, "DEALER")
    heard = asks(exchange, asker, serving, missed)
    answered = [said for said in heard if not said.startswith(b"died")]
    assert len(answered) >= 10 - 2 * len(missed)
    for number, said in enumerate(heard):
        assert said in (b"%d" % number, b"died of deadline after 1")
    assert heard[-1] == b"9"
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("identity", [b"", b"me"])
def test_a_late_reply_is_never_taken_for_the_next_request_s(identity: bytes) -> None:
    exchange = Exchange(deadline=5, error_reply=MARKED)
    asker, slow = client(exchange, "REQ", identity=identity), worker(exchange, "DEALER")
    asker.send(b"", b"one")
    [late] = slow.hear()
    exchange.advance(5)
    asker.send(b"", b"two")
    exchange.advance(1)
    slow.answer(late)
    [request] = slow.hear()
    slow.answer(request)
    assert bodies(asker.hear()) == [b"died of deadline after 1", b"two"]
    assert exchange.counters["late_replies"] == 1
    assert_nothing_is_left(exchange)


def test_a_worker_that_is_late_with_much_is_not_taken_for_one_that_misses() -> None:
    """Each request takes it longer than the deadline, in the order in which they came."""
    exchange = Exchange(deadline=5, error_reply=MARKED)
    askers = [client(exchange, "REQ", identity=b"%d" % number) for number in range(5)]
    slow = worker(exchange, "DEALER")
    backlog: list[list[bytes]] = []
    for turn in range(30):
        for number, asker in enumerate(askers):
            if not turn or asker.hear():
                assert all(said.startswith(b"died") for said in bodies(asker.got))
                asker.send(b"", b"%d of turn %d" % (number, turn))
        backlog += slow.hear()
        exchange.advance(1)
        for _ in range(len(askers) if turn > 6 and turn % 7 == 0 else 0):
            slow.answer(backlog.pop(0))
    assert exchange.counters["replied"] == 0
    assert_nothing_is_left(exchange)


def test_one_who_reconnects_with_its_id_is_not_out_of_step_for_good() -> None:
    """As a Lazy Pirate does, which gives up on its socket and opens another."""
    exchange = Exchange()
    serving = worker(exchange, "DEALER")
    heard = []
    for number in range(10):
        asker = client(exchange, "REQ", identity=b"pirate")
        asker.send(b"", b"%d" % number)
        [request] = serving.hear()
        if number != 2:
            serving.answer(request)
        heard.append(bodies(asker.hear()))
        asker.close()
    assert heard == [[b"%d" % number] if number not in (2, 3) else [] for number in range(10)]
    assert_adds_up(exchange)


@pytest.mark.parametrize("identity", [b"", b"me"])
def test_a_reply_over_another_connection_of_its_worker(identity: bytes) -> None:
    """A DEALER that is connected twice sends on its connections in turn."""
    exchange = Exchange()
    asker = client(exchange, "REQ", identity=identity)
    one, other = worker(exchange, "DEALER"), worker(exchange, "DEALER")
    for number in range(4):
        asker.send(b"", b"%d" % number)
        [request] = one.hear() + other.hear()
        (one if number % 3 else other).answer(request)
        assert bodies(asker.hear()) == [b"%d" % number]
    assert exchange.counters["replied"] == 4
    assert exchange.counters["in_flight"] == exchange.counters["extra_replies"] == 0
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("identity", [b"", b"me"])
def test_a_req_hears_no_second_reply(identity: bytes) -> None:
    exchange = Exchange()
    asker, serving = client(exchange, "REQ", identity=identity), worker(exchange, "DEALER")
    asker.send(b"", b"one")
    [first] = serving.hear()
    serving.answer(first)
    serving.answer(first, b"again")
    assert bodies(asker.hear()) == [b"one"]
    asker.send(b"", b"two")
    [second] = serving.hear()
    if not identity:  # else it may well be the second's
        serving.answer(first, b"and again")
    serving.answer(second)
    assert bodies(asker.hear()) == [b"two"]
    assert exchange.counters["dropped_replies"] == (1 if identity else 2)
    assert_nothing_is_left(exchange)


def test_an_extra_reply_of_a_stream_goes_on_after_its_worker_came_back() -> None:
    exchange = Exchange()
    asker, serving = client(exchange), worker(exchange, "DEALER")
    asker.send(b"", b"one")
    asker.send(b"", b"two")
    one, two = serving.hear()
    serving.answer(one, b"1st part")
    serving.close()
    again, other = worker(exchange, "DEALER"), worker(exchange, "DEALER")
    again.answer(one, b"2nd part")
    again.answer(two, b"too late")
    [request] = again.hear() + other.hear()
    assert request[-1] == b"two"
    assert bodies(asker.hear()) == [b"1st part", b"2nd part"]
    assert (exchange.counters["extra_replies"], exchange.counters["late_replies"]) == (1, 1)
    assert_nothing_is_left(exchange)


def test_all_that_many_lost_workers_had_is_known_when_it_comes_late() -> None:
    exchange = Exchange(max_attempts=0)
    askers = [client(exchange, "DEALER", identity=identity) for identity in (b"", b"me")]
    lost = worker(exchange, "DEALER")
    for number in range(3000):
        askers[number % 2].send(b"", b"%d" % number)
        lost.hear()
    late = lost.got
    lost.close()
    serving = worker(exchange)
    for _ in range(3000):
        [request] = serving.hear()
        serving.answer(request)
    again = worker(exchange, "DEALER")
    for request in late:
        again.answer(request)
    assert exchange.counters["late_replies"] == 3000
    assert sum(len(asker.hear()) for asker in askers) == 3000
    assert_nothing_is_left(exchange)


# -- set aside -----------------------------------------------------------------------------------


@LOOSE
def test_one_unanswered_request_does_not_set_aside_an_idle_worker_for_good(type: str) -> None:
    exchange = Exchange(service_timeout=10, max_attempts=1, error_reply=MARKED)
    asker, serving = client(exchange), worker(exchange, type)
    asker.send(b"0", b"", b"missed")
    serving.hear()
    exchange.advance(10)
    asker.send(b"1", b"", b"next")
    asker.send(b"2", b"", b"after it")
    assert serving.hear() == []
    exchange.advance(10)
    [request] = serving.hear()
    assert request[-1] == b"next", "one alone, to see whether it answers"
    serving.answer(request)
    [request] = serving.hear()
    serving.answer(request)
    assert bodies(asker.hear()) == [b"died of max_attempts after 1", b"next", b"after it"]
    assert_nothing_is_left(exchange)


def test_one_that_hangs_is_tried_with_one_request_each_time() -> None:
    exchange = Exchange(service_timeout=10, max_attempts=0)
    asker, hanging = client(exchange), worker(exchange, "DEALER")
    for number in range(5):
        asker.send(b"%d" % number, b"", b"x")
    assert len(hanging.hear()) == 5
    for _ in range(4):
        exchange.advance(10)
        assert hanging.hear() == []
        exchange.advance(10)
        assert len(hanging.hear()) == 1
    assert exchange.counters["waiting"] == 4
    for request in hanging.got[:]:
        hanging.answer(request)
    while requests := hanging.hear():  # what was late so often comes one by one
        for request in requests:
            hanging.answer(request)
    assert len(asker.hear()) == 5
    assert_nothing_is_left(exchange)


def test_a_deadline_frees_a_dealer_of_what_it_never_answers() -> None:
    """With ``prefetch`` it would else get nothing more once it has missed so many."""
    exchange = Exchange(deadline=5, prefetch=2, error_reply=MARKED)
    asker, serving = client(exchange), worker(exchange, "DEALER")
    for number in range(2):
        asker.send(b"%d" % number, b"", b"missed")
    assert len(serving.hear()) == 2
    exchange.advance(5)
    assert exchange.due == exchange.now + 5 * SECOND
    asker.send(b"2", b"", b"x")
    assert serving.hear() == [], "it may be late with them"
    exchange.advance(4)
    asker.send(b"3", b"", b"y")
    exchange.advance(1)
    [request] = serving.hear()
    assert request[-1] == b"y"
    serving.answer(serving.got[0])
    serving.answer(request)
    assert bodies(asker.hear()) == [b"died of deadline after 1"] * 2 + [
        b"died of deadline after 0",
        b"y",
    ]
    assert exchange.counters["late_replies"] == 1
    assert_nothing_is_left(exchange)
