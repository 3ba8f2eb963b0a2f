"""Who may come in, how long it may take, and what those are told who may not."""

from __future__ import annotations

import socket
from itertools import product

import pytest

from tests.conftest import StartZqueued
from tests.peers import Peers
from tests.waiting import wait_for
from tests.wire.exchange import FORWARD, assert_nothing_is_left, worker
from tests.wire.raw import (
    COMMAND,
    MORE,
    VERSIONS,
    RawPeer,
    Version,
    command,
    frame,
    greeting,
    hello,
    message,
    ready,
)
from tests.zqueued import Zqueued
from zqueue.engine.wire.exchange import Exchange

CLIENTS, WORKERS = ["REQ", "DEALER", "ROUTER"], ["REP", "DEALER", "ROUTER"]

QUICK = """
[queues.default]
frontend = { bind = "tcp://127.0.0.1:*", handshake_timeout = "300ms" }
backend = { bind = "tcp://127.0.0.1:*", handshake_timeout = "300ms" }
"""


def endpoint(zqueued: Zqueued, side: str) -> str:
    return zqueued.frontend() if side == "frontend" else zqueued.backend()


def assert_well(zqueued: Zqueued, peers: Peers) -> None:
    peers.worker(zqueued.backend())
    assert len(peers.client(zqueued.frontend(), "after", requests=5).finish()) == 5


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_each_version_and_type_on_both_sides(version: Version, zqueued: Zqueued) -> None:
    frontend, backend = zqueued.frontend(), zqueued.backend()
    for client_type, worker_type, byte_by_byte in product(CLIENTS, WORKERS, (False, True)):
        asker = RawPeer(frontend, client_type, version=version, byte_by_byte=byte_by_byte)
        answerer = RawPeer(backend, worker_type, version=version, byte_by_byte=byte_by_byte)
        with asker, answerer:
            name = f"{version[0]}.{version[1]}"
            assert zqueued.wait_event("peer.connected", peer=asker.name)["zmtp"] == name
            told = zqueued.wait_event("peer.connected", peer=answerer.name)
            assert (told["type"], told["zmtp"], told["side"]) == (worker_type, name, "backend")
            asker.say(message([b"", b"question"]), byte_by_byte=byte_by_byte)
            routing_id, delimiter, body = answerer.receive()
            size = 9 if worker_type == "REP" else 13
            assert (len(routing_id), routing_id[0], delimiter, body) == (size, 0, b"", b"question")
            answerer.say(message([routing_id, b"", b"answer"]), byte_by_byte=byte_by_byte)
            assert asker.receive() == [b"", b"answer"]


def test_what_zqueue_says_of_itself(zqueued: Zqueued) -> None:
    for version in VERSIONS:
        for side, type, said in (("frontend", "REQ", "ROUTER"), ("backend", "REP", "DEALER")):
            with RawPeer(endpoint(zqueued, side), type, version=version, shake=False) as peer:
                peer.say(hello(type, version))
                assert peer.heard_hello() == said


def test_it_greets_first_and_no_more_than_any_version_understands(zqueued: Zqueued) -> None:
    with RawPeer(zqueued.frontend(), "REQ", shake=False) as peer:
        assert peer.exactly(11) == b"\xff" + bytes(7) + b"\x01\x7f\x03"
        peer.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.exactly(1)


@pytest.mark.parametrize("side", ["frontend", "backend"])
def test_a_type_that_does_not_fit_is_told_why(side: str, zqueued: Zqueued, peers: Peers) -> None:
    refused = {
        "frontend": {"REP": "it is a REP", "PUB": "a client is", "PULL": "a client is"},
        "backend": {"REQ": "it is a REQ", "SUB": "a worker is", "PAIR": "a worker is"},
    }[side]
    for version, (type, reason) in product(VERSIONS, refused.items()):
        with RawPeer(endpoint(zqueued, side), type, version=version) as peer:
            told = peer.farewell()
            assert told.startswith(reason) if version[0] >= 3 else not told
            event = zqueued.wait_event("peer.rejected", peer=peer.name)
            assert event["reason"].startswith(reason)
            assert event["side"] == side
    queue = zqueued.queue()
    counted = queue.clients if side == "frontend" else queue.workers
    assert (counted.connected, counted.rejected) == (0, 3 * len(refused))
    assert zqueued.events("peer.protocol_error") == []
    assert_well(zqueued, peers)


def test_another_mechanism(zqueued: Zqueued) -> None:
    for mechanism in (b"PLAIN", b"CURVE", b"GSSAPI", b"NULLX", b"NULL\0x", b""):
        with RawPeer(zqueued.frontend(), "REQ", shake=False) as peer:
            peer.say(greeting(mechanism=mechanism))
            peer.exactly(64)
            peer.farewell()
            reason = zqueued.wait_event("peer.rejected", peer=peer.name)["reason"]
        known = mechanism in (b"PLAIN", b"CURVE")
        assert reason.startswith("it wants ")
        assert (f"the mechanism {mechanism.decode()}" in reason) == known


READY = b"\x05READY"
MALFORMED = {
    "cut in a name": READY + b"\x0bSocket-T",
    "no value": READY + b"\x0bSocket-Type",
    "cut in a length": READY + b"\x0bSocket-Type\0\0",
    "value too short": READY + b"\x0bSocket-Type\0\0\0\x04REQ",
    "length of 4 GiB": READY + b"\x0bSocket-Type\xff\xff\xff\xffREQ",
    "an empty name": READY + b"\0\0\0\0\0",
}
TOO_LONG = READY + b"\x0bSocket-Type\0\0\0\x03REQ\x08Identity\0\0\x01\0" + bytes(256)


def test_a_malformed_ready(zqueued: Zqueued) -> None:
    malformed = "its READY is malformed"
    said = [(how, body, malformed) for how, body in MALFORMED.items()]
    said.append(("identity too long", TOO_LONG, "its routing id is longer than 255 bytes"))
    for how, body, why in said:
        with RawPeer(zqueued.frontend(), "REQ", shake=False) as peer:
            peer.say(greeting() + frame(body, COMMAND))
            peer.heard_hello()
            assert peer.farewell() == why, how
            assert zqueued.wait_event("peer.rejected", peer=peer.name)["reason"] == why


def test_a_ready_without_a_type(zqueued: Zqueued) -> None:
    with RawPeer(zqueued.frontend(), "REQ", shake=False) as peer:
        peer.say(greeting() + command(b"READY"))
        peer.heard_hello()
        assert peer.farewell().startswith("a client is")


def test_something_else_than_ready(zqueued: Zqueued) -> None:
    for said, reason in [
        (command(b"ERROR", b"\x03why"), "it refused us with ERROR"),
        (command(b"HELLO"), "its handshake began with something else than READY"),
        (command(b"PING", b"\0\0"), "its handshake began with something else than READY"),
        (frame(b"", COMMAND), "its handshake began with something else than READY"),
        (frame(b"a"), "it sent a message before its handshake was done"),
        (message([b"", b"x" * 300]), "it sent a message before its handshake was done"),
        (bytes([64, 0]), "what it sent is not a ZMTP frame"),
    ]:
        with RawPeer(zqueued.backend(), "REP", shake=False) as peer:
            peer.say(greeting() + said)
            peer.heard_hello()
            peer.farewell()
            assert zqueued.wait_event("peer.rejected", peer=peer.name)["reason"] == reason


def test_no_memory_is_given_to_who_is_not_in_yet(zqueued: Zqueued) -> None:
    """The length of a message before READY is enough to refuse it; it is not waited for."""
    for version in VERSIONS:
        for said in (frame(bytes(5 << 20))[:20], frame(b"a", MORE) * 2):
            with RawPeer(zqueued.frontend(), "REQ", version=version, shake=False) as peer:
                peer.say(greeting(version) + said)
                peer.farewell()
                reason = zqueued.wait_event("peer.rejected", peer=peer.name)["reason"]
                assert reason == "it sent a message before its handshake was done"


def test_a_2_0_peer_whose_identity_is_none(zqueued: Zqueued) -> None:
    for said in (message([b"a", b"b"]), frame(bytes(256))):
        with RawPeer(zqueued.frontend(), "REQ", version=(2, 0), shake=False) as peer:
            peer.say(greeting((2, 0)) + said)
            peer.farewell()
            zqueued.wait_event("peer.rejected", peer=peer.name)
    with RawPeer(zqueued.frontend(), "REQ", version=(2, 0)) as peer:
        peer.say(command(b"PING", b"\0\0"))
        peer.farewell()
        event = zqueued.wait_event("peer.protocol_error", peer=peer.name)
        assert event["reason"] == "ZMTP 2.0 has no commands"


def test_unknown_metadata_is_passed_over(zqueued: Zqueued) -> None:
    metadata = [(b"X-Colour", b"red"), (b"Resource", b""), (b"X" * 255, bytes(5000))]
    with (
        RawPeer(zqueued.frontend(), "REQ", metadata=metadata, byte_by_byte=True) as asker,
        RawPeer(zqueued.backend(), "REP", metadata=metadata) as answerer,
    ):
        asker.send(b"", b"x")
        assert answerer.serve(1) == [b"x"]
        assert asker.receive() == [b"", b"x"]


def test_names_of_properties_are_of_any_case_and_in_any_order() -> None:
    exchange = Exchange()
    number = exchange.connect(0)
    said = READY + b"\x08identity\0\0\0\x01i\x0bSOCKET-TYPE\0\0\0\x03REQ"
    exchange.feed(number, greeting() + frame(said, COMMAND))
    assert exchange.counters["connected"] == [1, 0]
    other = exchange.connect(0)
    exchange.feed(other, hello("REQ", identity=b"i"))
    exchange.advance(1)
    assert other not in exchange.peers, "its routing id is taken"
    assert exchange.counters["connected"] == [1, 0]
    assert_nothing_is_left(exchange)


def test_a_handshake_that_stops_is_ended(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(QUICK)
    stopped = []
    for side in ("frontend", "backend"):
        for far in (0, 1, 11, 40, 64, 70):
            peer = RawPeer(endpoint(zqueued, side), "DEALER", shake=False)
            peer.say(hello("DEALER")[:far])
            stopped.append(peer)
    for peer in stopped:
        peer.exactly(11)
        peer.farewell()
        reason = zqueued.wait_event("peer.rejected", peer=peer.name)["reason"]
        assert reason == "its handshake took longer than handshake_timeout"
        peer.close()


def test_a_slow_loris_is_ended_though_it_says_something_all_the_time(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    zqueued = start_zqueued(QUICK)
    lorises = [RawPeer(zqueued.frontend(), "REQ", shake=False) for _ in range(30)]
    said = greeting() + ready("REQ", metadata=[(b"X", bytes(200))] * 100)
    worker = peers.worker(zqueued.backend())
    client = peers.client(zqueued.frontend())
    for at in range(len(said)):
        alive = 0
        for loris in lorises:
            try:
                loris.socket.send(said[at : at + 1])
                alive += 1
            except OSError:
                continue
        if not alive:
            break
    else:
        raise AssertionError("they were let in")
    for loris in lorises:
        loris.close()
    wait_for(lambda: zqueued.queue().clients.rejected == 30)
    assert client.stop()
    assert worker.served


def test_a_peer_that_is_in_is_not_ended_by_the_handshake_timeout(
    start_zqueued: StartZqueued,
) -> None:
    zqueued = start_zqueued(QUICK)
    with (
        RawPeer(zqueued.frontend(), "REQ") as asker,
        RawPeer(zqueued.backend(), "REP") as answerer,
        RawPeer(zqueued.frontend(), "REQ", shake=False) as late,
    ):
        late.farewell()
        zqueued.wait_event("peer.rejected", peer=late.name)
        asker.send(b"", b"x")
        assert answerer.serve(1) == [b"x"]
        assert asker.receive() == [b"", b"x"]


def test_another_protocol_is_named(zqueued: Zqueued) -> None:
    for said, reason in [
        (b"\x01\0", "it speaks ZMTP 1.0"),
        (b"\x06\0ident", "it speaks ZMTP 1.0"),
        (b"\xff\0\0\0\0\0\0\0\x01\0", "it speaks ZMTP 1.0"),
        (b"\xff\0\0\0\0\0\0\0\x01\x7f\0", "it speaks ZMTP 1.0"),
        (b"GET / HTTP/1.1\r\n\r\n", "it speaks HTTP"),
        (b"POST / HTTP/1.1\r\n\r\n", "it speaks HTTP"),
        (b"\x16\x03\x01\x02\x00\x01", "it speaks TLS"),
    ]:
        for side in ("frontend", "backend"):
            with RawPeer(endpoint(zqueued, side), "REQ", shake=False) as peer:
                peer.say(said)
                peer.exactly(11)
                peer.farewell()
                event = zqueued.wait_event("peer.rejected", peer=peer.name)
                assert event["reason"].startswith(reason)
                assert event["likely"]


def test_half_closed_in_its_handshake(zqueued: Zqueued) -> None:
    for far in (0, 5, 30, 66):
        with RawPeer(zqueued.frontend(), "REQ", shake=False) as peer:
            peer.say(hello("REQ")[:far])
            peer.socket.shutdown(socket.SHUT_WR)
            peer.exactly(11)
            peer.farewell()
            zqueued.wait_event("peer.rejected", peer=peer.name)
    assert zqueued.queue().clients.connected == 0


def test_half_closed_peers(zqueued: Zqueued, peers: Peers) -> None:
    """A client that says no more has left, with what it asked. What a worker said before counts."""
    with RawPeer(zqueued.frontend(), "DEALER") as gone:
        gone.send(b"", b"x")
        gone.socket.shutdown(socket.SHUT_WR)
        gone.farewell()
        wait_for(lambda: zqueued.queue().ends and zqueued.queue().clients.disconnected == 1)
        ends = zqueued.queue().ends
        assert ends is not None
        assert ends.withdrawn == 1
    with (
        RawPeer(zqueued.frontend(), "DEALER") as asker,
        RawPeer(zqueued.backend(), "REP") as answerer,
    ):
        for number in range(100):
            asker.send(b"", b"%d" % number)
        for _ in range(3):
            *envelope, _body = answerer.receive()
            answerer.send(*envelope, b"from the one that leaves")
        answerer.socket.shutdown(socket.SHUT_WR)
        for _ in range(3):
            assert asker.receive() == [b"", b"from the one that leaves"]
        answerer.farewell()
        with RawPeer(zqueued.backend(), "REP") as other:
            other.serve(97)
            assert [asker.receive()[1] for _ in range(97)] == [b"%d" % n for n in range(3, 100)]


def test_many_at_once_and_what_follows_in_the_same_packet(zqueued: Zqueued) -> None:
    """A peer need not wait for anything before it says everything."""
    with RawPeer(zqueued.backend(), "REP") as answerer:
        for version in VERSIONS:
            with RawPeer(zqueued.frontend(), "DEALER", version=version, shake=False) as asker:
                asker.say(hello("DEALER", version) + message([b"", b"early"]) * 50)
                asker.heard_hello()
                assert answerer.serve(50) == [b"early"] * 50
                assert [asker.receive() for _ in range(50)] == [[b"", b"early"]] * 50


def test_an_error_from_a_peer_that_is_in(zqueued: Zqueued) -> None:
    with RawPeer(zqueued.frontend(), "REQ") as peer:
        peer.say(command(b"ERROR", b"\x03why"))
        peer.farewell()
        zqueued.wait_event("peer.protocol_error", peer=peer.name, reason="it sent ERROR")
    with RawPeer(zqueued.frontend(), "REQ") as peer:
        peer.say(command(b"SUBSCRIBE", b"x") + command(b"X-UNKNOWN", bytes(1000)))
        peer.say(frame(b"\x09SHORT", COMMAND))
        peer.farewell()
        reason = zqueued.wait_event("peer.protocol_error", peer=peer.name)["reason"]
        assert reason == "it sent a command without a name"


def test_every_cut_of_a_conversation_gives_the_same() -> None:
    """The state machine, in two pieces at every place."""
    asked = [b"", b"q" * 300], [b"r" * 5000, b"", b"q"], [b"", b""]
    for version in VERSIONS:
        said = hello("DEALER", version, b"me") + b"".join(map(message, asked))
        for cut in range(0, len(said), 1 if version == (3, 1) else 7):
            exchange = Exchange()
            serving = worker(exchange, "DEALER")
            number = exchange.connect(0)
            exchange.feed(number, said[:cut])
            exchange.feed(number, said[cut:])
            assert serving.hear() == [[b"me", *frames] for frames in asked]
            assert_nothing_is_left(exchange)


def test_a_handshake_that_ends_leaves_nothing() -> None:
    said = hello("REQ", identity=b"x" * 255) + frame(b"a", MORE) + frame(bytes(9000))[:5000]
    for far in range(0, len(said), 13):
        exchange = Exchange(handshake=1)
        number = exchange.connect(0)
        exchange.feed(number, said[:far])
        exchange.advance(2)
        assert (number in exchange.peers) == (exchange.counters["connected"][0] == 1)
        exchange.steer(FORWARD)
        assert_nothing_is_left(exchange)
