"""Peers that leave in ways of their own: not yet accepted, in one direction only, with a RST."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from tests.conftest import StartZqueued
from tests.peers import Peers
from tests.test_steering import assert_idle
from tests.waiting import wait_for
from tests.wire.raw import RawPeer, hello, message
from tests.zqueued import ONE_QUEUE, Zqueued

OF_IPC = ONE_QUEUE.replace("tcp://127.0.0.1:*", "ipc://*")


@pytest.fixture(params=[ONE_QUEUE, OF_IPC], ids=["tcp", "ipc"])
def zqueued(request: pytest.FixtureRequest, start_zqueued: StartZqueued) -> Zqueued:
    return start_zqueued(request.param)


@pytest.fixture
def local(start_zqueued: StartZqueued) -> Zqueued:
    """Only a local peer can let it be known that it reads no more."""
    return start_zqueued(OF_IPC)


def descriptors(zqueued: Zqueued) -> int:
    return len(os.listdir(f"/proc/{zqueued.process.pid}/fd"))


def test_before_they_are_accepted(zqueued: Zqueued, peers: Peers) -> None:
    frontend, backend = zqueued.frontend(), zqueued.backend()
    before = descriptors(zqueued)
    zqueued.process.send_signal(signal.SIGSTOP)
    for number in range(30):
        for endpoint in (frontend, backend):
            peer = RawPeer(endpoint, "DEALER", shake=False)
            if number % 3:
                peer.say(hello("DEALER") + message([b"", b"x"]))
            if number % 2:
                peer.reset()
            else:
                peer.close()
    zqueued.process.send_signal(signal.SIGCONT)

    def have_left() -> bool:
        found = zqueued.queue()
        left = [side.disconnected + side.rejected for side in (found.clients, found.workers)]
        return left == [side.accepted for side in (found.clients, found.workers)] and min(left) > 0

    wait_for(have_left, "all of them to have left")
    wait_for(lambda: descriptors(zqueued) <= before, "their descriptors to be closed")
    assert_idle(zqueued)
    peers.worker(backend)
    assert len(peers.client(frontend, requests=3).finish()) == 3


def test_a_worker_with_a_reset(zqueued: Zqueued) -> None:
    with (
        RawPeer(zqueued.frontend(), "DEALER") as asker,
        RawPeer(zqueued.backend(), "DEALER") as leaving,
    ):
        for number in range(10):
            asker.send(b"", b"%d" % number)
        assert leaving.serve(3) == [b"0", b"1", b"2"]
        assert [asker.receive()[1] for _ in range(3)] == [b"0", b"1", b"2"]
        wait_for(lambda: zqueued.queue().in_flight == 7)
        leaving.reset()
        with RawPeer(zqueued.backend(), "REP") as other:
            rest = [b"%d" % number for number in range(3, 10)]
            assert other.serve(7) == rest
            assert [asker.receive()[1] for _ in rest] == rest


def test_a_worker_that_reads_no_more(local: Zqueued) -> None:
    """It would never get what it is given, nor leave; what it said before counts."""
    with (
        RawPeer(local.frontend(), "DEALER") as asker,
        RawPeer(local.backend(), "DEALER") as deaf,
    ):
        asker.send(b"", b"first")
        request = deaf.receive()
        deaf.socket.shutdown(socket.SHUT_RD)
        deaf.send(*request)
        assert asker.receive() == [b"", b"first"]
        asker.send(b"", b"second")
        event = local.wait_event("peer.disconnected", side="backend")
        assert event["reason"] == "nothing can be sent to it any more"
        with RawPeer(local.backend(), "REP") as other:
            assert other.serve(1) == [b"second"]
            assert asker.receive() == [b"", b"second"]


def test_a_client_that_reads_no_more(local: Zqueued) -> None:
    with (
        RawPeer(local.frontend(), "DEALER") as deaf,
        RawPeer(local.backend(), "REP") as serving,
    ):
        deaf.socket.shutdown(socket.SHUT_RD)
        deaf.send(b"", b"x")
        serving.serve(1)
        local.wait_event("peer.disconnected", side="frontend")
        assert_idle(local)
