"""Peers that do what they should not. Each gets a clear answer, and nobody else is hurt."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading

import pytest
import zmq

from tests.engines import on_every_engine
from tests.peers import Peers
from tests.waiting import wait_for
from tests.zqueued import Zqueued
from zqueue.control.messages import Peers as Counted

pytestmark = on_every_engine


EXACTLY = {b"G": "HTTP", b"\x16": "TLS", b"\xff": "mechanism", b"\0": "ZMTP 1.0"}
"""What the wire engine says of somebody whose first byte is this."""


@pytest.fixture
def served(zqueued: Zqueued, peers: Peers) -> Zqueued:
    """A daemon with a worker."""
    peers.worker(zqueued.backend())
    wait_for(lambda: zqueued.queue().workers.connected == 1)
    return zqueued


def assert_well(zqueued: Zqueued, peers: Peers) -> None:
    assert len(peers.client(zqueued.frontend(), "after", requests=20).finish()) == 20


def address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host, int(port)


@pytest.mark.parametrize("side", ["frontend", "backend"])
@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00" * 50,
        b"\xff" * 100,
        b"\0" * 100,
    ],
    ids=["HTTP", "TLS", "ones", "zeros"],
)
def test_who_speaks_something_else_is_told_as_an_event(
    said: bytes, side: str, served: Zqueued, peers: Peers, engine: str
) -> None:
    def side_of(zqueued: Zqueued) -> Counted:
        queue = zqueued.queue()
        return queue.clients if side == "frontend" else queue.workers

    endpoint = served.frontend() if side == "frontend" else served.backend()
    before = side_of(served).accepted
    with socket.create_connection(address(endpoint)) as stranger:
        peer = "tcp://{}:{}".format(*stranger.getsockname())
        stranger.sendall(said)
        stranger.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b"\xff", "libzmq's greeting"
        wait_for(lambda: side_of(served).accepted - before == 1)
    event = served.wait_event("peer.rejected", side=side)
    # Whom libzmq sends away at once may be gone before anybody can ask for the address.
    assert event["peer"] in (peer, "unknown")
    assert event["queue"] == "default"
    assert "TLS" in event["likely"] or "browser" in event["likely"]
    if engine == "wire":
        assert EXACTLY[said[:1]] in event["reason"]
    assert side_of(served).rejected == 1
    assert_well(served, peers)


def test_a_tls_client(served: Zqueued, peers: Peers) -> None:
    context = ssl.create_default_context()
    with (
        socket.create_connection(address(served.frontend()), timeout=10) as stranger,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        context.wrap_socket(stranger, server_hostname="x")
    served.wait_event("peer.rejected", side="frontend")
    assert_well(served, peers)


def test_a_client_that_connects_to_the_workers_port(
    served: Zqueued, peers: Peers, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    lost = context.socket(zmq.REQ)
    lost.connect(served.backend())
    event = served.wait_event("peer.rejected", side="backend")
    assert "a client that connects to the workers' port" in event["likely"]
    lost.close(0)
    assert_well(served, peers)


def test_a_client_that_dies_in_the_middle(served: Zqueued, peers: Peers) -> None:
    peers.worker(served.backend(), work=0.3)
    code = (
        "import sys, zmq\n"
        "req = zmq.Context().socket(zmq.REQ); req.connect(sys.argv[1]); req.send(b'x')\n"
        "req.poll()"
    )
    for _ in range(3):
        dying = subprocess.Popen([sys.executable, "-c", code, served.frontend()])
        wait_for(lambda: served.queue().requests.messages > 0)
        dying.kill()
        dying.wait()
    assert_well(served, peers)
    wait_for(lambda: served.queue().in_flight == 0)


def test_a_thousand_clients_that_come_and_go(served: Zqueued, peers: Peers) -> None:
    frontend = served.frontend()

    def crowd() -> None:
        with zmq.Context() as context:
            context.setsockopt(zmq.LINGER, 0)
            for number in range(250):
                with context.socket(zmq.REQ) as req:
                    req.connect(frontend)
                    if number % 2:
                        req.send(b"gone before the reply")

    crowds = [threading.Thread(target=crowd) for _ in range(4)]
    for each in crowds:
        each.start()
    for each in crowds:
        each.join(60)
    assert_well(served, peers)
    wait_for(lambda: served.queue().clients.connected == 0)
    clients = served.queue().clients
    assert clients.accepted == clients.disconnected + clients.rejected


@pytest.mark.parametrize(
    "body",
    [
        [os.urandom(100 << 20)],
        [b"%d" % number for number in range(10_000)],
        [b""],
        [b""] * 50,
        [b"x" * 1000, b"", b"y" * 100_000],
    ],
    ids=["100 MiB", "10,000 frames", "empty", "empty frames", "uneven frames"],
)
def test_unusual_messages_arrive_whole(
    body: list[bytes],
    zqueued: Zqueued,
    peers: Peers,
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    client, worker = context.socket(zmq.REQ), context.socket(zmq.REP)
    client.connect(zqueued.frontend())
    worker.connect(zqueued.backend())
    client.send_multipart(body)
    assert worker.recv_multipart() == body
    worker.send_multipart(body)
    assert client.recv_multipart() == body
    wait_for(lambda: zqueued.queue().replies.bytes == 5 + sum(map(len, body)))
    assert zqueued.queue().requests.frames == 2 + len(body)
    worker.close(0)
    assert zqueued.queue().state == "running"


def test_a_message_without_delimiter(
    served: Zqueued, peers: Peers, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    dealer = context.socket(zmq.DEALER)
    dealer.connect(served.frontend())
    for message in ([b"no delimiter"], [b"two", b"frames"], [b""]):
        dealer.send_multipart(message)
    assert_well(served, peers)


def test_a_reply_to_nobody(
    served: Zqueued, peers: Peers, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """A worker that answers what it was never asked, and clients that are not there."""
    worker = context.socket(zmq.DEALER)
    worker.connect(served.backend())
    for reply in ([b"nobody", b"", b"x"], [b""], [b"", b""], [b"x"] * 100, [b"\0" * 300, b""]):
        worker.send_multipart(reply)
    worker.close(1000)
    wait_for(lambda: served.queue().replies.frames >= 108)
    assert_well(served, peers)
    assert served.queue().in_flight == 0
