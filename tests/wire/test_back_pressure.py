"""Bounds that hold: nothing is dropped, nobody starves, and who does not read costs only itself."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.peers import Peers
from tests.test_steering import assert_idle
from tests.waiting import DEADLINE, wait_for
from tests.wire.data_path import data_path
from tests.wire.exchange import FORWARD, HOLD, assert_nothing_is_left, client, worker
from tests.wire.raw import RawPeer, message
from tests.zqueued import Zqueued
from zqueue.engine.wire.exchange import Exchange

Context = zmq.Context[zmq.Socket[bytes]]
MIB = 1 << 20


def queue(*settings: str, frontend: str = "") -> str:
    return (
        "[queues.default]\n"
        f'frontend = {{ bind = "tcp://127.0.0.1:*"{frontend} }}\n'
        'backend = "tcp://127.0.0.1:*"\n' + "\n".join(settings) + "\n"
    )


def resident(zqueued: Zqueued) -> int:
    """Bytes of memory that the daemon has."""
    pages = Path(f"/proc/{zqueued.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def numbered(count: int, size: int = 1) -> list[bytes]:
    return [(b"%d" % number).ljust(size, b".") for number in range(count)]


def waiting(zqueued: Zqueued) -> int:
    found = zqueued.queue().waiting
    assert found is not None
    return found


# -- the bounds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "size", "taken", "reason"),
    [
        (queue("max_waiting = 7"), 1, 7, "max_waiting is reached"),
        (queue('max_waiting_bytes = "10KiB"'), 1000, 11, "max_waiting_bytes is reached"),
        (
            queue(frontend=", high_water_mark = 5"),
            1,
            5,
            "a client has as many requests waiting as it may",
        ),
    ],
    ids=["max_waiting", "max_waiting_bytes", "high_water_mark"],
)
def test_reading_stops_at_a_bound_and_nothing_is_dropped(
    config: str, size: int, taken: int, reason: str, start_zqueued: StartZqueued
) -> None:
    zqueued = start_zqueued(config)
    bodies = numbered(300, size)
    with RawPeer(zqueued.frontend(), "DEALER") as asker:
        for body in bodies:
            asker.send(b"", body)
        event = zqueued.wait_event("queue.congested")
        assert (event["reason"], event["peer"]) == (reason, asker.name)
        assert waiting(zqueued) == taken
        assert_idle(zqueued)
        assert zqueued.queue().requests.messages == taken
        with RawPeer(zqueued.backend(), "REP") as serving:
            assert serving.serve(300) == bodies
            assert [asker.receive()[1] for _ in bodies] == bodies


def test_a_bound_counts_bytes_to_the_message() -> None:
    size = len(message([b"", bytes(500)]))
    exchange = Exchange(max_waiting_bytes=3 * size)
    exchange.steer(HOLD)
    askers = [client(exchange) for _ in range(2)]
    askers[0].send(b"", bytes(500))
    askers[0].send(b"", bytes(500))
    assert not exchange.held_back(askers[1].number)
    askers[1].send(b"", bytes(500))
    assert all(exchange.held_back(each.number) for each in askers)
    assert exchange.counters["waiting_bytes"] == 3 * size
    exchange.steer(FORWARD)
    serving = worker(exchange, "DEALER")
    assert len(serving.hear()) == 3
    assert not any(exchange.held_back(each.number) for each in askers)
    assert_nothing_is_left(exchange)


def test_a_message_that_has_begun_is_read_to_its_end_when_the_bound_is_reached() -> None:
    """Half a message would only take the room and never give it back."""
    exchange = Exchange(max_waiting=1)
    exchange.steer(HOLD)
    begun, other = client(exchange), client(exchange)
    whole = message([b"", bytes(100_000)])
    begun.feed(whole[:50_000])
    other.send(b"", b"x")
    assert exchange.held_back(other.number)
    assert not exchange.held_back(begun.number)
    begun.feed(whole[50_000:])
    assert exchange.counters["waiting"] == 2
    assert exchange.held_back(begun.number)
    assert_nothing_is_left(exchange)


def test_a_flood_of_libzmq_s_arrives_whole(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(queue("max_waiting = 10"))
    for name in "AB":
        peers.worker(zqueued.backend(), name)
    frontend = zqueued.frontend()

    def flood() -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.connect(frontend)
            sender = threading.Thread(
                target=lambda: [dealer.send_multipart([b"", body]) for body in numbered(1000)]
            )
            sender.start()
            sender.join(DEADLINE)
            got: list[bytes] = []
            while len(got) < 1000 and dealer.poll(round(DEADLINE * 1000)):
                got.append(dealer.recv_multipart()[1][2:])
            complete.append(sorted(got) == sorted(numbered(1000)))

    complete: list[bool] = []
    floods = [threading.Thread(target=flood) for _ in range(3)]
    for each in floods:
        each.start()
    for each in floods:
        each.join(2 * DEADLINE)
    assert complete == [True] * 3


# -- fairness ------------------------------------------------------------------------------------


def test_a_greedy_client_does_not_starve_the_rest() -> None:
    """Whoever waits for room has a turn, then the next one has."""
    exchange = Exchange(max_waiting=4, prefetch=1)
    exchange.steer(HOLD)
    greedy = client(exchange, identity=b"greedy")
    greedy.feed(message([b"", b"x"]) * 1000)
    modest = [client(exchange, identity=b"%d" % number) for number in range(5)]
    for each in modest:
        each.send(b"", b"y")
        assert exchange.held_back(each.number)
    exchange.steer(FORWARD)
    serving = worker(exchange)
    order: list[bytes] = []
    while len(set(order)) < 6:
        [request] = serving.hear()
        order.append(request[0])
        serving.answer(request)
    assert len(order) < 50
    assert_nothing_is_left(exchange)


def test_turns_are_a_few_requests_each() -> None:
    """Several greedy clients share what there is."""
    exchange = Exchange(max_waiting=32)
    greedy = [client(exchange, identity=b"%d" % number) for number in range(4)]
    exchange.steer(HOLD)
    for each in greedy:
        with contextlib.suppress(BlockingIOError):
            each.feed(message([b"", b"x"]) * 500)
    exchange.steer(FORWARD)
    serving = worker(exchange, "DEALER")
    seen: list[bytes] = []
    while requests := serving.hear():
        seen += [request[0] for request in requests]
    assert len(seen) == 2000
    first = seen[:320]
    assert {name: first.count(name) for name in set(first)} == {
        b"0": pytest.approx(80, abs=32),
        b"1": pytest.approx(80, abs=32),
        b"2": pytest.approx(80, abs=32),
        b"3": pytest.approx(80, abs=32),
    }
    assert_nothing_is_left(exchange)


def test_a_modest_client_beside_a_flood(start_zqueued: StartZqueued, peers: Peers) -> None:
    """While one client keeps the queue full, the other's requests still get in and out."""
    zqueued = start_zqueued(queue("max_waiting = 20"))
    frontend = zqueued.frontend()
    for name in "AB":
        peers.worker(zqueued.backend(), name, work=0.001)
    with RawPeer(frontend, "DEALER") as greedy:

        def say() -> None:
            with contextlib.suppress(OSError):
                greedy.say(message([b"", b"x" * 100]) * 50_000)

        flood = threading.Thread(target=say, daemon=True)
        flood.start()
        zqueued.wait_event("queue.congested")
        asked = zqueued.queue().requests.messages
        assert len(peers.client(frontend, "modest", requests=20).finish()) == 20
        assert zqueued.queue().requests.messages - asked < 20 * 200
        greedy.socket.shutdown(socket.SHUT_RDWR)
        flood.join(DEADLINE)


def test_one_at_its_own_bound_does_not_hold_up_the_others(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(queue(frontend=", high_water_mark = 5"))
    with (
        RawPeer(zqueued.frontend(), "DEALER") as greedy,
        RawPeer(zqueued.frontend(), "DEALER") as modest,
    ):
        greedy.say(message([b"", b"x"]) * 100)
        wait_for(lambda: waiting(zqueued) == 5)
        modest.send(b"", b"mine")
        wait_for(lambda: waiting(zqueued) == 6)


def test_a_client_that_is_held_back_may_leave(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(queue("max_waiting = 7"))
    with RawPeer(zqueued.frontend(), "DEALER") as staying:
        with RawPeer(zqueued.frontend(), "DEALER") as leaving:
            leaving.say(message([b"", b"x"]) * 100)
            wait_for(lambda: waiting(zqueued) == 7)
            staying.say(message([b"", b"mine"]) * 5)
        wait_for(lambda: waiting(zqueued) == 5)
        found = zqueued.queue()
        assert found.ends is not None
        assert (found.ends.withdrawn, found.clients.connected) == (100, 1)
        with RawPeer(zqueued.backend(), "REP") as serving:
            assert serving.serve(5) == [b"mine"] * 5


# -- who does not read ---------------------------------------------------------------------------


def test_a_client_that_never_reads_costs_a_bound_and_then_itself(
    start_zqueued: StartZqueued,
) -> None:
    zqueued = start_zqueued(queue('max_unsent = "16MiB"'))
    with (
        RawPeer(zqueued.frontend(), "DEALER", identity=b"deaf", receive_buffer=4096) as deaf,
        RawPeer(zqueued.frontend(), "DEALER", identity=b"other") as other,
        RawPeer(zqueued.backend(), "DEALER") as serving,
    ):
        deaf.say(message([b"", b"x"]) * 200)
        requests = [serving.receive() for _ in range(200)]
        before = resident(zqueued)
        answered = 0
        while not zqueued.events("peer.disconnected", peer=deaf.name):
            serving.send(*requests[answered][:-1], bytes(MIB // 2))
            answered += 1
            other.send(b"", b"still here")
            serving.serve(1)
            assert other.receive() == [b"", b"still here"]
        event = zqueued.wait_event("peer.disconnected", peer=deaf.name)
        assert event["reason"] == "it does not read its replies, and max_unsent was reached"
        assert 30 < answered < 60
        assert resident(zqueued) - before < 48 * MIB
        # Its further replies are nobody's, and the worker goes on.
        serving.send(*requests[-1])
        zqueued.wait_event("reply.dropped", reason="its client has left")
        assert other.socket.fileno() >= 0
        assert zqueued.queue().workers.connected == 1


def test_a_client_that_does_not_read_is_not_read_from(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(queue())
    with (
        RawPeer(zqueued.frontend(), "DEALER", receive_buffer=4096) as deaf,
        RawPeer(zqueued.backend(), "DEALER") as serving,
    ):
        deaf.send(b"", b"x")
        serving.serve(1, bytes(20 * MIB))
        wait_for(lambda: zqueued.queue().replies.messages == 1)
        deaf.say(message([b"", b"x"]) * 100)
        event = zqueued.wait_event("queue.congested")
        assert event["reason"] == "a client does not read its replies"
        assert_idle(zqueued)
        assert zqueued.queue().requests.messages == 1
        # It is not thrown out, and once it reads it is heard.
        assert len(deaf.receive()[1]) == 20 * MIB
        assert serving.serve(100) == [b"x"] * 100
        assert [deaf.receive() for _ in range(100)] == [[b"", b"x"]] * 100


def test_a_worker_that_does_not_read_holds_up_only_what_it_has(zqueued: Zqueued) -> None:
    with (
        RawPeer(zqueued.frontend(), "DEALER") as asker,
        RawPeer(zqueued.backend(), "DEALER", receive_buffer=4096) as deaf,
    ):
        for _ in range(100):
            asker.send(b"", bytes(100_000))
        wait_for(lambda: zqueued.queue().requests.messages == 100)
        stuck = zqueued.queue().in_flight
        assert stuck is not None
        assert stuck < 100, "the rest waits where any worker can have it"
        with RawPeer(zqueued.backend(), "REP") as serving:
            serving.serve(100 - stuck)
            for _ in range(100 - stuck):
                asker.receive()
            deaf.close()
            serving.serve(stuck)
            for _ in range(stuck):
                asker.receive()


def test_a_backlog_that_is_answered_gives_its_memory_back(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(queue(frontend=", high_water_mark = 0"))
    with RawPeer(zqueued.frontend(), "DEALER") as asker:
        before = resident(zqueued)
        for _ in range(60):
            asker.say(message([b"", b"x"]) * 1000)
        wait_for(lambda: waiting(zqueued) == 60_000)
        assert resident(zqueued) - before > 8 * MIB
        with RawPeer(zqueued.backend(), "DEALER") as serving:
            for _ in range(60):
                serving.serve(1000)
                for _ in range(1000):
                    asker.receive()
        wait_for(lambda: resident(zqueued) - before < 4 * MIB, within=60)


# -- paused --------------------------------------------------------------------------------------


def test_a_flood_into_a_paused_queue_is_bounded(
    start_zqueued: StartZqueued, context: Context
) -> None:
    zqueued = start_zqueued(queue('max_waiting_bytes = "8MiB"'))
    with RawPeer(zqueued.backend(), "REP") as serving:
        assert zqueued.ctl("pause").returncode == 0
        before = resident(zqueued)
        floods, poller, sent = [context.socket(zmq.DEALER) for _ in range(4)], zmq.Poller(), 0
        for each in floods:
            each.sndhwm = 100
            each.connect(zqueued.frontend())
            poller.register(each, zmq.POLLOUT)
        while ready := poller.poll(500):
            for each, _event in ready:
                each.send_multipart([b"", bytes(50_000)])
                sent += 1
        assert sent * 50_000 > 2 * 8 * MIB, "more than the queue may take was offered"
        # What has begun when the bound is reached is read to its end: one more of each client.
        full = -(-8 * MIB // len(message([b"", bytes(50_000)])))
        taken = zqueued.queue()
        assert taken.waiting == taken.requests.messages
        assert full <= taken.requests.messages <= full + 4
        # Blocks of memory are powers of two, and each client may have a read's worth on top.
        assert resident(zqueued) - before < 8 * MIB * 2 + 4 * 2 * MIB
        assert_idle(zqueued)
        assert zqueued.ctl("resume").returncode == 0
        assert len(serving.serve(sent, b"ok")) == sent
        for each in floods:
            each.close(0)


@pytest.mark.parametrize("most", [1, 3, 4])
def test_however_little_may_be_unread_a_client_that_has_read_all_is_read_from(most: int) -> None:
    exchange = Exchange(client_unsent=most)
    asker, serving = client(exchange), worker(exchange)
    asker.send(b"", b"x")
    assert serving.hear() == [[*serving.got[0][:-1], b"x"]]
    assert_nothing_is_left(exchange)


def test_a_client_goes_on_once_its_replies_are_out() -> None:
    """It is held back while they are not, and no other event need come to let it go on."""
    with (
        data_path(max_waiting_bytes=0, client_unsent=0) as (frontend, backend, _),
        RawPeer(frontend, "DEALER", receive_buffer=8 * MIB) as asker,
        RawPeer(backend, "DEALER") as serving,
    ):
        rounds = 150
        asking = threading.Thread(
            target=asker.say, args=(message([b"", bytes(3000)]) * 20 * rounds,)
        )
        answering = threading.Thread(
            target=lambda: [serving.serve(20, bytes(MIB // 4)) for _ in range(rounds)]
        )
        for thread in (asking, answering):
            thread.daemon = True
            thread.start()
        for _ in range(20 * rounds):
            assert len(asker.receive()[1]) == MIB // 4
        for thread in (asking, answering):
            thread.join(DEADLINE)
