"""Who is still there: PING and PONG both ways, and what becomes of those who are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.peers import Peers
from tests.waiting import DEADLINE, wait_for
from tests.wire.exchange import HOLD, assert_nothing_is_left, client, worker
from tests.wire.raw import MORE, VERSIONS, RawPeer, command, frame, ping
from tests.zqueued import Zqueued
from zqueue.engine.wire.exchange import Exchange

WITH_HEARTBEAT = """
[queues.default]
frontend = { bind = "tcp://127.0.0.1:*", heartbeat = "200ms", heartbeat_timeout = "400ms" }
backend = { bind = "tcp://127.0.0.1:*", heartbeat = "200ms", heartbeat_timeout = "400ms" }
"""


# -- PINGs that come -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 1), (3, 0)], ids=str)
def test_a_ping_is_answered_with_its_context(version: tuple[int, int], zqueued: Zqueued) -> None:
    for endpoint, type in ((zqueued.frontend(), "DEALER"), (zqueued.backend(), "REP")):
        with RawPeer(endpoint, type, version=version) as peer:
            heard = peer.commands()
            for context in (b"", b"x", b"\0" * 16):
                peer.say(ping(0, context))
                assert next(heard) == b"\x04PONG" + context


def test_a_ping_in_the_midst_of_a_message(zqueued: Zqueued) -> None:
    with (
        RawPeer(zqueued.frontend(), "DEALER") as asker,
        RawPeer(zqueued.backend(), "REP") as answerer,
    ):
        asker.say(frame(b"", MORE) + ping(0, b"amid") + frame(b"a" * 9000, MORE))
        assert next(asker.commands()) == b"\x04PONGamid"
        asker.say(ping(0, b"again") + frame(b"b"))
        assert answerer.receive()[1:] == [b"", b"a" * 9000, b"b"]


def test_a_malformed_ping_is_a_protocol_error(zqueued: Zqueued) -> None:
    for said in (ping(0, bytes(17)), command(b"PING", b"\0"), command(b"PING")):
        with RawPeer(zqueued.frontend(), "DEALER") as peer:
            peer.say(said)
            peer.farewell()
            event = zqueued.wait_event("peer.protocol_error", peer=peer.name)
            assert event["reason"] in ("its PING is malformed", "it sent a command without a name")


def test_the_ttl_of_a_ping_is_honoured(zqueued: Zqueued) -> None:
    with (
        RawPeer(zqueued.frontend(), "DEALER") as lasting,
        RawPeer(zqueued.frontend(), "DEALER") as peer,
    ):
        lasting.say(ping(0))
        peer.say(ping(2))
        assert next(peer.commands()) == b"\x04PONG"
        peer.farewell()
        event = zqueued.wait_event("peer.protocol_error", peer=peer.name)
        assert event["reason"] == "it was silent for longer than the TTL of its PING"
        assert next(lasting.commands()) == b"\x04PONG"
    assert len(zqueued.events("peer.protocol_error")) == 1


@pytest.mark.parametrize("heartbeat", [0, 60])
def test_a_ttl_to_the_tenth_of_a_second(heartbeat: float) -> None:
    exchange = Exchange(heartbeat=heartbeat)
    silent, talkative, revoking = (client(exchange) for _ in range(3))
    for each in (silent, talkative, revoking):
        each.feed(ping(10))
    revoking.feed(ping(0))
    exchange.advance(0.9)
    assert silent.is_there
    talkative.send(b"", b"any traffic will do")
    exchange.advance(0.11)
    assert not silent.is_there
    assert talkative.is_there
    exchange.advance(0.9)
    assert not talkative.is_there
    exchange.advance(50)
    assert revoking.is_there
    assert exchange.counters["protocol_errors"] == 2
    assert_nothing_is_left(exchange)


# -- PINGs that go -------------------------------------------------------------------------------


def pings(exchange: Exchange, seconds: float, peer_type: str, version: tuple[int, int]) -> int:
    """How many come in so much time, when each is answered and nothing else is said."""
    serving = worker(exchange, peer_type, version=version)
    for _ in range(round(seconds * 10)):
        exchange.advance(0.1)
        serving.hear()
        for said in serving.commands[:]:
            assert said == b"\x04PING\0\0"
            serving.feed(command(b"PONG"))
    return len(serving.commands)


def test_only_peers_of_3_1_are_pinged() -> None:
    for version in VERSIONS:
        exchange = Exchange(heartbeat=1)
        assert (pings(exchange, 10.5, "REP", version) > 0) == (version == (3, 1))
        assert len(exchange.peers) == 1
        assert_nothing_is_left(exchange)


def test_without_heartbeat_nobody_is_pinged() -> None:
    exchange = Exchange()
    assert pings(exchange, 100, "REP", (3, 1)) == 0


def test_who_does_not_answer_is_gone_and_anything_is_an_answer() -> None:
    exchange = Exchange(heartbeat=1)
    silent, busy = worker(exchange), worker(exchange)
    asker = client(exchange, version=(3, 0))
    for _ in range(2):
        asker.send(b"", b"x")
    [request], [other] = silent.hear(), busy.hear()
    exchange.advance(1)
    busy.answer(other)
    asker.send(b"", b"y")
    busy.hear()
    exchange.advance(0.99)
    assert silent.is_there
    busy.answer(busy.got[-1])
    exchange.advance(0.02)
    assert not silent.is_there
    assert busy.is_there
    assert [again[1:] for again in busy.hear()] == [request[1:]], "what the silent one had"
    assert exchange.counters["protocol_errors"] == 1
    assert exchange.counters["returned"] == 1
    assert_nothing_is_left(exchange)


def test_a_client_that_is_held_back_is_not_taken_for_dead() -> None:
    """Its PONG waits behind its requests; it is the queue that does not listen."""
    exchange = Exchange(heartbeat=1, max_waiting=2)
    exchange.steer(HOLD)
    asker = client(exchange)
    for _ in range(3):
        if not exchange.held_back(asker.number):
            asker.send(b"", b"x")
    assert exchange.held_back(asker.number)
    for _ in range(100):
        exchange.advance(0.1)
    assert asker.is_there
    assert exchange.counters["waiting"] == 2
    assert_nothing_is_left(exchange)


def test_a_silent_worker_loses_its_requests_to_another(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    zqueued = start_zqueued(WITH_HEARTBEAT)
    with (
        RawPeer(zqueued.backend(), "REP") as silent,
        RawPeer(zqueued.backend(), "REP", version=(3, 0)) as old,
    ):
        clients = [peers.client(zqueued.frontend(), name, requests=1) for name in "ab"]
        silent.receive()
        old.serve(1)
        silent.farewell()
        event = zqueued.wait_event("peer.protocol_error", peer=silent.name)
        assert event["reason"] == "its heartbeat stopped"
        assert zqueued.wait_event("request.returned", peer=silent.name)["requests"] == 1
        old.serve(1)
        assert [len(client.finish()) for client in clients] == [1, 1]
        assert old.pings == []


def test_a_heartbeat_goes_on_while_its_answer_may_still_come(start_zqueued: StartZqueued) -> None:
    """PINGs go at their interval even if heartbeat_timeout is much longer."""
    zqueued = start_zqueued(WITH_HEARTBEAT.replace('"200ms"', '"50ms"').replace('"400ms"', '"1h"'))
    with RawPeer(zqueued.backend(), "REP") as peer:
        heard = peer.commands()
        for _ in range(5):
            assert next(heard) == b"\x04PING\0\0"
            peer.say(command(b"PONG"))


def test_a_stopped_process_loses_its_requests_to_another(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    """To tcp a process that is stopped looks alive; only a PING tells."""
    zqueued = start_zqueued(WITH_HEARTBEAT)
    code = (
        "import sys, zmq\n"
        "rep = zmq.Context().socket(zmq.REP); rep.connect(sys.argv[1])\n"
        "while rep.poll(): print(rep.recv(), flush=True)"
    )
    stopped = subprocess.Popen(
        [sys.executable, "-c", code, zqueued.backend()], stdout=subprocess.PIPE
    )
    assert stopped.stdout is not None
    try:
        client = peers.client(zqueued.frontend(), requests=1)
        assert stopped.stdout.readline() == b"b'c 0'\n"
        os.kill(stopped.pid, signal.SIGSTOP)
        peers.worker(zqueued.backend())
        assert client.finish() == [b"w:c 0"]
        zqueued.wait_event("peer.protocol_error", reason="its heartbeat stopped")
    finally:
        stopped.kill()
        stopped.wait(DEADLINE)
        stopped.stdout.close()


def test_heartbeats_of_libzmq_s_own(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """Both sides ask, both answer, nobody is thrown out, and nothing gets into the messages."""
    zqueued = start_zqueued(WITH_HEARTBEAT)
    client, server = context.socket(zmq.REQ), context.socket(zmq.REP)
    for each in (client, server):
        each.setsockopt(zmq.HEARTBEAT_IVL, 100)
        each.setsockopt(zmq.HEARTBEAT_TIMEOUT, 2000)
        each.setsockopt(zmq.HEARTBEAT_TTL, 2000)
    client.connect(zqueued.frontend())
    server.connect(zqueued.backend())
    wait_for(lambda: zqueued.queue().workers.connected == 1)
    # Long enough for a dozen PINGs each way between request and reply.
    client.send(b"question")
    assert server.recv() == b"question"
    assert not client.poll(1500)
    server.send(b"answer")
    assert client.recv() == b"answer"
    assert zqueued.events("peer.disconnected") == []
