"""What ROUTER and DEALER workers never answer: it holds up nothing for good."""

from __future__ import annotations

import pytest

from tests.waiting import wait_for
from tests.wire.data_path import data_path
from tests.wire.exchange import (
    DRAIN,
    FORWARD,
    HOLD,
    MARKED,
    assert_adds_up,
    assert_nothing_is_left,
    bodies,
    client,
    worker,
)
from tests.wire.raw import RawPeer
from tests.zqueued import Zqueued
from zqueue.engine.wire.exchange import Exchange

# -- how much of it ------------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["DEALER", "ROUTER"])
@pytest.mark.parametrize("answers", [0, 9])
def test_workers_that_leave_some_out_do_not_stop_the_queue(type: str, answers: int) -> None:
    """However many they are, and however much each of them has left."""
    exchange = Exchange(max_waiting_bytes=1 << 20)
    asker = client(exchange)
    workers = [worker(exchange, type) for _ in range(7)]
    asked = 0
    for turn in range(60):
        for _ in range(70):
            asker.send(b"", bytes(4000))
            asked += 1
        for serving in workers:
            for place, request in enumerate(serving.hear()):
                if answers and place % (answers + 1):
                    serving.answer(request)
        asker.hear()
        assert exchange.counters["waiting"] == 0, turn
        assert_adds_up(exchange)
        assert exchange.counters["in_flight_bytes"] <= 1 << 20
    assert exchange.counters["received"] == asked
    assert exchange.counters["unanswered"] > 0
    late = worker(exchange)
    asker.send(b"", b"x")
    assert bodies(late.hear()) == [b"x"], "a REP that joins gets some"
    assert_nothing_is_left(exchange)


def test_the_oldest_of_all_is_forgotten_first() -> None:
    exchange = Exchange(max_waiting_bytes=8000)
    asker, one, other = client(exchange), worker(exchange, "DEALER"), worker(exchange, "DEALER")
    for number in range(8):
        asker.send(b"%d" % number, b"", bytes(900))
        one.hear(), other.hear()
    assert exchange.counters["unanswered"] == 4
    for request in one.got + other.got:
        (one if request in one.got else other).answer(request)
    assert len(asker.hear()) == 8, "what comes to one that is forgotten still goes to its client"
    assert (exchange.counters["replied"], exchange.counters["extra_replies"]) == (4, 4)
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("identity", [b"", b"me"])
def test_a_req_hears_the_reply_to_what_was_forgotten(identity: bytes) -> None:
    exchange = Exchange(max_waiting_bytes=4000)
    asker = client(exchange, "REQ", identity=identity)
    other = client(exchange)
    serving = worker(exchange, "DEALER")
    asker.send(b"", b"x" * 900)
    for number in range(3):
        other.send(b"%d" % number, b"", bytes(900))
    requests = serving.hear()
    assert exchange.counters["unanswered"] == 2
    serving.answer(requests[0], b"the answer")
    serving.answer(requests[0], b"and another")
    assert bodies(asker.hear()) == [b"the answer"]
    asker.send(b"", b"next")
    serving.answer(serving.hear()[0])
    assert bodies(asker.hear()) == [b"next"]
    assert_nothing_is_left(exchange)


def test_one_large_request_each_may_be_in_work_whatever_the_sum() -> None:
    exchange = Exchange(max_waiting_bytes=3000)
    asker = client(exchange)
    kinds = ["DEALER", "REP", "DEALER", "REP", "ROUTER", "REP"]
    workers = [worker(exchange, kind) for kind in kinds]
    for number in range(6):
        asker.send(b"%d" % number, b"", bytes(2000))
    for serving in workers:
        [request] = serving.hear()
        serving.answer(request)
    assert exchange.counters["replied"] == len(asker.hear()) == 6
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("asking", ["DEALER", "REQ"])
def test_each_of_more_than_ten_thousand_gets_its_error_reply(asking: str) -> None:
    exchange = Exchange(deadline=5, error_reply=MARKED)
    silent = worker(exchange, "DEALER")
    asker = client(exchange)
    for number in range(10_050):
        asker.send(b"%d" % number, b"", b"x")
        if not number % 1000:
            silent.hear()
    silent.hear()
    exchange.advance(5)
    assert {frames[0] for frames in asker.hear()} == {b"%d" % number for number in range(10_050)}
    assert exchange.counters["dead"] == 10_050
    exchange.advance(5)
    asker.send(b"next", b"", b"x")
    assert bodies(silent.hear()) == [b"x"], "and it is not taken to be busy for good"
    assert_nothing_is_left(exchange)


def test_more_than_ten_thousand_that_have_no_end_are_forgotten_the_oldest_first() -> None:
    exchange = Exchange()
    silent, asker = worker(exchange, "DEALER"), client(exchange)
    for number in range(10_050):
        asker.send(b"%d" % number, b"", b"x")
        silent.hear()
    assert (exchange.counters["in_flight"], exchange.counters["unanswered"]) == (10_000, 50)
    silent.answer(silent.got[-1])
    assert exchange.counters["replied"] == 1
    assert_nothing_is_left(exchange)


# -- without an envelope -------------------------------------------------------------------------


def test_what_has_no_envelope_goes_to_who_has_the_least_of_it() -> None:
    exchange = Exchange()
    asker = client(exchange)
    silent, serving = worker(exchange, "DEALER"), worker(exchange, "DEALER")
    for number in range(50):
        asker.send(b"%d" % number)
        silent.hear()
        for request in serving.hear():
            serving.answer(request)
    assert len(silent.got) == 1
    assert exchange.counters["replied"] == len(asker.hear()) == 49
    assert_nothing_is_left(exchange)


def test_what_has_no_envelope_keeps_to_prefetch() -> None:
    exchange = Exchange(prefetch=2)
    asker, serving = client(exchange), worker(exchange, "DEALER")
    for number in range(5):
        asker.send(b"%d" % number)
    assert bodies(serving.hear()) == [b"0", b"1"]
    serving.answer(serving.got[0])
    assert bodies(serving.hear()) == [b"2"]
    exchange.advance(10)
    assert bodies(serving.hear()) == [b"3", b"4"], "it is not waited for without end"
    assert exchange.counters["unanswered"] == 2
    serving.answer(serving.got[1])
    assert bodies(asker.hear()) == [b"0", b"1"]
    assert exchange.counters["extra_replies"] == 1
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("type", ["DEALER", "ROUTER"])
def test_a_drain_waits_until_it_is_sent_and_no_longer(type: str) -> None:
    exchange = Exchange()
    asker, serving = client(exchange), worker(exchange, type)
    for _ in range(3):
        asker.send(b"one way")
    exchange.steer(DRAIN)
    assert exchange.counters["in_flight"] == 3, "its bytes are here yet"
    exchange.output(serving.number, 30)
    assert 0 < exchange.counters["in_flight"] < 3
    exchange.output(serving.number)
    assert (exchange.counters["in_flight"], exchange.counters["unanswered"]) == (0, 3)
    assert_nothing_is_left(exchange)


def test_a_drain_finishes_what_had_been_sent_before() -> None:
    exchange = Exchange()
    asker, serving = client(exchange), worker(exchange, "DEALER")
    asker.send(b"one way")
    asker.send(b"", b"request")
    _, request = serving.hear()
    assert exchange.counters["in_flight"] == 2
    exchange.steer(DRAIN)
    assert exchange.counters["in_flight"] == 1, "the other is waited for"
    serving.answer(request)
    assert exchange.counters["in_flight"] == 0
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("sent", [True, False])
def test_a_drain_of_a_worker_does_not_wait_for_what_may_need_no_answer(sent: bool) -> None:
    with (
        data_path(deadline=0) as (frontend, backend, path),
        RawPeer(backend, "DEALER") as serving,
        RawPeer(frontend, "DEALER") as asker,
    ):
        for _ in range(3):
            asker.send(b"one way")
            assert serving.receive()[-1] == b"one way"
        if sent:
            wait_for(lambda: path.counters["in_flight"] == 3)
        path.drain_worker(1)
        wait_for(lambda: path.counters["unanswered"] == 3)
        assert path.counters["in_flight"] == 0


def test_a_drain_of_a_worker_does_not_wait_for_what_is_over() -> None:
    exchange = Exchange(deadline=5)
    asker, serving = client(exchange), worker(exchange, "DEALER")
    asker.send(b"", b"x")
    serving.hear()
    exchange.advance(5)
    exchange.notices()
    exchange.drain_worker(serving.number)
    assert [number for kind, number, _ in exchange.notices()] == [serving.number]
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("type", ["DEALER", "ROUTER"])
def test_a_probe_of_a_client_is_never_in_flight(type: str) -> None:
    """ZMQ_PROBE_ROUTER: one empty frame as soon as it is connected."""
    exchange = Exchange(prefetch=1)
    serving, asker = worker(exchange, type), client(exchange)
    asker.send(b"")
    assert bodies(serving.hear()) == [b""], "whoever wants to know of it does"
    assert (exchange.counters["in_flight"], exchange.counters["unanswered"]) == (0, 1)
    asker.send(b"", b"x")
    [request] = serving.hear()
    serving.answer(request)
    assert bodies(asker.hear()) == [b"x"]
    asker.send(b"")
    assert exchange.counters["in_flight"] == 1, "later it is a message as any"
    assert_nothing_is_left(exchange)


def test_a_probe_among_reps_alone_is_nothing_to_warn_of() -> None:
    exchange = Exchange()
    worker(exchange)
    asker = client(exchange)
    exchange.notices()
    asker.send(b"")
    assert exchange.notices() == []
    assert exchange.counters["malformed"] == 1
    assert_nothing_is_left(exchange)


def test_a_probe_of_a_worker_is_no_reply_that_is_dropped() -> None:
    exchange = Exchange()
    serving, asker = worker(exchange, "DEALER"), client(exchange)
    exchange.notices()
    serving.send(b"")
    assert exchange.notices() == []
    assert exchange.counters["dropped_replies"] == 0
    asker.send(b"", b"x")
    [request] = serving.hear()
    serving.answer(request)
    assert bodies(asker.hear()) == [b"x"]
    assert_nothing_is_left(exchange)


# -- what nobody can have begun ------------------------------------------------------------------


def lost_unsent(exchange: Exchange, type: str) -> None:
    """A worker is given what waits, and is lost before it was sent."""
    exchange.steer(HOLD)
    lost = worker(exchange, type)
    exchange.steer(FORWARD)
    assert exchange.outstanding(lost.number) == 1
    lost.close()


@pytest.mark.parametrize("type", ["REP", "DEALER"])
def test_what_never_left_here_was_begun_by_nobody(type: str) -> None:
    exchange = Exchange(max_attempts=3)
    asker = client(exchange)
    asker.send(b"", b"x")
    for _ in range(300):
        lost_unsent(exchange, type)
    serving = worker(exchange)
    [request] = serving.hear()
    serving.answer(request)
    assert bodies(asker.hear()) == [b"x"]
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("type", ["REP", "DEALER"])
def test_what_left_counts_beside_what_did_not(type: str) -> None:
    exchange = Exchange(max_attempts=2, error_reply=MARKED)
    asker = client(exchange)
    asker.send(b"", b"x")
    for begun in (False, True, False, False, True):
        if begun:
            worker(exchange, type).close()
        else:
            lost_unsent(exchange, type)
    assert bodies(asker.hear()) == [b"died of max_attempts after 2"]
    assert_nothing_is_left(exchange)


def test_what_a_rep_had_behind_another_was_begun_by_nobody() -> None:
    exchange = Exchange(max_attempts=1, prefetch=2, error_reply=MARKED)
    asker, lost = client(exchange), worker(exchange)
    asker.send(b"1", b"", b"one")
    asker.send(b"2", b"", b"two")
    assert len(lost.hear()) == 2
    lost.close()
    serving = worker(exchange)
    [request] = serving.hear()
    serving.answer(request)
    assert bodies(asker.hear()) == [b"died of max_attempts after 1", b"two"]
    assert_nothing_is_left(exchange)


def test_half_of_a_request_is_not_begun_and_it_is_so_in_the_next_process() -> None:
    exchange = Exchange(max_attempts=1)
    asker, lost = client(exchange), worker(exchange, "DEALER")
    asker.send(b"1", b"", b"one")
    asker.send(b"2", b"", bytes(1000))
    exchange.output(lost.number, 200)
    following = Exchange(max_attempts=1)
    following.now = exchange.now
    following.restore(exchange.snapshot())
    asker.exchange = following
    following.close(lost.number)
    [death] = following.deaths()
    assert death["frames"][0] == b"1"
    assert following.counters["waiting"] == 1
    assert_nothing_is_left(following)


# -- with a daemon -------------------------------------------------------------------------------


def test_a_queue_and_a_worker_are_drained_though_nobody_answers(zqueued: Zqueued) -> None:
    with (
        RawPeer(zqueued.backend(), "DEALER") as serving,
        RawPeer(zqueued.backend(), "ROUTER") as other,
        RawPeer(zqueued.frontend(), "DEALER") as asker,
    ):
        for number in range(4):
            asker.send(b"one way %d" % number)
        for each in (serving, other):
            assert [each.receive()[1][:7] for _ in range(2)] == [b"one way"] * 2
        assert zqueued.queue().in_flight == 4
        with zqueued.client() as control:
            first = min(each.id for each in control.workers().workers)
        done = zqueued.ctl("drain", "--worker", str(first), "--timeout", "20s")
        assert (done.returncode, done.stdout) == (0, "default: drained\n")
        assert zqueued.queue().in_flight == 2
        done = zqueued.ctl("drain", "--timeout", "20s")
        assert (done.returncode, done.stdout) == (0, "default: drained\n")
        assert zqueued.queue().in_flight == 0
        ends = zqueued.queue().ends
        assert ends is not None
        assert ends.unanswered == 4
