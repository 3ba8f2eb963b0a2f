"""Which reply goes to whom: ids, envelopes, workers of each type, and what is nobody's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import StartZqueued
from tests.peers import Peers
from tests.waiting import wait_for
from tests.wire.exchange import assert_adds_up, assert_nothing_is_left, client, worker
from tests.wire.raw import MORE, Gone, RawPeer, command, frame, hello, message
from tests.zqueued import Zqueued
from zqueue.control.messages import Ends
from zqueue.engine.wire.exchange import Exchange

Context = zmq.Context[zmq.Socket[bytes]]

HANDOVER = """
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
duplicate_id = "handover"
"""


def ends(zqueued: Zqueued) -> Ends:
    found = zqueued.queue().ends
    assert found is not None
    return found


def descriptors(zqueued: Zqueued) -> int:
    return len(os.listdir(f"/proc/{zqueued.process.pid}/fd"))


# -- routing ids ---------------------------------------------------------------------------------


def test_ids_that_are_given_and_ids_that_are_made(zqueued: Zqueued) -> None:
    backend, frontend = zqueued.backend(), zqueued.frontend()
    with RawPeer(backend, "DEALER") as serving:
        seen = set()
        for identity in (b"", b"", b"me", b"x" * 255, b"\0\0\0\1", b"\xff"):
            with RawPeer(frontend, "DEALER", identity=identity) as asker:
                asker.send(b"", b"hello")
                routing_id, *rest = serving.receive()
                assert rest == [b"", b"hello"]
                assert routing_id == identity if identity else routing_id[0] == 0
                assert len(routing_id) == len(identity or bytes(13))
                seen.add(routing_id)
                serving.send(routing_id, b"", b"for you")
                assert asker.receive() == [b"", b"for you"]
        assert len(seen) == 6


def test_an_id_that_is_made_is_nobody_else_s() -> None:
    """A client that gives itself the one that would be next is refused."""
    exchange = Exchange()
    serving = worker(exchange, "DEALER")
    first = client(exchange)
    first.send(b"", b"")
    [[address, *_]] = serving.hear()
    made = b"\0" + address[5:9]
    following = b"\0" + (int.from_bytes(made[1:], "big") + 1).to_bytes(4, "big")
    claiming = exchange.connect(0)
    exchange.feed(claiming, hello("DEALER", identity=following) + message([b"", b"x"]))
    assert claiming not in exchange.peers
    assert not serving.hear()
    other = client(exchange)
    other.send(b"", b"")
    [[address, *_]] = serving.hear()
    assert b"\0" + address[5:9] == following
    assert_nothing_is_left(exchange)


def test_a_duplicate_is_refused_and_the_first_one_goes_on(
    zqueued: Zqueued, context: Context
) -> None:
    with (
        RawPeer(zqueued.frontend(), "REQ", identity=b"me") as first,
        RawPeer(zqueued.backend(), "REP") as serving,
    ):
        first.send(b"", b"asked before")
        routing_id, *rest = serving.receive()
        before = descriptors(zqueued)
        for version in ((3, 1), (3, 0), (2, 0)):
            with RawPeer(zqueued.frontend(), "REQ", shake=False) as second:
                second.say(hello("REQ", version, b"me"))
                # A peer of 2.0 has no READY; others must not hear it, or they write their request.
                second.exactly(64 if version[0] == 3 else 14)
                with pytest.raises(Gone):
                    second.frame()
                event = zqueued.wait_event("peer.duplicate_id", peer=second.name)
                assert (event["holder"], event["side"]) == (first.name, "frontend")
                rejected = zqueued.wait_event("peer.rejected", peer=second.name)
                assert rejected["reason"] == "its routing id is in use"
        libzmqs = context.socket(zmq.REQ)
        libzmqs.routing_id = b"me"
        libzmqs.connect(zqueued.frontend())
        wait_for(lambda: len(zqueued.events("peer.duplicate_id")) > 3, "it to try again")
        libzmqs.close(0)
        serving.send(routing_id, *rest)
        assert first.receive() == [b"", b"asked before"]
        first.send(b"", b"asked after")
        serving.serve(1)
        assert first.receive() == [b"", b"asked after"]
        wait_for(lambda: descriptors(zqueued) <= before)
    with RawPeer(zqueued.frontend(), "REQ", identity=b"me"):
        wait_for(lambda: zqueued.queue().clients.connected == 1, "its id to be free again")


def test_a_duplicate_takes_over(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(HANDOVER)
    frontend = zqueued.frontend()
    with RawPeer(zqueued.backend(), "REP") as serving:
        holder = RawPeer(frontend, "DEALER", identity=b"me")
        holder.send(b"", b"in flight")
        holder.send(b"", b"waiting")
        request = serving.receive()
        wait_for(lambda: zqueued.queue().waiting == 1)
        before = descriptors(zqueued)
        for _ in range(20):
            taking_over = RawPeer(frontend, "DEALER", identity=b"me")
            holder.farewell()
            event = zqueued.wait_event("peer.disconnected", peer=holder.name)
            assert event["reason"] == "another client took over its routing id"
            holder.close()
            holder = taking_over
        wait_for(lambda: descriptors(zqueued) <= before)
        # Like a ROUTER with ROUTER_HANDOVER: the reply goes to whoever has the id now.
        serving.send(*request)
        assert holder.receive() == [b"", b"in flight"]
        holder.send(b"", b"of its own")
        serving.serve(1)
        assert holder.receive() == [b"", b"of its own"]
        assert ends(zqueued).withdrawn == 1
        assert zqueued.events("peer.duplicate_id") == []
        holder.close()


# -- envelopes and messages ----------------------------------------------------------------------


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=5),
    st.lists(st.one_of(st.just(b""), st.binary(max_size=2000)), min_size=1, max_size=4),
    st.sampled_from(["REP", "DEALER", "ROUTER"]),
    st.booleans(),
)
def test_envelopes_of_any_depth(
    envelope: list[bytes], body: list[bytes], type: str, long: bool
) -> None:
    exchange = Exchange()
    serving, asker = worker(exchange, type), client(exchange, identity=b"me")
    asker.feed(message([*envelope, b"", *body], long=long))
    [request] = serving.hear()
    assert request[1:] == [*envelope, b"", *body]
    # A REP, which passes it on to nobody, has a number in its place.
    assert len(request[0]) == 9 if type == "REP" else request[0] == b"me"
    serving.send(*request)
    assert asker.hear() == [[*envelope, b"", *body]]
    assert exchange.counters["replied"] == 1
    assert exchange.counters["in_flight"] == 0
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("type", [zmq.REP, zmq.DEALER, zmq.ROUTER], ids=["REP", "DEALER", "ROUTER"])
def test_correlated_and_relaxed_requests_of_libzmq(
    type: int, zqueued: Zqueued, context: Context
) -> None:
    client, serving = context.socket(zmq.REQ), context.socket(type)
    client.setsockopt(zmq.REQ_CORRELATE, 1)
    client.setsockopt(zmq.REQ_RELAXED, 1)
    client.connect(zqueued.frontend())
    serving.connect(zqueued.backend())

    def answer() -> bytes:
        *envelope, body = serving.recv_multipart()
        if type == zmq.ROUTER:
            assert len(envelope) == 4, "the broker's id, the client's, the request's"
        serving.send_multipart([*envelope, b"re " + body])
        return body

    wait_for(lambda: zqueued.queue().workers.connected == 1)
    for number in range(20):
        client.send(b"abandoned %d" % number)
        client.send(b"%d" % number)
        assert [answer(), answer()] == [b"abandoned %d" % number, b"%d" % number]
        assert client.recv() == b"re %d" % number
    assert ends(zqueued).replied == 40


def test_chained_brokers(start_zqueued: StartZqueued, peers: Peers, context: Context) -> None:
    """Client, zqueued, zqueued, worker; and then a client that pipelines."""
    near = start_zqueued()
    far = start_zqueued(f"""
[queues.default]
frontend = {{ connect = "{near.backend()}" }}
backend = "tcp://127.0.0.1:*"
""")
    workers = [peers.worker(far.backend(), name) for name in "AB"]
    clients = [peers.client(near.frontend(), f"c{n}", requests=100) for n in range(4)]
    for each in clients:
        each.finish()
    assert sum(len(worker.served) for worker in workers) == 400
    piping = context.socket(zmq.DEALER)
    piping.connect(near.frontend())
    for number in range(500):
        piping.send_multipart([b"tag", b"", b"%d" % number])
    got = [piping.recv_multipart() for _ in range(500)]
    assert {frames[0] for frames in got} == {b"tag"}
    assert sorted(int(frames[2][2:]) for frames in got) == list(range(500))
    assert near.wait_event("peer.connected", side="backend")["type"] == "ROUTER"
    wait_for(lambda: ends(near).replied == ends(far).replied == 900)


# -- messages that end in the middle -------------------------------------------------------------


def test_who_dies_in_the_middle_of_a_message_leaves_nothing(zqueued: Zqueued) -> None:
    frontend, backend = zqueued.frontend(), zqueued.backend()
    with RawPeer(backend, "REP") as serving, RawPeer(frontend, "REQ") as asker:
        begun = frame(b"", MORE) + frame(b"a", MORE) + frame(bytes(300_000))
        for far in (1, 3, 6, 200_000):
            with RawPeer(frontend, "DEALER") as dying:
                dying.say(begun[:far])
            zqueued.wait_event("peer.disconnected", peer=dying.name)
        asker.send(b"", b"x")
        request = serving.receive()
        assert request[1:] == [b"", b"x"], "and nothing of the others"
        with RawPeer(backend, "REP") as other:
            serving.say(message(request)[:-1])
            serving.close()
            again = other.receive()
            assert again[1:] == request[1:]
            other.send(*again)
        assert asker.receive() == [b"", b"x"]
    assert zqueued.queue().requests.messages == 1
    assert zqueued.queue().replies.messages == 1


def test_a_large_command_in_the_midst_of_a_message() -> None:
    """What comes after it is the message's rest, wherever the reads end."""
    big = command(b"X-BIG", bytes(20_000))
    rest = frame(b"b") + message([b"", b"next"]) * 3
    for cut in (10, 10_000, len(big)):
        exchange = Exchange()
        serving, asker = worker(exchange, "DEALER"), client(exchange)
        asker.feed(frame(b"", MORE) + frame(b"a", MORE))
        for said in (big[:cut], big[cut:], rest):
            if said:
                asker.feed(said)
        bodies = [frames[2:] for frames in serving.hear()]
        assert bodies == [[b"a", b"b"], [b"next"], [b"next"], [b"next"]]
        assert_nothing_is_left(exchange)


# -- what a REP would discard --------------------------------------------------------------------

MALFORMED = [[b"a"], [b"a", b"b"], [b"a", b""], [b""]]


def test_malformed_requests_never_reach_a_rep(zqueued: Zqueued) -> None:
    with (
        RawPeer(zqueued.frontend(), "DEALER") as asker,
        RawPeer(zqueued.backend(), "REP") as serving,
    ):
        for frames in MALFORMED:
            asker.send(*frames)
        for number in range(3):
            asker.send(b"", b"%d" % number)
            asker.send(*MALFORMED[number])
        assert serving.serve(3) == [b"0", b"1", b"2"]
        assert [asker.receive() for _ in range(3)] == [[b"", b"%d" % n] for n in range(3)]
        wait_for(lambda: ends(zqueued).malformed == 7)
        event = zqueued.wait_event("request.malformed", peer=asker.name)
        assert event["reason"] == "a REP needs an empty frame before the body"
        assert len(zqueued.events("request.malformed")) == 7
        asker.send(b"", b"")
        assert serving.serve(1) == [b""]
        assert asker.receive() == [b"", b""]
        assert zqueued.queue().clients.connected == zqueued.queue().workers.connected == 1


def test_malformed_requests_wait_for_a_worker_and_then_are_told(zqueued: Zqueued) -> None:
    with RawPeer(zqueued.frontend(), "DEALER") as asker:
        for frames in MALFORMED:
            asker.send(*frames)
        wait_for(lambda: zqueued.queue().waiting == 4)
        with RawPeer(zqueued.backend(), "REP"):
            wait_for(lambda: ends(zqueued).malformed == 4)


def test_malformed_requests_reach_a_dealer_though_there_is_a_rep(zqueued: Zqueued) -> None:
    with (
        RawPeer(zqueued.frontend(), "DEALER", identity=b"me") as asker,
        RawPeer(zqueued.backend(), "REP"),
        RawPeer(zqueued.backend(), "DEALER") as dealer,
    ):
        for frames in MALFORMED:
            asker.send(*frames)
        for frames in MALFORMED:
            request = dealer.receive()
            assert request == [b"me", *frames]
            dealer.send(*request)
            assert asker.receive() == frames
        assert ends(zqueued).malformed == 0
        assert ends(zqueued).replied == 4


def test_libzmq_s_rep_stays_in_step_among_malformed_requests(
    zqueued: Zqueued, peers: Peers, context: Context
) -> None:
    workers = [peers.worker(zqueued.backend(), name) for name in "AB"]
    bad = context.socket(zmq.DEALER)
    bad.connect(zqueued.frontend())
    clients = [peers.client(zqueued.frontend(), f"c{n}", requests=200) for n in range(3)]
    for number in range(200):
        bad.send_multipart(MALFORMED[number % 4])
    for each in clients:
        assert len(each.finish()) == 200
    assert sum(len(worker.served) for worker in workers) == 600
    wait_for(lambda: ends(zqueued).malformed == 200)
    assert zqueued.events("peer.protocol_error") == []


# -- workers -------------------------------------------------------------------------------------


def wrong_id(request: list[bytes]) -> list[bytes]:
    return [b"somebody", *request[1:]]


def no_delimiter(request: list[bytes]) -> list[bytes]:
    return [request[0], b"x"]


def deeper(request: list[bytes]) -> list[bytes]:
    return [request[0], b"more", *request[1:]]


def delimiter_last(request: list[bytes]) -> list[bytes]:
    return [request[0], b""]


def only_an_id(request: list[bytes]) -> list[bytes]:
    return [request[0]]


@pytest.mark.parametrize("make", [wrong_id, no_delimiter, deeper, delimiter_last, only_an_id])
def test_a_rep_s_reply_with_a_wrong_envelope(
    make: Callable[[list[bytes]], list[bytes]], zqueued: Zqueued
) -> None:
    with (
        RawPeer(zqueued.frontend(), "REQ") as asker,
        RawPeer(zqueued.backend(), "REP") as wrong,
    ):
        asker.send(b"", b"x")
        request = wrong.receive()
        with RawPeer(zqueued.backend(), "REP") as right:
            wrong.send(*make(request))
            wrong.farewell()
            event = zqueued.wait_event("peer.protocol_error", peer=wrong.name)
            assert event["reason"] == "a REP's reply has another envelope than the request"
            assert zqueued.wait_event("request.returned", peer=wrong.name)["requests"] == 1
            assert right.serve(1) == [b"x"]
        assert asker.receive() == [b"", b"x"]


def test_a_rep_that_answers_unasked(zqueued: Zqueued) -> None:
    with (
        RawPeer(zqueued.frontend(), "REQ", identity=b"me") as asker,
        RawPeer(zqueued.backend(), "REP") as wrong,
    ):
        wrong.send(b"me", b"", b"nobody asked")
        wrong.farewell()
        event = zqueued.wait_event("peer.protocol_error", peer=wrong.name)
        assert event["reason"] == "a REP answered although nothing was asked"
        with RawPeer(zqueued.backend(), "REP") as twice:
            asker.send(b"", b"x")
            request = twice.receive()
            twice.say(message(request) * 2)
            assert asker.receive() == [b"", b"x"]
            twice.farewell()
        with RawPeer(zqueued.backend(), "REP") as right:
            asker.send(b"", b"y")
            assert right.serve(1) == [b"y"]
            assert asker.receive() == [b"", b"y"], "and not the second answer"
    assert ends(zqueued).replied == 2


def test_a_rep_that_does_not_keep_the_order_answers_the_right_ones() -> None:
    """As some implementations' does when requests are sent to it ahead."""
    exchange = Exchange(prefetch=3)
    serving, asker = worker(exchange), client(exchange)
    for number in range(3):
        asker.send(b"tag %d" % number, b"", b"%d" % number)
    for request in (requests := serving.hear())[::-1]:
        serving.answer(request)
    assert len(requests) == 3
    assert asker.hear() == [[b"tag %d" % number, b"", b"%d" % number] for number in (2, 1, 0)]
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("wrong", ["twice", "another envelope", "nobody's"])
def test_a_rep_that_answers_what_was_not_asked_is_sent_away(wrong: str) -> None:
    exchange = Exchange(prefetch=3)
    serving, asker = worker(exchange), client(exchange)
    for number in range(2):
        asker.send(b"tag %d" % number, b"", b"x")
    first, second = serving.hear()
    serving.answer(first)
    if wrong == "twice":
        serving.answer(first)
    elif wrong == "another envelope":
        serving.send(second[0], *first[1:])
    else:
        serving.send(b"me", *second[1:])
    assert not serving.is_there
    assert (exchange.counters["waiting"], exchange.counters["protocol_errors"]) == (1, 1)
    assert len(asker.hear()) == 1
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("type", ["REP", "DEALER", "ROUTER"])
def test_what_a_worker_that_was_cut_off_says_later_is_no_answer_to_anything_else(type: str) -> None:
    """libzmq's sockets send on their next connection what they could not on the last one."""
    exchange = Exchange(prefetch=1)
    asker, cut_off = client(exchange, "REQ"), worker(exchange, type)
    asker.send(b"", b"one")
    (late,) = cut_off.hear()
    cut_off.close()
    other = worker(exchange)
    (request,) = other.hear()
    other.answer(request)
    other.close()
    assert asker.hear() == [[b"", b"one"]]
    again = worker(exchange, type)
    asker.send(b"", b"two")
    (request,) = again.hear()
    again.answer(late)
    assert asker.hear() == []
    again.answer(request)
    assert asker.hear() == [[b"", b"two"]]
    assert (exchange.counters["late_replies"], exchange.counters["extra_replies"]) == (1, 0)
    assert again.is_there
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("identity", [b"", b"me"])
def test_of_late_replies_that_look_alike_each_is_known(identity: bytes) -> None:
    """The one who comes back from the later connection does not take the place of the earlier."""
    exchange = Exchange()
    asker = client(exchange, identity=identity)
    late = []
    for name in (b"one", b"two"):
        cut_off = worker(exchange, "DEALER")
        asker.send(b"", name)
        (request,) = cut_off.hear()
        cut_off.close()
        late.append((worker(exchange, "DEALER"), request))
        (again,) = late[-1][0].hear()
        late[-1][0].answer(again)
        assert [reply[-1] for reply in asker.hear()] == [name]
        exchange.drain_worker(late[-1][0].number)
    for back, request in reversed(late):
        back.answer(request)
    assert asker.hear() == []
    assert (exchange.counters["late_replies"], exchange.counters["extra_replies"]) == (2, 0)
    assert_nothing_is_left(exchange)


def test_a_worker_that_comes_back_and_answers_something_else_first_is_late_all_the_same() -> None:
    """What has another envelope than the request is no reply to that, and uses up nothing."""
    exchange = Exchange()
    asker, cut_off = client(exchange, "DEALER"), worker(exchange, "DEALER")
    asker.send(b"tag", b"", b"one")
    (late,) = cut_off.hear()
    cut_off.close()
    other = worker(exchange, "DEALER")
    (request,) = other.hear()
    other.answer(request)
    assert asker.hear() == [[b"tag", b"", b"one"]]
    again = worker(exchange, "DEALER")
    again.send(late[0], b"another", b"", b"of itself")
    assert asker.hear() == [[b"another", b"", b"of itself"]]
    again.answer(late)
    assert asker.hear() == []
    assert (exchange.counters["late_replies"], exchange.counters["extra_replies"]) == (1, 1)
    assert_nothing_is_left(exchange)


def test_a_late_reply_to_a_client_with_a_name_is_known_by_its_envelope() -> None:
    """It is given to a DEALER as it is, for that may look at it."""
    exchange = Exchange()
    other = worker(exchange, "DEALER")
    asker, cut_off = client(exchange, identity=b"me"), worker(exchange, "DEALER")
    asker.send(b"tag 0", b"", b"zero")
    (request,) = other.hear()
    asker.send(b"tag 1", b"", b"one")
    other.answer(request)
    assert [reply[-1] for reply in asker.hear()] == [b"zero"]
    (late,) = cut_off.hear()
    assert late == [b"me", b"tag 1", b"", b"one"]
    cut_off.close()
    (request,) = other.hear()
    again = worker(exchange, "DEALER")
    other.answer(request)
    again.answer(late)
    other.answer(request, b"more")
    assert [reply[-1] for reply in asker.hear()] == [b"one", b"more"]
    assert exchange.counters["late_replies"] == 1
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("type", ["DEALER", "ROUTER"])
def test_workers_that_answer_in_any_order_and_often(type: str, zqueued: Zqueued) -> None:
    with (
        RawPeer(zqueued.frontend(), "DEALER", identity=b"one") as one,
        RawPeer(zqueued.frontend(), "DEALER", identity=b"two") as two,
        RawPeer(zqueued.backend(), type) as serving,
    ):
        for number in range(10):
            one.send(b"tag %d" % number, b"", b"x")
        two.send(b"tag 0", b"", b"x")
        requests = [serving.receive() for _ in range(11)]
        assert zqueued.queue().in_flight == 11
        for request in reversed(requests):
            serving.send(*request[:-1], b"first")
            serving.send(*request[:-1], b"second")
        for number in reversed(range(10)):
            assert one.receive() == [b"tag %d" % number, b"", b"first"]
            assert one.receive() == [b"tag %d" % number, b"", b"second"]
        assert [two.receive()[2] for _ in range(2)] == [b"first", b"second"]
        assert (zqueued.queue().in_flight, ends(zqueued).replied) == (0, 11)
        assert zqueued.queue().replies.messages == 22
        serving.send(b"two", b"unasked for")
        assert two.receive() == [b"unasked for"]
        assert ends(zqueued).replied == 11


def test_a_router_as_client(zqueued: Zqueued, peers: Peers, context: Context) -> None:
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.CONNECT_ROUTING_ID, b"the queue")
    router.connect(zqueued.frontend())
    peers.worker(zqueued.backend())
    for number in range(10):
        router.send_multipart([b"the queue", b"", b"%d" % number])
        assert router.recv_multipart() == [b"the queue", b"", b"w:%d" % number]


def test_a_router_as_worker(zqueued: Zqueued, peers: Peers, context: Context) -> None:
    router = context.socket(zmq.ROUTER)
    router.connect(zqueued.backend())
    client = peers.client(zqueued.frontend(), requests=10)
    for _ in range(10):
        router.send_multipart(router.recv_multipart())
    assert len(client.finish()) == 10
    assert ends(zqueued).replied == 10


def test_what_a_worker_held_that_left_goes_to_the_next_in_order(zqueued: Zqueued) -> None:
    with RawPeer(zqueued.frontend(), "DEALER") as asker:
        with RawPeer(zqueued.backend(), "DEALER") as leaving:
            for number in range(20):
                asker.send(b"", b"%d" % number)
            for _ in range(20):
                leaving.receive()
            asker.send(b"", b"20")
            leaving.receive()
        with RawPeer(zqueued.backend(), "REP") as serving:
            assert serving.serve(21) == [b"%d" % number for number in range(21)]
        for number in range(21):
            assert asker.receive() == [b"", b"%d" % number]


def test_a_request_that_no_worker_survives_is_dead(zqueued: Zqueued) -> None:
    with RawPeer(zqueued.frontend(), "REQ") as asker:
        asker.send(b"", b"poison")
        for _ in range(3):
            with RawPeer(zqueued.backend(), "REP") as dying:
                dying.receive()
        zqueued.wait_event("request.dead")
        assert ends(zqueued).dead == 1
        with RawPeer(zqueued.backend(), "REP") as serving, RawPeer(zqueued.frontend(), "REQ") as on:
            on.send(b"", b"x")
            assert serving.serve(1) == [b"x"]
            assert on.receive() == [b"", b"x"]


# -- replies that are nobody's -------------------------------------------------------------------


def test_replies_to_unknown_ids_are_dropped_and_told(zqueued: Zqueued) -> None:
    with RawPeer(zqueued.backend(), "DEALER") as serving:
        serving.send(b"nobody", b"", b"x")
        event = zqueued.wait_event("reply.dropped", peer=serving.name)
        assert event["reason"] == "no client has its routing id"
        with RawPeer(zqueued.frontend(), "REQ", identity=b"me") as asker:
            asker.send(b"", b"x")
            request = serving.receive()
        wait_for(lambda: zqueued.queue().clients.connected == 0)
        assert zqueued.queue().in_flight == 1
        serving.send(*request)
        zqueued.wait_event("reply.dropped", reason="its client has left")
        assert ends(zqueued).unclaimed == 1
        serving.send(*request)
        serving.send(b"")
        serving.send(b"x" * 300, b"")
        zqueued.wait_events("reply.dropped", 5)
        assert zqueued.queue().replies.messages == 5
        assert zqueued.queue().workers.connected == 1


def test_dropped_and_further_replies_are_counted() -> None:
    exchange = Exchange()
    serving, asker = worker(exchange, "DEALER"), client(exchange, identity=b"me")
    for reply in ([b"nobody", b"x"], [b""], [b"me"], [b"x" * 256, b""]):
        serving.send(*reply)
    assert exchange.counters["dropped_replies"] == 4
    serving.send(b"me", b"hello")
    assert asker.hear() == [[b"hello"]]
    assert exchange.counters["extra_replies"] == 1
    assert exchange.counters["reply_messages"] == 5
    assert_nothing_is_left(exchange)


# -- anything ------------------------------------------------------------------------------------


@given(st.data())
def test_every_request_is_answered_once_or_accounted_for(
    data: st.DataObject,
) -> None:
    """Clients and workers of any type, coming, going, asking and answering at random."""
    exchange = Exchange(prefetch=data.draw(st.integers(0, 3)), max_waiting=8)
    askers: list[Any] = []
    servers: list[Any] = []
    asked = 0
    got: list[bytes] = []

    def hear() -> None:
        for asker in askers:
            if asker.is_there:
                got.extend(frames[-1] for frames in asker.hear())
        for serving in servers:
            if serving.is_there:
                serving.hear()

    for _ in range(data.draw(st.integers(1, 40))):
        what = data.draw(st.sampled_from(["client", "worker", "ask", "answer", "leave", "steer"]))
        if what == "client":
            askers.append(client(exchange))
        elif what == "worker":
            servers.append(worker(exchange, data.draw(st.sampled_from(["REP", "DEALER"]))))
        elif what == "ask" and askers:
            asker = data.draw(st.sampled_from(askers))
            if asker.is_there and not exchange.held_back(asker.number):
                asker.send(b"", b"%d" % asked)
                asked += 1
        elif what == "answer" and servers:
            serving = data.draw(st.sampled_from(servers))
            if serving.is_there and serving.got:
                serving.answer(serving.got.pop(0))
        elif what == "leave" and askers + servers:
            leaving = data.draw(st.sampled_from(askers + servers))
            if leaving.is_there:
                leaving.close()
        elif what == "steer":
            exchange.steer(data.draw(st.sampled_from([0, 0, 1, 2])))
        hear()
        assert_adds_up(exchange)
    counted = exchange.counters
    assert counted["received"] == asked
    assert len(got) == len(set(got)) == counted["replied"]
    assert counted["protocol_errors"] == 0
    assert_nothing_is_left(exchange)


def test_thousands_of_clients_with_ids(zqueued: Zqueued) -> None:
    """The tables grow, and everybody is still found."""
    with RawPeer(zqueued.backend(), "DEALER") as serving:
        crowd = [RawPeer(zqueued.frontend(), "REQ", identity=b"c%d" % n) for n in range(300)]
        for each in crowd:
            each.send(b"", each.identity)
        requests = [serving.receive() for _ in crowd]
        for request in reversed(requests):
            serving.send(*request)
        for each in crowd:
            assert each.receive() == [b"", each.identity]
            each.close()
    wait_for(lambda: zqueued.queue().clients.connected == 0)
