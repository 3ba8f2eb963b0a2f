"""Clients that leave, and those that come back: what becomes of what they asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.waiting import DEADLINE, wait_for
from tests.wire.exchange import HOLD, Driven, assert_nothing_is_left, client, worker
from tests.wire.test_routing import ends
from zqueue.engine.wire.exchange import Exchange

Context = zmq.Context[zmq.Socket[bytes]]
MARKED = [[b"died of ", "reason"]]
"""An ``error_reply`` as an exchange takes it."""


def ask(asker: Driven, *names: bytes) -> None:
    for name in names:
        asker.send(name, b"", name)


def answer_all(serving: Driven) -> list[bytes]:
    """What it had to answer."""
    served = []
    while requests := serving.hear():
        for request in requests:
            serving.answer(request)
            served.append(request[-1])
    return served


def bodies(messages: list[list[bytes]]) -> list[bytes]:
    return [frames[-1] for frames in messages]


# -- for good ------------------------------------------------------------------------------------


def test_what_no_worker_has_yet_is_withdrawn_and_late_replies_are_dropped() -> None:
    exchange = Exchange(prefetch=1)
    asker, serving = client(exchange), worker(exchange)
    ask(asker, b"1", b"2", b"3")
    asker.close()
    assert exchange.counters["withdrawn"] == 2
    assert answer_all(serving) == [b"1"]
    assert exchange.counters["unclaimed"] == exchange.counters["dropped_replies"] == 1
    assert_nothing_is_left(exchange)


def test_with_keep_for_gone_clients_it_is_done_all_the_same() -> None:
    exchange = Exchange(prefetch=1, keep_for_gone_clients=True)
    asker, lost = client(exchange), worker(exchange)
    ask(asker, b"1", b"2", b"3")
    asker.close()
    lost.close()
    assert exchange.counters["waiting"] == 3, "also what a worker has lost"
    assert answer_all(worker(exchange)) == [b"1", b"2", b"3"]
    assert exchange.counters["unclaimed"] == 3
    assert_nothing_is_left(exchange)


def test_what_is_kept_for_a_gone_client_may_die_and_nobody_is_told() -> None:
    exchange = Exchange(keep_for_gone_clients=True, deadline=5, error_reply=MARKED)
    asker = client(exchange, identity=b"me")
    ask(asker, b"1")
    asker.close()
    exchange.advance(5)
    [death] = exchange.deaths()
    assert (death["client"], death["named"], death["peer"]) == (b"me", True, "")
    assert exchange.counters["error_replies"] == 0
    assert_nothing_is_left(exchange)


# -- for a while ---------------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["DEALER", "ROUTER"])
def test_who_comes_back_in_time_gets_what_came_meanwhile_in_order(type: str) -> None:
    exchange = Exchange(client_grace=60, prefetch=1)
    asker, serving = client(exchange, type, identity=b"me"), worker(exchange)
    ask(asker, b"1", b"2", b"3")
    asker.close()
    exchange.advance(59)
    for _ in range(2):
        [request] = serving.hear()
        serving.answer(request)
    assert (exchange.counters["kept"], exchange.counters["replied"]) == (2, 0)
    back = client(exchange, type, identity=b"me")
    assert bodies(back.hear()) == [b"1", b"2"]
    assert (exchange.counters["kept"], exchange.counters["replied"]) == (0, 2)
    assert answer_all(serving) == [b"3"]
    assert bodies(back.hear()) == [b"3"]
    ask(back, b"4")
    assert answer_all(serving) == [b"4"]
    assert bodies(back.hear()) == [b"4"]
    assert exchange.counters["withdrawn"] == exchange.counters["unclaimed"] == 0
    assert_nothing_is_left(exchange)


def test_who_does_not_is_gone_for_good_then() -> None:
    exchange = Exchange(client_grace=60, prefetch=1)
    asker, serving = client(exchange, identity=b"me"), worker(exchange)
    ask(asker, b"1", b"2", b"3")
    asker.close()
    assert exchange.due == exchange.now + 60_000_000_000
    [request] = serving.hear()
    serving.answer(request)
    exchange.advance(60)
    assert exchange.counters["unclaimed"] == exchange.counters["dropped_replies"] == 1
    assert exchange.counters["withdrawn"] == 1
    back = client(exchange, identity=b"me")
    assert back.hear() == []
    assert_nothing_is_left(exchange)


def test_each_absence_has_its_own_time() -> None:
    exchange = Exchange(client_grace=60)
    askers = [client(exchange, identity=b"c%d" % number) for number in range(3)]
    exchange.steer(HOLD)
    for asker in askers:
        ask(asker, b"x")
        asker.close()
        exchange.advance(10)
    exchange.advance(25)
    client(exchange, identity=b"c1").close()
    assert exchange.counters["withdrawn"] == 0
    exchange.advance(5)
    assert exchange.counters["withdrawn"] == 1
    exchange.advance(20)
    assert exchange.counters["withdrawn"] == 2
    exchange.advance(34.9)
    assert exchange.counters["withdrawn"] == 2
    exchange.advance(0.1)
    assert exchange.counters["withdrawn"] == 3
    assert_nothing_is_left(exchange)


def test_an_error_reply_is_kept_for_it_as_well() -> None:
    exchange = Exchange(client_grace=60, deadline=5, error_reply=MARKED)
    asker = client(exchange, identity=b"me")
    ask(asker, b"1")
    asker.close()
    exchange.advance(5)
    assert exchange.counters["kept"] == 0
    assert client(exchange, identity=b"me").hear() == [[b"1", b"", b"died of deadline"]]
    assert_nothing_is_left(exchange)


def test_no_more_is_kept_than_max_unsent() -> None:
    exchange = Exchange(client_grace=60, client_unsent=1000)
    asker, serving = client(exchange, identity=b"me"), worker(exchange, "DEALER")
    for name in (b"1", b"2", b"3"):
        asker.send(name, b"", bytes(600))
    asker.close()
    answer_all(serving)
    assert (exchange.counters["kept"], exchange.counters["unclaimed"]) == (2, 1)
    assert [frames[0] for frames in client(exchange, identity=b"me").hear()] == [b"1", b"2"]
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize(
    ("type", "identity"), [("REQ", b"me"), ("DEALER", b"")], ids=["a REQ", "without a routing id"]
)
def test_who_is_not_waited_for(type: str, identity: bytes) -> None:
    exchange = Exchange(client_grace=60)
    asker = client(exchange, type, identity=identity)
    asker.send(b"", b"x")
    asker.close()
    assert exchange.counters["withdrawn"] == 1
    assert exchange.due == 0
    assert_nothing_is_left(exchange)


def test_a_req_gets_nothing_of_what_was_kept_for_another_under_its_routing_id() -> None:
    exchange = Exchange(client_grace=60, prefetch=1)
    asker, serving = client(exchange, identity=b"me"), worker(exchange)
    ask(asker, b"1", b"2", b"3")
    asker.close()
    [request] = serving.hear()
    serving.answer(request)
    another = client(exchange, "REQ", identity=b"me")
    assert another.hear() == []
    assert (exchange.counters["unclaimed"], exchange.counters["withdrawn"]) == (1, 1)
    another.send(b"", b"its own")
    assert answer_all(serving) == [b"2", b"its own"]
    assert another.hear() == [[b"", b"its own"]]
    assert_nothing_is_left(exchange)


def test_who_is_back_before_it_is_known_to_have_left_goes_on_as_well() -> None:
    """Its old connection looks alive for as long as nothing says otherwise."""
    exchange = Exchange(client_grace=60, handover=True, prefetch=1)
    asker, serving = client(exchange, identity=b"me"), worker(exchange)
    ask(asker, b"1", b"2", b"3")
    back = client(exchange, identity=b"me")
    assert not asker.is_there
    assert exchange.counters["withdrawn"] == 0
    assert answer_all(serving) == [b"1", b"2", b"3"]
    assert bodies(back.hear()) == [b"1", b"2", b"3"]
    assert_nothing_is_left(exchange)


# -- under the same routing id -------------------------------------------------------------------


def test_as_with_a_router_a_reply_goes_to_whoever_has_the_routing_id_by_now() -> None:
    exchange = Exchange()
    asker, serving = client(exchange, identity=b"me"), worker(exchange)
    ask(asker, b"1")
    asker.close()
    another = client(exchange, identity=b"me")
    assert answer_all(serving) == [b"1"]
    assert bodies(another.hear()) == [b"1"]
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("before", ["REQ", "DEALER"])
def test_but_no_req_gets_the_reply_to_another_s_question(before: str) -> None:
    """It would take it for the reply to its own."""
    exchange = Exchange(prefetch=2)
    asker, serving = client(exchange, before, identity=b"me"), worker(exchange)
    asker.send(b"", b"before")
    asker.close()
    another = client(exchange, "REQ", identity=b"me")
    another.send(b"", b"after")
    assert answer_all(serving) == [b"before", b"after"]
    assert another.hear() == [[b"", b"after"]]
    assert (exchange.counters["unclaimed"], exchange.counters["replied"]) == (1, 1)
    assert_nothing_is_left(exchange)


def test_nor_the_error_reply() -> None:
    exchange = Exchange(keep_for_gone_clients=True, deadline=5, error_reply=MARKED)
    asker = client(exchange, "REQ", identity=b"me")
    asker.send(b"", b"before")
    asker.close()
    exchange.advance(1)
    another = client(exchange, "REQ", identity=b"me")
    another.send(b"", b"after")
    exchange.advance(4)
    assert another.hear() == []
    exchange.advance(1)
    assert another.hear() == [[b"", b"died of deadline"]]
    assert_nothing_is_left(exchange)


# -- asked again in their name -------------------------------------------------------------------


def died(asker: Driven, *frames: bytes) -> tuple[bytes, list[bytes]]:
    """A request of this client that died: the client's routing id and the frames."""
    asker.send(*frames)
    asker.exchange.advance(5)
    [death] = asker.exchange.deaths()
    return death["client"], death["frames"]


def test_the_client_hears_the_reply_if_it_is_there() -> None:
    exchange = Exchange(deadline=5, error_reply=MARKED)
    asker = client(exchange)
    id, frames = died(asker, b"tag", b"", b"x")
    exchange.submit(id, frames)
    assert answer_all(worker(exchange)) == [b"x"]
    assert asker.hear() == [[b"tag", b"", b"died of deadline"], [b"tag", b"", b"x"]]
    assert (exchange.counters["received"], exchange.counters["retried"]) == (2, 1)
    assert_nothing_is_left(exchange)


def test_it_is_done_though_the_client_has_left_and_may_be_back_for_the_reply() -> None:
    exchange = Exchange(deadline=5)
    asker = client(exchange, identity=b"me")
    id, frames = died(asker, b"tag", b"", b"x")
    asker.close()
    exchange.submit(id, frames)
    exchange.submit(id, frames)
    serving = worker(exchange)
    [first] = serving.hear()
    serving.answer(first)
    assert exchange.counters["unclaimed"] == 1
    back = client(exchange, identity=b"me")
    [second] = serving.hear()
    serving.answer(second)
    assert back.hear() == [[b"tag", b"", b"x"]]
    assert_nothing_is_left(exchange)


def test_it_may_die_again_and_be_asked_again() -> None:
    exchange = Exchange(deadline=5)
    asker = client(exchange, identity=b"me")
    id, frames = died(asker, b"tag", b"", b"x")
    asker.close()
    exchange.submit(id, frames)
    exchange.advance(5)
    [death] = exchange.deaths()
    assert (death["client"], death["named"], death["frames"]) == (b"me", True, frames)
    assert (death["number"], death["history"]) == (2, [])
    assert_nothing_is_left(exchange)


def test_a_req_that_still_waits_hears_it() -> None:
    exchange = Exchange(deadline=5)
    asker = client(exchange, "REQ")
    id, frames = died(asker, b"", b"x")
    exchange.submit(id, frames)
    assert answer_all(worker(exchange)) == [b"x"]
    assert asker.hear() == [[b"", b"x"]]
    assert_nothing_is_left(exchange)


def test_a_req_that_was_told_does_not_for_it_asks_something_else_by_now() -> None:
    exchange = Exchange(deadline=5, error_reply=MARKED)
    asker = client(exchange, "REQ")
    id, frames = died(asker, b"", b"x")
    assert asker.hear() == [[b"", b"died of deadline"]]
    asker.send(b"", b"y")
    exchange.submit(id, frames)
    assert answer_all(worker(exchange)) == [b"y", b"x"]
    assert asker.hear() == [[b"", b"y"]]
    assert exchange.counters["unclaimed"] == 1
    assert_nothing_is_left(exchange)


def test_a_req_that_came_back_under_its_routing_id_does_not_either() -> None:
    exchange = Exchange(deadline=5)
    asker = client(exchange, "REQ", identity=b"me")
    id, frames = died(asker, b"", b"x")
    asker.close()
    back = client(exchange, "REQ", identity=b"me")
    back.send(b"", b"y")
    exchange.submit(id, frames)
    assert answer_all(worker(exchange)) == [b"y", b"x"]
    assert back.hear() == [[b"", b"y"]]
    assert_nothing_is_left(exchange)


# -- real daemons, real clients ------------------------------------------------------------------

QUEUE = """
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
client_grace = "1h"
"""


def lazy_pirate(context: Context, endpoint: str, identity: bytes, question: bytes) -> bytes:
    """Ask as the Lazy Pirate of the ZeroMQ guide: who is not answered in time closes its socket and
    asks again with another."""
    while True:
        with context.socket(zmq.REQ) as client:
            client.linger = 0
            client.routing_id = identity
            client.connect(endpoint)
            client.send(question)
            if client.poll(400):
                return client.recv()


def test_lazy_pirates(start_zqueued: StartZqueued, context: Context) -> None:
    """Nothing of those who gave up is left, and each gets the answer to its own question."""
    zqueued = start_zqueued(QUEUE.replace('client_grace = "1h"', 'duplicate_id = "handover"'))
    answered: dict[bytes, bytes] = {}

    def ask(name: bytes) -> Callable[[], None]:
        def asks() -> None:
            for number in range(5):
                question = name + b" %d" % number
                answered[question] = lazy_pirate(context, zqueued.frontend(), name, question)

        return asks

    pirates = [threading.Thread(target=ask(b"pirate %d" % number)) for number in range(4)]
    for pirate in pirates:
        pirate.start()
    # Until a worker comes all give up again and again, and some of it is withdrawn.
    wait_for(lambda: ends(zqueued).withdrawn > 8)
    serving = context.socket(zmq.REP)
    serving.connect(zqueued.backend())
    while any(pirate.is_alive() for pirate in pirates):
        if serving.poll(50):
            request = serving.recv()
            serving.send(b"re " + request)
    for pirate in pirates:
        pirate.join(DEADLINE)
    assert len(answered) == 20
    assert all(reply == b"re " + question for question, reply in answered.items())
    wait_for(lambda: zqueued.queue().clients.connected == 0)
    queue = zqueued.queue()
    assert (queue.waiting, queue.in_flight, queue.kept) == (0, 0, 0)


def test_a_dealer_that_is_started_anew_goes_on(
    start_zqueued: StartZqueued, context: Context
) -> None:
    zqueued = start_zqueued(QUEUE)
    serving = context.socket(zmq.REP)
    serving.connect(zqueued.backend())

    def dealer() -> zmq.Socket[bytes]:
        socket = context.socket(zmq.DEALER)
        socket.routing_id = b"me"
        socket.connect(zqueued.frontend())
        return socket

    before = dealer()
    for number in range(4):
        before.send_multipart([b"", b"%d" % number])
    assert serving.recv() == b"0"
    wait_for(lambda: zqueued.queue().waiting == 3)
    before.close(0)
    wait_for(lambda: zqueued.queue().clients.connected == 0)
    serving.send(b"re 0")
    assert serving.recv() == b"1"
    wait_for(lambda: zqueued.queue().kept == 1)
    after = dealer()
    assert after.recv_multipart() == [b"", b"re 0"]
    event = zqueued.wait_event("client.returned")
    assert event["replies"] == 1
    serving.send(b"re 1")
    for number in (2, 3):
        assert serving.recv() == b"%d" % number
        serving.send(b"re %d" % number)
    assert [after.recv_multipart()[1] for _ in range(3)] == [b"re 1", b"re 2", b"re 3"]
    assert (ends(zqueued).replied, ends(zqueued).withdrawn) == (4, 0)
    assert zqueued.queue().kept == 0
