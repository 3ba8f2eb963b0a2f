"""Peers of ZMTP implementations other than libzmq.

pyomq is written in Rust. azmq, in Python, cannot be imported by any Python that zqueue runs on; in
npm nothing speaks ZMTP over tcp but what wraps libzmq.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import StartZqueued
from tests.peers import Peers
from tests.waiting import DEADLINE, wait_for
from tests.zqueued import Zqueued

omq: Any = pytest.importorskip("pyomq", reason="pyomq is not installed", exc_type=ImportError)

BODIES = [b"", b"x", bytes(255), bytes(256), bytes(70_000), bytes(3 << 20)]


@pytest.fixture
def rust() -> Iterator[Any]:
    """A context of pyomq, whose sockets wait no longer than a test."""
    context = omq.Context()
    yield context
    context.destroy(linger=0)


def socket(context: Any, type: str, endpoint: str) -> Any:
    made = context.socket(getattr(omq, type))
    made.setsockopt(omq.LINGER, 0)
    made.setsockopt(omq.RCVTIMEO, round(DEADLINE * 1000))
    made.setsockopt(omq.SNDTIMEO, round(DEADLINE * 1000))
    made.connect(endpoint)
    return made


def test_its_req_as_client(zqueued: Zqueued, peers: Peers, rust: Any) -> None:
    peers.worker(zqueued.backend())
    req = socket(rust, "REQ", zqueued.frontend())
    for body in BODIES:
        req.send(body)
        assert req.recv() == b"w:" + body
    assert zqueued.wait_event("peer.connected", side="frontend")["type"] == "REQ"


def test_its_rep_as_worker(zqueued: Zqueued, peers: Peers, rust: Any) -> None:
    rep = socket(rust, "REP", zqueued.backend())
    clients = [peers.client(zqueued.frontend(), f"c{n}", requests=50) for n in range(3)]
    for _ in range(150):
        rep.send(b"re " + rep.recv())
    for each in clients:
        assert len(each.finish()) == 50
    assert zqueued.wait_event("peer.connected", side="backend")["type"] == "REP"


def test_its_rep_with_its_req(zqueued: Zqueued, rust: Any) -> None:
    req, rep = socket(rust, "REQ", zqueued.frontend()), socket(rust, "REP", zqueued.backend())
    for body in BODIES[1:]:
        # Without empty frames: its REP takes the last one for the delimiter, libzmq's the first.
        req.send_multipart([b"first", body])
        assert rep.recv_multipart() == [b"first", body]
        rep.send_multipart([body, b"last"])
        assert req.recv_multipart() == [body, b"last"]


@pytest.mark.parametrize("type", ["DEALER", "ROUTER"])
def test_its_dealer_as_client_and_dealer_or_router_as_worker(
    type: str, zqueued: Zqueued, rust: Any
) -> None:
    dealer = rust.socket(omq.DEALER)
    dealer.setsockopt(omq.IDENTITY, b"me")
    dealer.setsockopt(omq.RCVTIMEO, round(DEADLINE * 1000))
    dealer.connect(zqueued.frontend())
    serving = socket(rust, type, zqueued.backend())
    for number in range(100):
        dealer.send_multipart([b"tag", b"", b"%d" % number])
    for number in range(100):
        frames = serving.recv_multipart()
        assert frames[-4:] == [b"me", b"tag", b"", b"%d" % number]
        serving.send_multipart(frames)
        assert dealer.recv_multipart() == frames[-3:]
    ends = zqueued.queue().ends
    assert ends is not None
    assert ends.replied == 100


def test_its_workers_death_loses_nothing(zqueued: Zqueued, peers: Peers, rust: Any) -> None:
    rep = socket(rust, "REP", zqueued.backend())
    client = peers.client(zqueued.frontend(), requests=1)
    assert rep.recv() == b"c 0"
    rep.close(0)
    peers.worker(zqueued.backend())
    assert client.finish() == [b"w:c 0"]


def test_heartbeats_of_both(start_zqueued: StartZqueued, rust: Any) -> None:
    zqueued = start_zqueued("""
[queues.default]
frontend = { bind = "tcp://127.0.0.1:*", heartbeat = "100ms", heartbeat_timeout = "2s" }
backend = { bind = "tcp://127.0.0.1:*", heartbeat = "100ms", heartbeat_timeout = "2s" }
""")
    req, rep = rust.socket(omq.REQ), rust.socket(omq.REP)
    for each in (req, rep):
        each.setsockopt(omq.HEARTBEAT_IVL, 100)
        each.setsockopt(omq.HEARTBEAT_TIMEOUT, 2000)
        each.setsockopt(omq.HEARTBEAT_TTL, 2000)
        each.setsockopt(omq.RCVTIMEO, round(DEADLINE * 1000))
    req.connect(zqueued.frontend())
    rep.connect(zqueued.backend())
    req.send(b"x")
    assert rep.recv() == b"x"
    assert not req.poll(2500), "longer than any of the timeouts"
    rep.send(b"y")
    assert req.recv() == b"y"
    assert zqueued.events("peer.disconnected") == []


def test_a_mixed_crowd(zqueued: Zqueued, peers: Peers, rust: Any) -> None:
    """Its clients and workers beside libzmq's."""
    peers.worker(zqueued.backend())
    rep = socket(rust, "REP", zqueued.backend())
    ending = threading.Event()

    def serve() -> None:
        while not ending.is_set():
            if rep.poll(20):
                rep.send(b"o:" + rep.recv())

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    wait_for(lambda: zqueued.queue().workers.connected == 2)
    libzmqs = [peers.client(zqueued.frontend(), f"c{n}", requests=100) for n in range(2)]
    req = socket(rust, "REQ", zqueued.frontend())
    for number in range(100):
        req.send(b"%d" % number)
        assert req.recv()[2:] == b"%d" % number
    by = {reply[:1] for client in libzmqs for reply in client.finish()}
    assert by == {b"w", b"o"}
    ending.set()
    serving.join(DEADLINE)
