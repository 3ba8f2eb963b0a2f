"""Limits on what a peer may send and on how many there may be; at none of them anything spins."""

from __future__ import annotations

import contextlib
import os
import resource
import select
from pathlib import Path

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.peers import Peers
from tests.test_steering import assert_idle
from tests.waiting import wait_for
from tests.wire.raw import MORE, Gone, RawPeer, address, frame, message
from tests.zqueued import Zqueued

Context = zmq.Context[zmq.Socket[bytes]]
MIB = 1 << 20

QUEUE = """
[queues.default]
frontend = {{ bind = "tcp://127.0.0.1:*"{frontend} }}
backend = {{ bind = "tcp://127.0.0.1:*"{backend} }}
{more}
"""


def config(more: str = "", *, frontend: str = "", backend: str = "") -> str:
    return QUEUE.format(frontend=frontend, backend=backend, more=more)


def assert_thrown_out(zqueued: Zqueued, peer: RawPeer, reason: str) -> None:
    peer.farewell()
    assert zqueued.wait_event("peer.protocol_error", peer=peer.name)["reason"] == reason
    peer.close()


def is_greeted(peer: RawPeer, within: float = 0) -> bool:
    """Whether the queue has said something to it yet."""
    return bool(select.select([peer.socket], [], [], within)[0])


# -- messages ------------------------------------------------------------------------------------


OF_A_WORKER = "a message is larger than max_message_size or max_frames allow"


def test_max_message_size_of_each_side(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(
        config(
            frontend=', max_message_size = "10KiB"',
            backend=', max_message_size = "20KiB"',
        )
    )
    reason = "a message is larger than max_message_size"
    frontend, backend = zqueued.frontend(), zqueued.backend()
    fits = 10 * 1024 - len(frame(b"", MORE)) - len(frame(bytes(300))) + 300
    with (
        RawPeer(frontend, "DEALER") as asker,
        RawPeer(backend, "DEALER") as serving,
    ):
        asker.send(b"", bytes(fits))
        assert serving.serve(1, bytes(20_000)) == [bytes(fits)]
        assert asker.receive()[1] == bytes(20_000)
        # Its length is enough, and so is the sum of many small frames.
        asker.say(message([b"", bytes(fits + 1)])[:20])
        assert_thrown_out(zqueued, asker, reason)
        with RawPeer(frontend, "DEALER") as other:
            other.say(frame(bytes(200), MORE) * 60)
            assert_thrown_out(zqueued, other, reason)
        serving.send(b"x", bytes(21_000))
        assert_thrown_out(zqueued, serving, OF_A_WORKER)
    assert zqueued.queue().requests.messages == 1
    peers.worker(backend)
    assert len(peers.client(frontend, requests=3).finish()) == 3


def test_max_frames(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(config("max_frames = 5"))
    reason = "a message has more frames than max_frames"
    with (
        RawPeer(zqueued.frontend(), "DEALER", identity=b"me") as asker,
        RawPeer(zqueued.backend(), "DEALER") as serving,
    ):
        asker.send(b"", b"1", b"2", b"3", b"4")
        assert serving.receive() == [b"me", b"", b"1", b"2", b"3", b"4"]
        asker.send(b"", b"1", b"2", b"3", b"4", b"5")
        assert_thrown_out(zqueued, asker, reason)
        with RawPeer(zqueued.frontend(), "DEALER") as other:
            other.say(frame(b"", MORE) * 6)
            assert_thrown_out(zqueued, other, reason)
        # Of a worker's message the envelope, which is the client's, does not count.
        serving.send(b"id", b"1", b"2", b"3", b"4", b"5")
        serving.send(b"id", b"1", b"2", b"3", b"4", b"5", b"6")
        assert_thrown_out(zqueued, serving, OF_A_WORKER)
    peers.worker(zqueued.backend())
    assert len(peers.client(zqueued.frontend(), requests=3).finish()) == 3


def test_an_envelope_costs_no_worker_its_connection(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    """A request just within its limits comes back with an envelope that is not the worker's."""
    zqueued = start_zqueued(config("max_frames = 10", backend=', max_message_size = "1KiB"'))
    worker = peers.worker(zqueued.backend())
    with RawPeer(zqueued.frontend(), "DEALER", identity=bytes(range(1, 200))) as asker:
        envelope = [bytes(200)] * 8
        asker.send(*envelope, b"", b"body")
        assert asker.receive() == [*envelope, b"", b"w:body"]
        too_large = [bytes(1 << 18)] * 8
        asker.send(*too_large, b"", b"body")
        asker.send(b"", b"next")
        assert asker.receive() == [b"", b"w:next"]
    assert worker.served == [b"body", b"next"]
    zqueued.wait_event("request.malformed")
    assert zqueued.events("peer.protocol_error") == []


def test_a_length_that_nobody_could_send(zqueued: Zqueued, peers: Peers) -> None:
    for size in ((1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 61):
        with RawPeer(zqueued.frontend(), "DEALER") as asker:
            asker.say(b"\x02" + size.to_bytes(8, "big") + b"x")
            asker.farewell()
            zqueued.wait_event("peer.protocol_error", peer=asker.name)
    peers.worker(zqueued.backend())
    assert len(peers.client(zqueued.frontend(), requests=3).finish()) == 3


def test_events_of_bad_peers_are_limited_and_counted(zqueued: Zqueued) -> None:
    """So that a flood of them does not become a flood of the log."""
    for _ in range(120):
        with RawPeer(zqueued.frontend(), "PUB", shake=False) as peer:
            peer.say(b"GET / HTTP/1.1\r\n")
            peer.farewell()
    wait_for(lambda: zqueued.queue().clients.rejected == 120)

    def told() -> int:
        """Suppressed ones are told of with the next that is not."""
        with RawPeer(zqueued.frontend(), "PUB", shake=False) as peer:
            peer.say(b"GET / HTTP/1.1\r\n")
            peer.farewell()
        events = zqueued.events("peer.rejected")
        return len(events) + sum(int(event.get("suppressed", 0)) for event in events)

    wait_for(lambda: told() >= 120, "all to be told of")


def test_so_are_those_of_peers_that_break_the_protocol_later(zqueued: Zqueued) -> None:
    broken = 120

    def breaks() -> None:
        with RawPeer(zqueued.frontend(), "DEALER") as peer:
            peer.say(b"\xf8\0")
            peer.farewell()

    def told() -> tuple[int, int]:
        """How many events there are, and how many they stand for."""
        events = zqueued.events("peer.protocol_error")
        return len(events), len(events) + sum(int(e.get("suppressed", 0)) for e in events)

    def all_told() -> bool:
        nonlocal broken
        breaks()
        broken += 1
        return told()[1] == broken

    for _ in range(broken):
        breaks()
    wait_for(lambda: zqueued.queue().clients.connected == 0)
    wait_for(all_told, "all to be told of")
    assert told()[0] < broken


# -- connections ---------------------------------------------------------------------------------


def test_max_connections_waits_in_the_backlog(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(config("max_connections = 4"))
    frontend, backend = zqueued.frontend(), zqueued.backend()
    crowd = [RawPeer(frontend, "DEALER") for _ in range(3)]
    with RawPeer(backend, "REP") as serving:
        waiting = [RawPeer(frontend, "DEALER", shake=False) for _ in range(2)]
        for each in waiting:
            each.send(b"", b"who waits")
        event = zqueued.wait_event("listener.closed_gate", side="frontend")
        assert (event["limit"], event["connections"]) == (4, 4)
        assert_idle(zqueued)
        assert not any(map(is_greeted, waiting))
        assert len(zqueued.events("listener.closed_gate")) == 2, "one for each side, once"
        crowd[0].send(b"", b"who is in")
        assert serving.serve(1) == [b"who is in"]
        assert crowd[0].receive() == [b"", b"who is in"]
        for each in crowd:
            each.close()
        for each in waiting:
            assert is_greeted(each, within=20)
            each.close()
        zqueued.wait_event("listener.opened_gate", side="frontend")
    with RawPeer(backend, "REP") as serving, RawPeer(frontend, "REQ") as late:
        late.send(b"", b"late")
        assert serving.serve(1) == [b"late"]
        assert late.receive() == [b"", b"late"]


def test_max_connections_per_address(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(
        config("max_connections_per_address = 3").replace("tcp://127.0.0.1:*", "tcp://0.0.0.0:*")
    )
    port = address(zqueued.frontend())[1]
    frontend = f"tcp://127.0.0.1:{port}"
    crowd = [RawPeer(frontend, "DEALER") for _ in range(3)]
    for _ in range(2):
        with RawPeer(frontend, "DEALER", shake=False) as refused:
            with pytest.raises(Gone):
                refused.exactly(1)
            event = zqueued.wait_event("peer.rejected", peer=refused.name)
            assert event["reason"].startswith("there are max_connections_per_address")
    assert zqueued.queue().clients.rejected == 2
    elsewhere = [RawPeer(frontend, "DEALER", source="127.0.0.2") for _ in range(3)]
    assert zqueued.queue().clients.connected == 6
    crowd.pop().close()
    wait_for(lambda: zqueued.queue().clients.connected == 5)
    crowd.append(RawPeer(frontend, "DEALER"))
    for each in (*crowd, *elsewhere):
        each.close()
    assert zqueued.events("listener.closed_gate") == []


def test_max_connections_per_address_of_many_addresses(start_zqueued: StartZqueued) -> None:
    """More than are counted at first, that come and go, and also over a hand-over."""
    zqueued = start_zqueued(
        config("max_connections_per_address = 2").replace("tcp://127.0.0.1:*", "tcp://0.0.0.0:*")
    )
    frontend = f"tcp://127.0.0.1:{address(zqueued.frontend())[1]}"
    sources = [f"127.0.1.{number}" for number in range(1, 151)]
    for turn in range(2):
        with contextlib.ExitStack() as crowd:
            for source in sources:
                for _ in range(2):
                    crowd.enter_context(RawPeer(frontend, "DEALER", source=source))
            wait_for(lambda: zqueued.queue().clients.connected == 300)
            if turn:
                assert zqueued.upgrade().returncode == 0
            for source in sources[::50]:
                refused = crowd.enter_context(
                    RawPeer(frontend, "DEALER", source=source, shake=False)
                )
                with pytest.raises(Gone):
                    refused.exactly(1)
        wait_for(lambda: zqueued.queue().clients.connected == 0)


def test_local_sockets_have_no_address_to_be_counted_by(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    zqueued = start_zqueued("""
[queues.default]
frontend = "ipc://*"
backend = "ipc://*"
max_connections_per_address = 1
""")
    peers.worker(zqueued.backend())
    clients = [peers.client(zqueued.frontend(), f"c{n}", requests=5) for n in range(4)]
    for each in clients:
        assert len(each.finish()) == 5


# -- descriptors ---------------------------------------------------------------------------------


def descriptors(zqueued: Zqueued) -> int:
    return len(os.listdir(f"/proc/{zqueued.process.pid}/fd"))


def test_out_of_descriptors(zqueued: Zqueued) -> None:
    """Taken away while it runs: accepting fails, is told, pauses, and goes on by itself."""
    frontend, backend = zqueued.frontend(), zqueued.backend()
    with RawPeer(frontend, "DEALER") as asker, RawPeer(backend, "REP") as serving:
        limits = resource.prlimit(zqueued.process.pid, resource.RLIMIT_NOFILE)
        now = descriptors(zqueued)
        resource.prlimit(zqueued.process.pid, resource.RLIMIT_NOFILE, (now, limits[1]))
        crowd = [RawPeer(frontend, "DEALER", shake=False) for _ in range(20)]
        event = zqueued.wait_event("listener.accept_failed", side="frontend")
        assert "Too many open files" in event["error"]
        told = zqueued.wait_event("listener.closed_gate", side="frontend")
        assert (told["descriptors"], told["limit"]) == (now, now)
        asker.send(b"", b"x")
        assert serving.serve(1) == [b"x"]
        assert asker.receive() == [b"", b"x"]
        before = zqueued.cpu_seconds()
        assert not is_greeted(crowd[-1], within=1)
        assert zqueued.cpu_seconds() - before < 0.2, "it spins"
        assert len(zqueued.events("listener.accept_failed")) < 10
        resource.prlimit(zqueued.process.pid, resource.RLIMIT_NOFILE, limits)
        for each in crowd:
            assert is_greeted(each, within=20)
            each.close()
        zqueued.wait_event("listener.opened_gate", side="frontend")
        asker.send(b"", b"x")
        assert serving.serve(1) == [b"x"]
    wait_for(lambda: descriptors(zqueued) <= now - 2, "all descriptors to be given back")


# -- memory --------------------------------------------------------------------------------------


def test_out_of_memory(zqueued: Zqueued, peers: Peers) -> None:
    """Taken away while it runs: a message that there is no memory for costs only its sender."""
    frontend, backend = zqueued.frontend(), zqueued.backend()
    pid = zqueued.process.pid
    with RawPeer(frontend, "DEALER") as asker, RawPeer(backend, "DEALER") as serving:
        limits = resource.prlimit(pid, resource.RLIMIT_AS)
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        taken = pages * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (taken + 32 * MIB, limits[1]))
        large = message([b"", bytes(64 * MIB)])
        with RawPeer(frontend, "DEALER") as greedy:
            greedy.say(large[:100])
            assert_thrown_out(zqueued, greedy, "there is no memory for its message")
        with RawPeer(backend, "DEALER") as greedy:
            greedy.say(large[:100])
            assert_thrown_out(zqueued, greedy, "there is no memory for its message")
        asker.send(b"", bytes(MIB))
        assert serving.serve(1, b"reply") == [bytes(MIB)]
        assert asker.receive() == [b"", b"reply"]
        resource.prlimit(pid, resource.RLIMIT_AS, limits)
        asker.say(large)
        assert serving.serve(1, b"reply") == [bytes(64 * MIB)]
        assert asker.receive() == [b"", b"reply"]


# -- coming and going ----------------------------------------------------------------------------


def test_peers_that_come_and_go_leave_no_descriptor(zqueued: Zqueued) -> None:
    frontend, backend = zqueued.frontend(), zqueued.backend()
    zqueued.queue()
    before = descriptors(zqueued)
    for number in range(100):
        with contextlib.ExitStack() as crowd:
            crowd.enter_context(RawPeer(frontend, "DEALER"))
            crowd.enter_context(RawPeer(backend, "REP")).say(b"\xff")
            crowd.enter_context(RawPeer(frontend, "PUB"))
            crowd.enter_context(RawPeer(frontend, "REQ", shake=False)).say(bytes(number))
            broken = crowd.enter_context(RawPeer(frontend, "REQ"))
            broken.send(b"", bytes(100))
            broken.reset()
    wait_for(lambda: zqueued.queue().clients.connected == zqueued.queue().workers.connected == 0)
    wait_for(lambda: descriptors(zqueued) <= before, "their descriptors to be closed")
    assert_idle(zqueued)
