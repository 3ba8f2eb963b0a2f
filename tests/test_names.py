"""Names that a queue connects to, and a name server that answers late or never."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.engines import on_every_engine
from tests.peers import Peers
from tests.waiting import wait_for
from tests.zqueued import free_port

pytestmark = on_every_engine

CONFIG = """
[queues.default]
frontend = "tcp://127.0.0.1:*"

[queues.default.backend]
bind = "tcp://127.0.0.1:*"
connect = "tcp://workers.example:{port}"
reconnect = "10ms"
reconnect_max = "50ms"
"""
ADDRESS = 1  # the type of a question, RFC 1035


class NameServer:
    """Knows the address of every name, or says nothing for as long as ``address`` is empty."""

    def __init__(self, host: str) -> None:
        self.address = ""
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 53))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            query, caller = self._socket.recvfrom(1500)
            if not query:
                return
            self.asked += 1
            if not self.address:
                continue
            end = query.index(b"\0", 12) + 5
            question = query[12:end]
            answer = b""
            if question[-4:-2] == ADDRESS.to_bytes(2, "big"):
                answer = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04"
                answer += socket.inet_aton(self.address)
            counts = (1).to_bytes(2, "big") + bool(answer).to_bytes(2, "big") + bytes(4)
            self._socket.sendto(query[:2] + b"\x81\x80" + counts + question + answer, caller)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    if os.geteuid() != 0:
        pytest.skip("only root may have a name server of its own")
    for last in range(2, 250):
        try:
            server = NameServer(f"127.0.53.{last}")
        except OSError:  # another test has it
            continue
        yield server
        server.close()
        return
    pytest.skip("port 53 cannot be had")


@pytest.fixture
def uses_it(name_server: NameServer, tmp_path: Path) -> tuple[str, ...]:
    """What a command begins with that is to ask it and nobody else."""
    host = name_server._socket.getsockname()[0]
    resolv, switch = tmp_path / "resolv.conf", tmp_path / "nsswitch.conf"
    resolv.write_text(f"nameserver {host}\noptions timeout:30 attempts:5\n")
    switch.write_text("hosts: files dns\n")
    mounts = f"mount --bind {resolv} /etc/resolv.conf; [ ! -e /etc/nsswitch.conf ] || "
    mounts += f"mount --bind {switch} /etc/nsswitch.conf"
    prefix = ("unshare", "--mount", "sh", "-c", f'{mounts}; exec "$@"', "sh")
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("no mount namespace can be had here")
    return prefix


def test_a_name_server_that_does_not_answer_holds_up_nobody(
    name_server: NameServer, uses_it: tuple[str, ...], start_zqueued: StartZqueued, peers: Peers
) -> None:
    zqueued = start_zqueued(CONFIG.format(port=free_port()), prefix=uses_it)
    wait_for(lambda: name_server.asked, "the name to be asked for")
    peers.worker(zqueued.backend())
    assert len(peers.client(zqueued.frontend(), requests=500).finish()) == 500
    with zqueued.client() as control:
        assert control.pause().ok
        assert control.resume().ok
        assert control.terminate().ok


def test_a_name_that_is_known_late_and_moves(
    name_server: NameServer,
    uses_it: tuple[str, ...],
    start_zqueued: StartZqueued,
    peers: Peers,
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    port = free_port()
    name_server.address = "127.0.53.1"
    zqueued = start_zqueued(CONFIG.format(port=port), prefix=uses_it)
    for host in ("127.0.53.1", "127.0.54.1", "127.0.53.1"):
        name_server.address = host
        worker = context.socket(zmq.REP)
        worker.bind(f"tcp://{host}:{port}")
        client = peers.client(zqueued.frontend(), requests=10)
        for _ in range(10):
            assert worker.poll(10_000), f"nobody came to {host}"
            worker.send(worker.recv())
        assert len(client.finish()) == 10
        worker.close()
        wait_for(lambda: not zqueued.queue().workers.connected)
    retried = zqueued.wait_event("peer.connect_retried")
    assert retried["endpoint"] == f"tcp://workers.example:{port}"
