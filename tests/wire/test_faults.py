"""The kernel and malloc refuse what they seldom do: the queue goes on, as does who is not hit."""

from __future__ import annotations

import errno
import gc
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.peers import Peers
from tests.test_steering import assert_idle
from tests.waiting import DEADLINE, wait_for
from tests.wire.faults import SHORT, Faults, compiled
from tests.wire.raw import Gone, RawPeer, greeting, ready
from tests.zqueued import Zqueued, free_port
from zqueue.config import load
from zqueue.engine.wire.engine import WireEngine
from zqueue.inherited import Inherited
from zqueue.plan import Claims

Context = zmq.Context[zmq.Socket[bytes]]

ROOT = Path(__file__).parents[2]
QUEUE = """
[queues.default]
frontend = { bind = ["tcp://127.0.0.1:*", "ipc://*"] }
backend = { bind = ["tcp://127.0.0.1:*", "ipc://*"] }
max_attempts = 1000
"""
SIZES = (1, 100, 900, 1100, 5000, 30_000, 300_000)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def faults(library: Path, tmp_path: Path) -> Faults:
    return Faults(library, tmp_path)


@pytest.fixture
def zqueued(faults: Faults, start_zqueued: StartZqueued) -> Iterator[Zqueued]:
    yield start_zqueued(QUEUE, env=faults.environment)
    # That everything adds up and is given back is seen to without faults.
    faults.end()


class Asker:
    """One request after the other over a plain socket, each with another reply. When its connection
    is lost it makes another one, and the request anew."""

    def __init__(self, endpoint: str, name: str, requests: int) -> None:
        self.lost = 0
        self._endpoint, self._name, self._requests = endpoint, name, requests
        self._answered = 0
        self._failure: BaseException | None = None
        self._rng = random.Random(name)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while self._answered < self._requests:
                try:
                    with RawPeer(self._endpoint, "DEALER") as peer:
                        self._ask(peer)
                except (Gone, ConnectionError):
                    self.lost += 1
        except BaseException as error:
            self._failure = error

    def _ask(self, peer: RawPeer) -> None:
        while self._answered < self._requests:
            token = f"{self._name} {self._answered} {self.lost} ".encode()
            body = token + self._rng.randbytes(self._rng.choice(SIZES))
            peer.send(token, b"", body)
            assert peer.receive() == [token, b"", b"w:" + body]
            self._answered += 1

    def finish(self) -> None:
        self._thread.join(2 * DEADLINE)
        assert self._failure is None, repr(self._failure)
        assert self._answered == self._requests


def everybody_asks(zqueued: Zqueued, peers: Peers) -> list[Asker]:
    """Workers answer many requests; the clients, when all have been answered."""
    endpoints = zqueued.queue().backend
    for endpoint in (*endpoints, *endpoints):
        peers.worker(endpoint)
    frontend = zqueued.frontend()
    askers = [Asker(frontend, f"asker {number}", requests=50) for number in range(4)]
    for each in askers:
        each.finish()
    return askers


@pytest.mark.parametrize(
    "errors",
    [
        {"send": errno.EINTR, "receive": errno.EINTR, "accept": errno.EINTR, "wait": errno.EINTR},
        {"send": errno.ENOBUFS, "accept": errno.ENOBUFS},
        {"send": errno.ENOMEM, "receive": errno.EAGAIN, "accept": errno.ENOMEM},
        {"send": SHORT, "receive": SHORT, "accept": errno.EPERM},
        {"send": errno.EAGAIN, "receive": SHORT, "add": errno.ENOSPC},
    ],
    ids=["interrupted", "no buffers", "no memory", "in pieces", "not now"],
)
def test_nobody_notices(
    errors: dict[str, int], faults: Faults, zqueued: Zqueued, peers: Peers
) -> None:
    faults.begin(0.1, **errors)
    clients = [
        peers.client(endpoint, f"{number} at {endpoint}", requests=50)
        for endpoint in zqueued.queue().frontend
        for number in range(2)
    ]
    askers = everybody_asks(zqueued, peers)
    for each in clients:
        assert len(each.finish()) == 50
    connected = [] if "add" in errors else askers
    assert not any(each.lost for each in connected)
    while not all(map(faults.happened, errors)):
        assert len(peers.client(zqueued.frontend(), requests=1).finish()) == 1
    assert_idle(zqueued)


@pytest.mark.parametrize(
    ("share", "errors"),
    [
        (0.02, {"send": errno.EPIPE, "receive": errno.ECONNRESET, "accept": errno.ECONNABORTED}),
        (0.02, {"receive": errno.ENOMEM, "add": errno.ENOMEM}),
        # What it once has it asks for no more.
        (0.5, {"allocate": errno.ENOMEM}),
    ],
    ids=["connections that break", "no memory in the kernel", "no memory"],
)
def test_some_lose_their_connections(
    share: float, errors: dict[str, int], faults: Faults, zqueued: Zqueued, peers: Peers
) -> None:
    faults.begin(share, **errors)
    askers = everybody_asks(zqueued, peers)
    while not all(map(faults.happened, errors)):
        askers.append(Asker(zqueued.frontend(), "one more", requests=1))
        askers[-1].finish()
    assert_idle(zqueued)
    faults.end()
    assert len(peers.client(zqueued.frontend(), requests=20).finish()) == 20


def test_no_buffers_although_nothing_is_on_its_way(faults: Faults, zqueued: Zqueued) -> None:
    """Nothing will then happen to the socket that could tell when to try again."""
    with (
        RawPeer(zqueued.frontend(), "DEALER") as asker,
        RawPeer(zqueued.backend(), "DEALER") as serving,
    ):
        faults.begin(send=errno.ENOBUFS)
        asker.send(b"", b"request")
        wait_for(lambda: faults.happened("send") > 3, "it to be tried again")
        assert_idle(zqueued)
        assert zqueued.queue().in_flight == 1
        faults.end()
        assert serving.serve(1) == [b"request"]
        assert asker.receive() == [b"", b"request"]


@pytest.mark.parametrize("error", [errno.EPERM, errno.EPROTO, errno.ENFILE])
def test_whoever_may_not_be_accepted(
    error: int, faults: Faults, zqueued: Zqueued, peers: Peers
) -> None:
    """It stays where it is, and is not looked at all the time."""
    peers.worker(zqueued.backend())
    with RawPeer(zqueued.frontend(), "DEALER") as asker:
        assert asker.ask(b"before") == b"w:before"
        faults.begin(accept=error)
        late = Asker(zqueued.frontend(), "late", requests=10)
        wait_for(lambda: faults.happened("accept") > 1, "it to be tried again")
        assert_idle(zqueued)
        assert asker.ask(b"meanwhile") == b"w:meanwhile"
        faults.end()
        late.finish()


def test_a_listener_that_cannot_be_watched_again(
    faults: Faults, zqueued: Zqueued, peers: Peers
) -> None:
    peers.worker(zqueued.backend())
    faults.begin(accept=errno.EMFILE)
    late = Asker(zqueued.frontend(), "late", requests=10)
    zqueued.wait_event("listener.closed_gate", side="frontend")
    faults.begin(add=errno.ENOSPC)
    wait_for(lambda: faults.happened("add"), "the gates to be opened")
    assert_idle(zqueued)
    faults.end()
    late.finish()


def test_no_memory_for_a_request_costs_only_who_sent_it(
    faults: Faults, zqueued: Zqueued, peers: Peers
) -> None:
    peers.worker(zqueued.backend())
    with (
        RawPeer(zqueued.frontend(), "DEALER") as unlucky,
        RawPeer(zqueued.frontend(), "DEALER") as other,
    ):
        assert other.ask(b"before") == b"w:before"
        faults.begin(allocate=errno.ENOMEM)
        # Of a size that none had before: there is no room left over.
        unlucky.send(b"", bytes(30_000))
        unlucky.farewell()
        event = zqueued.wait_event("peer.disconnected", peer=unlucky.name)
        assert event["reason"] == "there is no memory for its message"
        faults.end()
        assert other.ask(b"after") == b"w:after"


def test_no_memory_for_tables_when_somebody_comes(
    faults: Faults, start_zqueued: StartZqueued
) -> None:
    """Whoever gets in is somebody whose time is kept, and a worker that is given something."""
    zqueued = start_zqueued(
        QUEUE.replace("] }", '], handshake_timeout = "1s" }'), env=faults.environment
    )
    faults.begin(grow=errno.ENOMEM)
    with RawPeer(zqueued.frontend(), "DEALER", shake=False) as silent:
        silent.farewell()
    faults.end()
    with RawPeer(zqueued.backend(), "REP", shake=False) as serving:
        serving.say(greeting())
        serving.exactly(64)
        serving.frame()
        faults.begin(grow=errno.ENOMEM)
        serving.say(ready("REP"))
        wait_for(lambda: zqueued.queue().workers.connected == 1)
        faults.end()
        with RawPeer(zqueued.frontend(), "DEALER") as asker:
            asker.send(b"", b"request")
            assert serving.serve(1) == [b"request"]


def test_no_memory_when_a_capture_begins(
    faults: Faults, start_zqueued: StartZqueued, context: Context, peers: Peers
) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    zqueued = start_zqueued(f'{QUEUE}capture = "{endpoint}"\n', env=faults.environment)
    peers.worker(zqueued.backend())
    captured = context.socket(zmq.SUB)
    captured.connect(endpoint)
    with RawPeer(zqueued.frontend(), "DEALER") as asker:
        faults.begin(allocate=errno.ENOMEM)
        captured.subscribe(b"")
        zqueued.wait_event("capture.subscribed")
        faults.end()
        assert asker.ask(b"request") == b"w:request"
        assert captured.poll(round(DEADLINE * 1000))
        assert captured.recv_multipart()[-1] == b"request"


def test_a_worker_that_is_connected_to(
    faults: Faults, start_zqueued: StartZqueued, context: Context, peers: Peers
) -> None:
    port = free_port()
    zqueued = start_zqueued(
        QUEUE.replace(
            "backend = { bind",
            f'backend = {{ connect = "tcp://127.0.0.1:{port}", reconnect = "10ms",'
            ' reconnect_max = "10ms", bind',
        ),
        env=faults.environment,
    )
    zqueued.wait_event("peer.connect_retried")
    faults.begin(0.5, add=errno.ENOSPC, allocate=errno.ENOMEM)
    serving = context.socket(zmq.REP)
    serving.bind(f"tcp://127.0.0.1:{port}")
    wait_for(lambda: zqueued.queue().workers.connected, "it to be connected to")
    assert faults.happened("add")
    faults.end()
    client = peers.client(zqueued.frontend(), requests=1)
    assert serving.poll(round(DEADLINE * 1000))
    serving.send(serving.recv())
    assert len(client.finish()) == 1


def test_the_fuzzer_s_scenes_without_memory(faults: Faults) -> None:
    """Whatever is half done when there is none, it adds up, and nothing is left of it."""
    faults.begin(0.02, allocate=errno.ENOMEM, grow=errno.ENOMEM)
    command = [sys.executable, "-m", "tests.wire.fuzz", "--only", "exchange", "--seconds", "5"]
    ran = subprocess.run(command, cwd=ROOT, env=faults.environment, capture_output=True, text=True)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert faults.happened("allocate") > 100


@pytest.mark.parametrize("closed", ["capture", "frontend"])
def test_an_engine_that_cannot_be_opened_leaves_nothing_to_wait_for(
    tmp_path: Path, closed: str
) -> None:
    config = tmp_path / "zqueue.toml"
    config.write_text(QUEUE + 'capture = "ipc://*"\n')
    claims = Claims("default", load(config).config.queues["default"], Inherited())
    claims.claim()
    plan = claims.plan()
    listener = plan.capture if closed == "capture" else plan.frontend.listeners[0]
    assert listener is not None
    listener.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        WireEngine(plan).open(False)
    collecting = threading.Thread(target=gc.collect, daemon=True)
    collecting.start()
    collecting.join(DEADLINE)
    assert not collecting.is_alive(), "the garbage collector waits for the engine's sockets"
    claims.close()
