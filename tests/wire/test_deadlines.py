"""Requests that get too old, by ``deadline`` and ``max_waiting_time``, and what is told of them."""

from __future__ import annotations

from tests.waiting import wait_for
from tests.wire.data_path import data_path
from tests.wire.exchange import (
    FORWARD,
    HOLD,
    MARKED,
    assert_nothing_is_left,
    bodies,
    client,
    worker,
)
from tests.wire.raw import RawPeer, message
from zqueue.engine.wire.exchange import Exchange

SECOND = 1_000_000_000


# -- deadline ------------------------------------------------------------------------------------


def test_a_request_that_waits_dies_at_its_deadline_and_not_before() -> None:
    exchange = Exchange(deadline=5, error_reply=MARKED)
    asker = client(exchange, "REQ")
    exchange.advance(1)
    asker.send(b"", b"x")
    assert exchange.due == exchange.now + 5 * SECOND
    exchange.advance(4.999)
    assert asker.hear() == []
    exchange.advance(0.001)
    assert asker.hear() == [[b"", b"died of deadline after 0"]]
    assert worker(exchange).hear() == []
    assert exchange.due == 0
    [death] = exchange.deaths()
    assert (death["cause"], death["attempts"], death["history"]) == ("deadline", 0, [])
    assert death["died_at"] - death["received_at"] == 5 * SECOND
    assert_nothing_is_left(exchange)


def test_the_reply_of_a_worker_that_has_it_is_dropped_and_a_rep_keeps_its_order() -> None:
    exchange = Exchange(deadline=5, prefetch=2, error_reply=MARKED)
    asker, serving = client(exchange), worker(exchange)
    asker.send(b"1", b"", b"x")
    exchange.advance(3)
    asker.send(b"2", b"", b"x")
    [first, second] = serving.hear()
    exchange.advance(2)
    assert asker.hear() == [[b"1", b"", b"died of deadline after 1"]]
    assert exchange.counters["in_flight"] == 1
    serving.answer(first)
    serving.answer(second)
    assert serving.is_there
    assert asker.hear() == [[b"2", b"", b"x"]]
    assert exchange.counters["late_replies"] == exchange.counters["dropped_replies"] == 1
    assert_nothing_is_left(exchange)


def test_until_it_has_answered_a_rep_counts_as_being_at_it() -> None:
    exchange = Exchange(deadline=5, prefetch=1)
    asker, serving = client(exchange), worker(exchange)
    asker.send(b"", b"x")
    [request] = serving.hear()
    exchange.advance(5)
    asker.send(b"", b"y")
    assert serving.hear() == []
    serving.answer(request)
    [request] = serving.hear()
    assert request[-1] == b"y"
    assert_nothing_is_left(exchange)


def test_it_counts_from_its_receipt_whoever_has_had_it() -> None:
    exchange = Exchange(deadline=5, max_attempts=0, error_reply=MARKED)
    asker = client(exchange, "REQ")
    asker.send(b"", b"x")
    for _ in range(2):
        lost = worker(exchange)
        exchange.advance(2)
        lost.close()
    exchange.advance(1)
    assert asker.hear() == [[b"", b"died of deadline after 2"]]
    [death] = exchange.deaths()
    assert [attempt["cause"] for attempt in death["history"]] == ["worker_lost"] * 2
    assert_nothing_is_left(exchange)


def test_it_goes_on_while_the_queue_is_paused() -> None:
    exchange = Exchange(deadline=5, error_reply=MARKED)
    exchange.steer(HOLD)
    asker, _ = client(exchange, "REQ"), worker(exchange)
    asker.send(b"", b"x")
    exchange.advance(5)
    assert asker.hear() == [[b"", b"died of deadline after 0"]]
    exchange.steer(FORWARD)
    assert_nothing_is_left(exchange)


def test_without_an_envelope_there_is_none_once_a_worker_has_it() -> None:
    """Nobody can know whether it is to be answered at all."""
    exchange = Exchange(deadline=5, error_reply=MARKED)
    asker, serving = client(exchange), worker(exchange, "DEALER")
    asker.send(b"one way")
    assert len(serving.hear()) == 1
    assert exchange.due == 0
    serving.close()
    asker.send(b"waits")
    exchange.advance(5)
    assert asker.hear() == [[b"died of deadline after 0"]]
    assert (exchange.counters["dead"], exchange.counters["unanswered"]) == (1, 1)
    assert_nothing_is_left(exchange)


def test_what_its_client_waits_for_no_more_does_not_die_but_is_withdrawn() -> None:
    exchange = Exchange(deadline=5)
    asker, serving = client(exchange), worker(exchange)
    asker.send(b"", b"x")
    [request] = serving.hear()
    asker.close()
    exchange.advance(5)
    assert exchange.deaths() == []
    assert exchange.counters["withdrawn"] == 1
    serving.answer(request)
    assert exchange.counters["late_replies"] == 1
    assert_nothing_is_left(exchange)


def test_of_envelopes_whose_time_is_up_a_dealer_leaves_no_more_behind_than_may_wait() -> None:
    exchange = Exchange(deadline=5, max_waiting_bytes=4000, error_reply=MARKED)
    asker, silent = client(exchange), worker(exchange, "DEALER")
    for number in range(20):
        asker.send(b"%03d" % number + bytes(400), b"", b"x")
        exchange.advance(5)
    assert len(silent.hear()) == len(asker.hear()) == 20
    assert exchange.outstanding(silent.number) <= 4
    silent.answer(silent.got[-1])
    assert exchange.counters["late_replies"] == 1, "the latest are known"
    assert asker.hear() == []
    assert_nothing_is_left(exchange)


def test_nor_does_a_rep_which_gets_nothing_more_meanwhile() -> None:
    exchange = Exchange(deadline=5, max_waiting_bytes=4000, prefetch=50)
    asker, hanging = client(exchange), worker(exchange)
    for number in range(20):
        asker.send(b"%03d" % number + bytes(400), b"", b"x")
        exchange.advance(5)
    assert len(hanging.hear()) == exchange.outstanding(hanging.number) == 3
    asker.send(b"", b"y")
    for request in hanging.got[:3]:
        hanging.answer(request)
    assert exchange.counters["late_replies"] == 3
    assert bodies(hanging.hear()) == [b"y"]
    assert_nothing_is_left(exchange)


# -- max_waiting_time ----------------------------------------------------------------------------


def test_a_request_that_has_waited_too_long_dies() -> None:
    exchange = Exchange(max_waiting_time=5, error_reply=MARKED)
    asker = client(exchange)
    for name in (b"1", b"2", b"3"):
        asker.send(name, b"", b"x")
        exchange.advance(2)
    assert asker.hear() == [[b"1", b"", b"died of max_waiting_time after 0"]]
    assert exchange.due == exchange.now + 1 * SECOND
    serving = worker(exchange)
    [request] = serving.hear()
    exchange.advance(1000)
    assert asker.hear() == [[b"3", b"", b"died of max_waiting_time after 0"]]
    serving.answer(request)
    assert asker.hear() == [[b"2", b"", b"x"]], "how long a worker takes is nothing to it"
    assert_nothing_is_left(exchange)


def test_one_that_comes_back_has_waited_since_it_came_back() -> None:
    exchange = Exchange(max_waiting_time=5, error_reply=MARKED)
    asker, lost = client(exchange), worker(exchange)
    asker.send(b"1", b"", b"x")
    asker.send(b"2", b"", b"x")
    assert lost.hear() != [], "what it never had is no attempt"
    exchange.advance(4)
    lost.close()
    exchange.advance(1)
    assert asker.hear() == [[b"2", b"", b"died of max_waiting_time after 0"]]
    exchange.advance(3.999)
    assert asker.hear() == []
    exchange.advance(0.001)
    assert asker.hear() == [[b"1", b"", b"died of max_waiting_time after 1"]]
    assert_nothing_is_left(exchange)


def test_one_without_an_envelope_is_answered_without_one() -> None:
    exchange = Exchange(max_waiting_time=5, error_reply=MARKED)
    asker = client(exchange)
    asker.send(b"x", b"y")
    exchange.advance(5)
    assert asker.hear() == [[b"died of max_waiting_time after 0"]]
    assert_nothing_is_left(exchange)


def test_who_was_held_goes_on_when_what_waited_has_died() -> None:
    """Without a supervisor that wakes the loop now and then."""
    with (
        data_path(max_waiting=1, max_waiting_time=0.1) as (frontend, _, path),
        RawPeer(frontend, "DEALER") as asker,
    ):
        for _ in range(3):
            asker.send(b"", b"x")
        wait_for(lambda: path.counters["dead"] == 3)


# -- what is told --------------------------------------------------------------------------------


def test_an_error_reply_of_several_frames_behind_the_envelope_as_it_was_written() -> None:
    frames = [[b"E"], [], ["reason"], [b"{", "attempts", b"}", bytes(300)]]
    exchange = Exchange(deadline=5, error_reply=frames)
    asker = client(exchange)
    asker.feed(message([b"a", b"b" * 300, b"", b"x"], long=True))
    exchange.advance(5)
    assert asker.hear() == [[b"a", b"b" * 300, b"", b"E", b"", b"deadline", b"{0}" + bytes(300)]]
    assert exchange.counters["error_replies"] == 1
    assert_nothing_is_left(exchange)


def test_without_error_reply_a_client_hears_nothing() -> None:
    exchange = Exchange(deadline=5)
    asker = client(exchange, "REQ")
    asker.send(b"", b"x")
    exchange.advance(5)
    assert asker.hear() == []
    assert (exchange.counters["dead"], exchange.counters["error_replies"]) == (1, 0)
    assert_nothing_is_left(exchange)


def test_deaths_that_nobody_takes_are_counted_and_bound() -> None:
    exchange = Exchange(deadline=5)
    asker = client(exchange)
    for _ in range(1100):
        asker.send(b"", b"x")
    exchange.advance(5)
    assert exchange.counters["dead"] == 1100
    assert exchange.counters["unrecorded"] == 1100 - 1024
    assert [death["number"] for death in exchange.deaths()] == list(range(1, 1025))
    assert exchange.deaths() == []
    assert_nothing_is_left(exchange)
