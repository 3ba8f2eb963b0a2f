"""The original scene: plain REQ clients, plain REP servers that connect, the device between."""

from __future__ import annotations

import itertools
import subprocess
import sys

from tests.peers import Peers
from tests.waiting import wait_for
from tests.zqueued import Zqueued


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


def test_the_demo_plays_the_whole_scene() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zqueue.cli.zqueuectl", "demo"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "~11 requests, ~11 replies" in done.stdout
