"""A worker that is lost, or hangs: what it had goes to others, as ``redeliver`` says, or dies."""

from __future__ import annotations

import random
import select

import pytest

from tests.waiting import DEADLINE
from tests.wire.data_path import data_path
from tests.wire.exchange import MARKED, Driven, ask, assert_nothing_is_left, bodies, client, worker
from tests.wire.raw import RawPeer
from zqueue.engine.wire.exchange import Exchange
from zqueue.engine.wire.reports import WORKER_ANSWERS_AGAIN, WORKER_SET_ASIDE

# -- a worker is lost ----------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["REP", "DEALER", "ROUTER"])
def test_what_it_had_goes_to_others_before_all_that_is_younger(type: str) -> None:
    exchange = Exchange(prefetch=3)
    asker, lost = client(exchange), worker(exchange, type)
    ask(asker, b"1", b"2", b"3", b"4", b"5")
    lost.hear()
    lost.answer(lost.got[0])
    lost.hear()
    lost.close()
    other = worker(exchange, "DEALER")
    assert bodies(other.hear()) == [b"2", b"3", b"4"]
    other.answer(other.got[0])
    assert bodies(other.hear()) == [b"5"]
    assert bodies(asker.hear()) == [b"1", b"2"]
    assert exchange.counters["returned"] == 3
    assert_nothing_is_left(exchange)


def test_it_goes_back_by_its_age_also_if_its_worker_had_it_in_another_order() -> None:
    exchange = Exchange(prefetch=2, max_attempts=0)
    asker = client(exchange)
    one, other = worker(exchange, "DEALER"), worker(exchange, "DEALER")
    ask(asker, b"1", b"2", b"3")
    assert bodies(one.hear()) == [b"1", b"3"]
    assert bodies(other.hear()) == [b"2"]
    other.answer(other.got[0])
    one.close()
    assert bodies(other.hear()) == [b"1", b"3"]
    ask(asker, b"4")
    newest = worker(exchange, "DEALER")
    assert bodies(newest.hear()) == [b"4"]
    other.close()
    assert bodies(newest.hear()) == [b"1"], "after 4, which is younger"
    newest.close()
    last = worker(exchange)
    for name in (b"1", b"3", b"4"):
        [request] = last.hear()
        assert request[-1] == name
        last.answer(request)
    assert_nothing_is_left(exchange)


def test_it_is_given_to_so_many_workers_as_max_attempts_says() -> None:
    exchange = Exchange(max_attempts=3, error_reply=MARKED)
    asker = client(exchange, identity=b"me")
    asker.send(b"tag", b"", b"poison")
    exchange.advance(1)
    numbers = []
    for _ in range(3):
        lost = worker(exchange)
        numbers.append(lost.number)
        assert bodies(lost.hear()) == [b"poison"]
        exchange.advance(2)
        lost.close()
    assert worker(exchange).hear() == []
    assert asker.hear() == [[b"tag", b"", b"died of max_attempts after 3"]]
    [death] = exchange.deaths()
    second = 1_000_000_000
    times = [(1 + (1 + 2 * n) * second, 1 + (3 + 2 * n) * second) for n in range(3)]
    assert death == {
        "number": 1,
        "cause": "max_attempts",
        "received_at": 1,
        "died_at": 1 + 7 * second,
        "attempts": 3,
        "history": [
            {
                "worker": number,
                "peer": "test",
                "given_at": given_at,
                "ended_at": ended_at,
                "cause": "worker_lost",
            }
            for number, (given_at, ended_at) in zip(numbers, times, strict=True)
        ],
        "client": b"me",
        "named": True,
        "peer": "test",
        "frames": [b"tag", b"", b"poison"],
        "envelope": 7,
    }
    assert exchange.counters["dead"] == 1
    assert_nothing_is_left(exchange)


def test_a_poison_takes_no_other_request_with_it() -> None:
    """Every REP that gets it dies of it, with all that it has."""
    exchange = Exchange(prefetch=4, max_attempts=3)
    asker = client(exchange)
    ask(asker, *(b"%d" % number for number in range(6)), b"poison", *(b"x%d" % n for n in range(6)))
    done: list[bytes] = []
    for _ in range(40):
        serving = worker(exchange)
        while serving.is_there and serving.hear():
            for request in serving.got:
                if request[-1] == b"poison":
                    serving.close()
                    break
                serving.answer(request)
                done.append(request[-1])
            serving.got.clear()
        if serving.is_there:
            break
    assert len(done) == len(set(done)) == 12
    [death] = exchange.deaths()
    assert (death["frames"][-1], death["attempts"]) == (b"poison", 3)
    assert_nothing_is_left(exchange)


def test_a_rep_that_gets_one_gets_nothing_beside_it() -> None:
    exchange = Exchange(prefetch=2)
    asker, lost = client(exchange), worker(exchange)
    ask(asker, b"1", b"2")
    lost.close()
    serving = worker(exchange)
    ask(asker, b"3")
    assert bodies(serving.hear()) == [b"1"]
    serving.answer(serving.got[-1])
    assert bodies(serving.hear()) == [b"2"]
    serving.answer(serving.got[-1])
    ask(asker, b"4")
    assert bodies(serving.hear()) == [b"3", b"4"]
    assert_nothing_is_left(exchange)


def test_it_waits_for_a_rep_that_has_nothing_else() -> None:
    exchange = Exchange(prefetch=2)
    asker = client(exchange)
    lost, busy = worker(exchange), worker(exchange)
    ask(asker, b"1", b"2", b"3")
    assert bodies(busy.hear()) == [b"2"]
    lost.close()
    assert busy.hear() == [], "it has room, but it has another"
    busy.answer(busy.got[-1])
    assert bodies(busy.hear()) == [b"1"]
    assert_nothing_is_left(exchange)


def test_a_rep_that_has_nothing_comes_before_a_dealer() -> None:
    """Which has no order by which it would be known what it died of."""
    exchange = Exchange()
    asker, lost = client(exchange), worker(exchange, "DEALER")
    ask(asker, b"1", b"2")
    assert len(lost.hear()) == 2
    lost.close()
    exchange.steer(1)
    dealer, rep = worker(exchange, "DEALER"), worker(exchange)
    exchange.steer(0)
    assert bodies(rep.hear()) == [b"1"]
    assert bodies(dealer.hear()) == [b"2"]
    assert_nothing_is_left(exchange)


def lost_twice(exchange: Exchange, asker: Driven, *names: bytes) -> None:
    ask(asker, *names)
    for _ in range(2):
        worker(exchange, "DEALER").close()


def test_two_that_were_lost_twice_are_not_given_to_the_same_dealer() -> None:
    exchange = Exchange(max_attempts=0)
    asker = client(exchange)
    lost_twice(exchange, asker, b"1", b"2", b"3")
    one = worker(exchange, "DEALER")
    assert bodies(one.hear()) == [b"1"]
    other = worker(exchange, "ROUTER")
    assert bodies(other.hear()) == [b"2"]
    one.answer(one.got[-1])
    assert bodies(one.hear()) == [b"3"]
    assert_nothing_is_left(exchange)


def test_one_that_was_lost_once_is_kept_apart_from_one_that_was_lost_twice() -> None:
    """Which may well be why the next worker is lost."""
    exchange = Exchange(max_attempts=0)
    asker = client(exchange)
    lost_twice(exchange, asker, b"poison")
    one = worker(exchange, "DEALER")
    assert bodies(one.hear()) == [b"poison"]
    lost = worker(exchange, "DEALER")
    ask(asker, b"1")
    assert bodies(lost.hear()) == [b"1"]
    other = worker(exchange, "DEALER")
    ask(asker, b"2", b"3", b"4", b"5")
    assert (len(one.hear()), len(lost.hear()), len(other.hear())) == (1, 1, 2)
    one.answer(one.got[-1])
    lost.close()
    assert sorted(bodies(other.hear())) == [b"1", lost.got[-1][-1]], "though one has less to do"
    ask(asker, b"6")
    assert bodies(one.hear()) == [b"6"]
    other.close()
    assert len(one.hear()) == 2, "what was lost once, for now there is no other"
    assert_nothing_is_left(exchange)


def test_what_waits_for_a_dealer_without_another_such_holds_up_no_other() -> None:
    """It may be one that is never answered."""
    exchange = Exchange(max_attempts=0)
    asker = client(exchange)
    lost_twice(exchange, asker, b"1", b"2", b"3")
    ask(asker, b"4", b"5")
    serving = worker(exchange, "DEALER")
    assert bodies(serving.hear()) == [b"1", b"4", b"5"]
    ask(asker, b"6")
    assert bodies(serving.hear()) == [b"6"]
    serving.answer(serving.got[0])
    assert bodies(serving.hear()) == [b"2"]
    assert_nothing_is_left(exchange)


def test_what_a_dealer_never_answers_keeps_no_other_from_it_once_it_is_over() -> None:
    exchange = Exchange(service_timeout=10, max_attempts=3)
    asker, serving = client(exchange), worker(exchange, "DEALER")
    ask(asker, b"ignored")
    for name in (b"ignored", b"slow"):
        for attempt in range(3):
            assert bodies(serving.hear()) == [name], f"attempt {attempt + 1}"
            if name == b"slow" and attempt == 2:
                for request in serving.got[-3:]:  # the first two are late
                    serving.answer(request)
                break
            exchange.advance(10)
            if name == b"ignored" and attempt == 2:
                ask(asker, b"slow")
            serving.send(b"nobody", b"")  # so that it gets more
    assert [each["frames"][-1] for each in exchange.deaths()] == [b"ignored"]
    assert bodies(asker.hear()) == [b"slow"]
    assert_nothing_is_left(exchange)


def test_what_has_no_envelope_has_its_turn_while_another_waits_for_a_dealer() -> None:
    exchange = Exchange(max_attempts=0)
    asker = client(exchange)
    lost_twice(exchange, asker, b"1", b"2")
    serving = worker(exchange, "DEALER")
    assert bodies(serving.hear()) == [b"1"]
    exchange.steer(1)
    asker.send(b"no envelope")
    ask(asker, b"3")
    exchange.steer(0)
    assert bodies(serving.hear()) == [b"no envelope", b"3"]
    assert_nothing_is_left(exchange)


def test_what_was_lost_twice_comes_before_all_that_is_younger() -> None:
    exchange = Exchange(max_attempts=0, prefetch=1)
    asker = client(exchange)
    lost_twice(exchange, asker, *(b"%d" % number for number in range(0, 20, 2)))
    ask(asker, *(b"%d" % number for number in range(1, 20, 2)))
    serving = worker(exchange)
    for number in (*range(0, 20, 2), *range(1, 20, 2)):
        [request] = serving.hear()
        assert request[-1] == b"%d" % number
        serving.answer(request)
    assert_nothing_is_left(exchange)


def test_but_a_rep_is_left_to_finish_for_it() -> None:
    """Or it would never have nothing else."""
    exchange = Exchange(max_attempts=0, prefetch=3)
    asker = client(exchange)
    ask(asker, b"1", b"2")
    worker(exchange, "DEALER").close()
    lost, rep = worker(exchange, "DEALER"), worker(exchange)
    ask(asker, b"3")
    assert bodies(rep.hear()) == [b"3"]
    dealer = worker(exchange, "DEALER")
    lost.close()
    assert bodies(dealer.hear()) == [b"1"]
    ask(asker, b"4")
    assert bodies(dealer.hear()) == [b"4"]
    ask(asker, b"5", b"6")
    assert bodies(dealer.hear()) == [b"5"]
    rep.answer(rep.got[-1])
    assert bodies(rep.hear()) == [b"2"]
    rep.answer(rep.got[-1])
    assert bodies(rep.hear()) == [b"6"]
    assert_nothing_is_left(exchange)


def test_who_is_told_more_of_deaths_than_is_kept_for_it_is_sent_away() -> None:
    exchange = Exchange(redeliver="none", client_unsent=500, error_reply=[[bytes(400)]])
    asker, lost = client(exchange), worker(exchange, "DEALER")
    ask(asker, b"1", b"2", b"3", b"4")
    lost.close()
    assert not asker.is_there
    assert (exchange.counters["dead"], exchange.counters["slow_clients"]) == (4, 1)
    assert_nothing_is_left(exchange)


# -- which of them -------------------------------------------------------------------------------


def test_unstarted_the_oldest_one_of_a_rep_dies_and_the_others_go_on() -> None:
    exchange = Exchange(redeliver="unstarted", prefetch=3, error_reply=MARKED)
    asker, lost = client(exchange), worker(exchange)
    ask(asker, b"1", b"2", b"3")
    lost.hear()
    lost.answer(lost.got[0])
    lost.close()
    assert asker.hear() == [[b"1", b"", b"1"], [b"2", b"", b"died of worker_lost after 1"]]
    assert bodies(worker(exchange).hear()) == [b"3"]
    assert exchange.counters["died"] == [0, 1, 0, 0, 0, 0]
    assert_nothing_is_left(exchange)


def test_unstarted_of_a_dealer_all_die() -> None:
    exchange = Exchange(redeliver="unstarted", error_reply=MARKED)
    asker, lost = client(exchange), worker(exchange, "DEALER")
    ask(asker, b"1", b"2", b"3")
    lost.close()
    assert [frames[0] for frames in asker.hear()] == [b"1", b"2", b"3"], "as they were asked"
    assert exchange.counters["dead"] == 3
    assert_nothing_is_left(exchange)


def test_none_is_given_again() -> None:
    exchange = Exchange(redeliver="none", prefetch=3, error_reply=MARKED)
    asker, lost = client(exchange), worker(exchange)
    ask(asker, b"1", b"2", b"3", b"4")
    lost.close()
    assert [frames[0] for frames in asker.hear()] == [b"1", b"2", b"3"]
    assert bodies(worker(exchange).hear()) == [b"4"]
    assert [death["cause"] for death in exchange.deaths()] == ["worker_lost"] * 3
    assert_nothing_is_left(exchange)


def test_what_its_client_has_left_behind_goes_nowhere() -> None:
    exchange = Exchange()
    asker, lost = client(exchange), worker(exchange)
    ask(asker, b"1")
    asker.close()
    lost.close()
    assert worker(exchange).hear() == []
    assert exchange.counters["withdrawn"] == 1
    assert exchange.deaths() == []
    assert_nothing_is_left(exchange)


# -- a worker hangs ------------------------------------------------------------------------------


def test_of_workers_that_are_late_at_once_the_oldest_is_looked_at_first() -> None:
    """It is the same in each run, and after a hand-over."""
    exchange = Exchange(service_timeout=1, prefetch=1)
    asker = client(exchange)
    numbers = [worker(exchange).number for _ in range(9)]
    numbers.append(worker(exchange, "DEALER").number)
    ask(asker, *(b"%d" % number for number in numbers))
    exchange.notices()
    assert exchange.looks == numbers
    after = Exchange(service_timeout=1, prefetch=1)
    after.now = exchange.now
    after.restore(exchange.snapshot())
    for each in (exchange, after):
        each.advance(1)
        aside = [number for kind, number, _ in each.notices() if kind == WORKER_SET_ASIDE]
        assert aside == numbers


def test_a_rep_that_hangs_is_set_aside_and_what_it_has_goes_to_others() -> None:
    exchange = Exchange(service_timeout=10, prefetch=2)
    asker, hanging = client(exchange), worker(exchange)
    ask(asker, b"1", b"2", b"3")
    [first, second] = hanging.hear()
    exchange.advance(9.9)
    other = worker(exchange, "DEALER")
    assert bodies(other.hear()) == [b"3"]
    other.answer(other.got[-1], b"other's 3")
    assert exchange.due == 1 + 10_000_000_000
    exchange.advance(0.1)
    assert bodies(other.hear()) == [b"1", b"2"]
    assert exchange.counters["in_flight"] == 2
    for request in other.got[1:]:
        other.answer(request, b"other's " + request[-1])
    ask(asker, b"4")
    assert hanging.hear() == [], "it gets nothing until it answers"
    assert bodies(other.hear()) == [b"4"]
    hanging.answer(first)
    hanging.answer(second)
    assert hanging.is_there, "it has kept its order"
    assert bodies(asker.hear()) == [b"other's 3", b"other's 1", b"other's 2"]
    assert exchange.counters["late_replies"] == exchange.counters["dropped_replies"] == 2
    ask(asker, b"5")
    assert bodies(hanging.hear()) == [b"5"], "it has answered, and gets requests again"
    told = [(kind, number) for kind, number, _ in exchange.notices()]
    assert told.count((WORKER_SET_ASIDE, hanging.number)) == 1
    assert told.count((WORKER_ANSWERS_AGAIN, hanging.number)) == 1
    assert_nothing_is_left(exchange)


def test_of_a_rep_it_is_the_time_since_its_last_answer() -> None:
    """It works on one after the other; what it has ahead is nothing that it is late with."""
    exchange = Exchange(service_timeout=10, prefetch=3)
    asker, slow = client(exchange), worker(exchange)
    ask(asker, b"1", b"2", b"3")
    other = worker(exchange)
    other_had = slow.hear()
    assert bodies(other_had) == [b"1", b"2", b"3"]
    for request in other_had:
        exchange.advance(9)
        slow.answer(request)
    assert bodies(asker.hear()) == [b"1", b"2", b"3"]
    assert other.hear() == []
    assert_nothing_is_left(exchange)


def test_a_rep_may_hang_again_in_what_it_still_has() -> None:
    exchange = Exchange(service_timeout=10, prefetch=2)
    asker, hanging = client(exchange), worker(exchange)
    ask(asker, b"1", b"2")
    [first, second] = hanging.hear()
    other = worker(exchange)
    exchange.advance(10)
    assert bodies(other.hear()) == [b"1"]
    exchange.advance(1)
    hanging.answer(first)
    other.answer(other.got[-1])
    assert bodies(other.hear()) == [b"2"], "which the hanging one is at, too"
    ask(asker, b"3")
    assert bodies(hanging.hear()) == [b"3"]
    other.answer(other.got[-1])
    exchange.advance(9.9)
    assert other.hear() == []
    exchange.advance(0.1)
    assert bodies(other.hear()) == [b"3"], "the hanging one has been at 2 for too long"
    hanging.answer(second)
    hanging.answer(hanging.got[-1])
    assert hanging.is_there
    assert bodies(asker.hear()) == [b"1", b"2"]
    assert_nothing_is_left(exchange)


def test_of_a_dealer_each_request_has_its_own_time() -> None:
    exchange = Exchange(service_timeout=10)
    asker, hanging = client(exchange), worker(exchange, "DEALER")
    ask(asker, b"1")
    exchange.advance(4)
    ask(asker, b"2")
    other = worker(exchange)
    exchange.advance(6)
    assert bodies(other.hear()) == [b"1"]
    other.answer(other.got[-1])
    exchange.advance(3.9)
    assert other.hear() == []
    exchange.advance(0.1)
    assert bodies(other.hear()) == [b"2"], "it is set aside already, and looked at all the same"
    other.answer(other.got[-1])
    assert bodies(asker.hear()) == [b"1", b"2"]
    for request in hanging.hear():
        hanging.answer(request)
    assert asker.hear() == []
    assert exchange.counters["late_replies"] == 2
    assert_nothing_is_left(exchange)


def test_a_dealer_that_answers_something_gets_requests_again() -> None:
    exchange = Exchange(service_timeout=10)
    asker, hanging = client(exchange), worker(exchange, "DEALER")
    ask(asker, b"1")
    exchange.advance(5)
    ask(asker, b"2")
    [_, second] = hanging.hear()
    exchange.advance(5)
    ask(asker, b"3")
    assert exchange.counters["waiting"] == 2
    hanging.answer(second)
    assert bodies(hanging.hear()) == [b"1", b"3"]
    assert bodies(asker.hear()) == [b"2"]
    assert_nothing_is_left(exchange)


def test_unstarted_and_hanging() -> None:
    exchange = Exchange(redeliver="unstarted", service_timeout=10, prefetch=2, error_reply=MARKED)
    asker, hanging = client(exchange), worker(exchange)
    ask(asker, b"1", b"2")
    requests = hanging.hear()
    other = worker(exchange)
    exchange.advance(10)
    assert asker.hear() == [[b"1", b"", b"died of service_timeout after 1"]]
    assert bodies(other.hear()) == [b"2"]
    other.answer(other.got[-1])
    for request in requests:
        hanging.answer(request)
    assert bodies(asker.hear()) == [b"2"]
    assert_nothing_is_left(exchange)


def test_none_and_hanging() -> None:
    exchange = Exchange(redeliver="none", service_timeout=10, error_reply=MARKED)
    asker, hanging = client(exchange, "REQ"), worker(exchange)
    asker.send(b"", b"x")
    [request] = hanging.hear()
    exchange.advance(10)
    assert asker.hear() == [[b"", b"died of service_timeout after 1"]]
    asker.send(b"", b"y")
    hanging.answer(request)
    assert asker.hear() == [], "the late reply is not taken for the one to y"
    assert bodies(hanging.hear()) == [b"y"]
    hanging.answer(hanging.got[-1])
    assert asker.hear() == [[b"", b"y"]]
    assert_nothing_is_left(exchange)


def test_one_that_is_set_aside_and_then_lost_gives_nothing_back_twice() -> None:
    exchange = Exchange(service_timeout=10)
    asker, hanging = client(exchange), worker(exchange)
    ask(asker, b"1")
    exchange.advance(10)
    hanging.close()
    other = worker(exchange)
    assert bodies(other.hear()) == [b"1"]
    assert exchange.counters["returned"] == 1
    assert_nothing_is_left(exchange)


def test_a_late_reply_is_known_also_where_a_dealer_has_more_bytes_than_it_is_to_have() -> None:
    exchange = Exchange(service_timeout=10, max_waiting_bytes=4000)
    asker, hanging = client(exchange), worker(exchange, "DEALER")
    ask(asker, b"1")
    [late] = hanging.hear()
    exchange.advance(10)
    other = worker(exchange)
    [request] = other.hear()
    other.answer(request)
    hanging.send(b"nobody", b"")  # so that it gets more
    for number in range(3):
        asker.send(b"tag%d" % number, b"", bytes(900))
        other.hear()
    assert exchange.outstanding(hanging.number) > 1
    hanging.answer(late)
    assert exchange.counters["late_replies"] == 1
    assert bodies(asker.hear()) == [b"1"]
    assert_nothing_is_left(exchange)


# -- without a supervisor that wakes it now and then ---------------------------------------------


def test_what_a_worker_is_late_with_goes_on_without_news_from_outside() -> None:
    with (
        data_path(service_timeout=0.3) as (frontend, backend, _),
        RawPeer(frontend, "REQ") as asker,
        RawPeer(backend, "REP") as one,
        RawPeer(backend, "REP") as other,
    ):
        workers = {one.socket: one, other.socket: other}
        asker.send(b"", b"x")
        [hanging], _, _ = select.select(list(workers), [], [], DEADLINE)
        workers.pop(hanging).receive()
        [serving] = workers.values()
        serving.serve(1, b"done")
        assert asker.receive() == [b"", b"done"]


def test_what_many_lose_is_in_line_by_its_age_whoever_leaves_meanwhile() -> None:
    """Some of it is lost twice, some is withdrawn from among the rest, and some was never given."""
    chance = random.Random(18)
    exchange = Exchange(prefetch=10, max_attempts=0, max_waiting=0)
    askers = [client(exchange) for _ in range(5)]
    for number in range(1000):
        ask(chance.choice(askers), b"%03d" % number)
    for size in (50, 80):
        crowd = [worker(exchange, "DEALER") for _ in range(size)]
        chance.shuffle(crowd)
        for lost in crowd:
            lost.close()
    assert exchange.counters["returned"] == 500 + 800
    for leaving in askers[:2]:
        leaving.close()
    waiting = exchange.counters["waiting"]
    saved = exchange.snapshot()
    assert exchange.snapshot() == saved, "saving leaves all as it was"
    taken_up = Exchange(prefetch=10, max_attempts=0, max_waiting=0)
    taken_up.now = exchange.now
    taken_up.restore(saved)
    for each in (exchange, taken_up):
        served: list[bytes] = []
        last = worker(each, "DEALER")
        while got := last.hear():
            served += bodies(got)
            for request in got:
                last.answer(request)
        assert len(served) == waiting
        # What was lost twice goes to a worker one by one, past what was not.
        for some in ([x for x in served if x < b"500"], [x for x in served if x >= b"500"]):
            assert some == sorted(some)
            assert len(some) > 200
        assert_nothing_is_left(each)
