"""The original scene: plain REQ clients, plain REP servers that connect, the device between."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.engines import on_every_engine
from tests.peers import Peers
from tests.waiting import wait_for
from tests.zqueued import Zqueued, has_ipv6

pytestmark = on_every_engine


def test_with_two_servers_requests_alternate(zqueued: Zqueued, peers: Peers) -> None:
    for name in ("A", "B"):
        peers.worker(zqueued.backend(), name)
    wait_for(lambda: zqueued.queue().workers.connected == 2)
    replies = peers.client(zqueued.frontend(), requests=9).finish()
    assert len(replies) == 9
    servers = [reply.split(b":")[0] for reply in replies]
    assert all(one != other for one, other in itertools.pairwise(servers))


def test_each_client_gets_its_own_replies(zqueued: Zqueued, peers: Peers) -> None:
    for name in ("A", "B"):
        peers.worker(zqueued.backend(), name, work=0.001)
    clients = [peers.client(zqueued.frontend(), f"client-{n}", requests=50) for n in range(8)]
    for client in clients:
        replies = client.finish()
        assert [reply.split(b":")[1] for reply in replies] == [
            f"{client.name} {number}".encode() for number in range(50)
        ]
    queue = zqueued.queue()
    assert (queue.requests.messages, queue.replies.messages) == (400, 400)
    assert (queue.requests.frames, queue.in_flight, queue.lost) == (1200, 0, 0)


def test_the_two_programs_of_the_demo(zqueued: Zqueued) -> None:
    command = [sys.executable, "-m", "zqueue.cli.zqueuectl", "demo"]
    server = subprocess.Popen(
        [*command, "server", "-e", zqueued.backend(), "--work", "1ms", "--requests", "9"],
        stdout=subprocess.PIPE,
        text=True,
    )
    client = subprocess.run(
        [*command, "client", "-e", zqueued.frontend(), "--id", "me"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    served, _ = server.communicate(timeout=60)
    assert (client.returncode, server.returncode) == (0, 0)
    assert client.stdout.splitlines() == [f"client me received World from server {server.pid}"] * 9
    assert served.count("received Hello from me") == 9


@pytest.mark.parametrize("endpoint", ["ipc://*", "ipc://@{name}", "tcp://[::1]:*", "tcp://lo:*"])
def test_over_any_kind_of_endpoint(
    endpoint: str, start_zqueued: StartZqueued, peers: Peers, tmp_path: Path
) -> None:
    if "::1" in endpoint and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    sides = [endpoint.format(name=f"{tmp_path.name}-{side}") for side in ("a", "b")]
    zqueued = start_zqueued(f'[queues.default]\nfrontend = "{sides[0]}"\nbackend = "{sides[1]}"\n')
    peers.worker(zqueued.backend())
    assert len(peers.client(zqueued.frontend(), requests=10).finish()) == 10


def test_a_broker_that_connects(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """Servers that bind, as without a broker, and a queue that connects to both."""
    servers = [context.socket(zmq.REP) for _ in range(2)]
    ports = [server.bind_to_random_port("tcp://127.0.0.1") for server in servers]
    backend = ", ".join(f'"tcp://127.0.0.1:{port}"' for port in ports)
    zqueued = start_zqueued(
        f'[queues.default]\nfrontend = "ipc://*"\nbackend = {{ connect = [{backend}] }}\n'
    )
    wait_for(lambda: zqueued.queue().workers.connected == 2)
    clients = [context.socket(zmq.REQ) for _ in range(2)]
    for client in clients:
        client.connect(zqueued.frontend())
        client.send(b"Hello")
    for server in servers:
        assert server.recv() == b"Hello", "each gets one"
        server.send(b"World")
    assert [client.recv() for client in clients] == [b"World"] * 2


def test_a_peer_that_is_silent_is_sent_away(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued("""
[queues.default]
frontend = { bind = "tcp://127.0.0.1:*", handshake_timeout = "200ms" }
backend = "ipc://*"
""")
    host, _, port = zqueued.frontend().removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as silent:
        while silent.recv(100):
            pass
    zqueued.wait_event("peer.rejected", side="frontend")
