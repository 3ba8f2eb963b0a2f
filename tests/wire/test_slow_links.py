"""Heartbeats over links on which a message takes longer than they do: bytes are signs of life."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartZqueued
from tests.waiting import DEADLINE
from tests.wire.exchange import assert_nothing_is_left, client, worker
from tests.wire.raw import RawPeer, command, message, ping
from tests.zqueued import Zqueued
from zqueue.engine.wire.exchange import Exchange

MIB = 1 << 20


def config(transport: str, timeout: str = "400ms") -> str:
    endpoint = "tcp://127.0.0.1:*" if transport == "tcp" else "ipc://*"
    side = (
        f'{{ bind = "{endpoint}", heartbeat = "200ms", heartbeat_timeout = "{timeout}",'
        " send_buffer = 65536 }"
    )
    return f"[queues.default]\nfrontend = {side}\nbackend = {side}\nmax_attempts = 1\n"


@pytest.fixture(params=["tcp", "ipc"])
def zqueued(request: pytest.FixtureRequest, start_zqueued: StartZqueued) -> Zqueued:
    return start_zqueued(config(request.param))


def read_slowly(peer: RawPeer, size: int, seconds: float) -> None:
    """Take the bytes of one message over so long a time, and say nothing meanwhile."""
    step = size // round(seconds * 50)
    for _ in range(size // step):
        peer.exactly(step)
        time.sleep(0.02)
    peer.exactly(size - size // step * step)


# -- without sockets -----------------------------------------------------------------------------


def test_the_timeout_begins_when_the_ping_has_got_there() -> None:
    exchange = Exchange(heartbeat=1)
    asker = client(exchange)
    exchange.moved(asker.number, 0, 80 * MIB)
    exchange.advance(1)
    for step in range(1, 40):
        exchange.moved(asker.number, step * MIB, (80 - step) * MIB)
        exchange.advance(0.25)
    exchange.moved(asker.number, 80 * MIB, 0)
    exchange.advance(0.25)
    assert asker.is_there
    exchange.advance(0.99)
    assert asker.is_there
    exchange.advance(0.02)
    assert not asker.is_there
    assert_nothing_is_left(exchange)


def test_one_that_takes_nothing_more_is_found_as_soon_as_any() -> None:
    exchange = Exchange(heartbeat=1)
    asker = client(exchange)
    exchange.moved(asker.number, 0, 80 * MIB)
    exchange.advance(1)
    exchange.moved(asker.number, MIB, 79 * MIB)
    exchange.advance(0.25)
    exchange.advance(0.99)
    assert asker.is_there
    exchange.advance(0.02)
    assert not asker.is_there
    assert exchange.counters["protocol_errors"] == 1


def test_one_that_is_sent_nothing_but_pings_is_found_in_time() -> None:
    exchange = Exchange(heartbeat=1)
    asker = client(exchange)
    exchange.advance(1)
    asker.hear()
    exchange.moved(asker.number, 9, 0)
    exchange.advance(0.99)
    assert asker.is_there
    exchange.advance(0.02)
    assert not asker.is_there


def test_the_ttl_of_one_that_is_reading_is_not_over() -> None:
    exchange = Exchange()
    asker = client(exchange)
    asker.feed(ping(10))
    for step in range(1, 40):
        exchange.moved(asker.number, step * MIB, (80 - step) * MIB)
        exchange.advance(0.25)
    assert asker.is_there
    for _ in range(4):
        exchange.advance(0.6)
    assert not asker.is_there


def test_what_comes_slowly_is_a_sign_of_life_too() -> None:
    exchange = Exchange(heartbeat=1)
    serving = worker(exchange, "DEALER")
    client(exchange, version=(3, 0)).send(b"", b"x")
    [request] = serving.hear()
    large = message([*request[:-1], bytes(50_000)])
    for at in range(0, len(large), 1000):
        serving.feed(large[at : at + 1000])
        exchange.advance(0.5)
    assert serving.is_there
    assert exchange.counters["replied"] == 1


def test_a_worker_that_stops_in_the_midst_of_a_reply_is_found() -> None:
    exchange = Exchange(heartbeat=1)
    serving = worker(exchange)
    client(exchange, version=(3, 0)).send(b"", b"x")
    [request] = serving.hear()
    other = worker(exchange, version=(3, 0))
    serving.feed(message([*request[:-1], bytes(50_000)])[:30_000])
    exchange.advance(1)
    exchange.advance(1.01)
    assert not serving.is_there
    assert len(other.hear()) == 1


# -- a slow peer ---------------------------------------------------------------------------------


def test_a_client_that_reads_a_large_reply_slowly(zqueued: Zqueued) -> None:
    with (
        RawPeer(zqueued.frontend(), "DEALER", receive_buffer=65536) as asker,
        RawPeer(zqueued.backend(), "REP", answers_pings=True) as serving,
    ):
        asker.send(b"", b"x")
        serving.serve(1, bytes(8 * MIB))
        stop = threading.Event()
        reader = threading.Thread(target=_answer_pings, args=(serving, stop))
        reader.start()
        read_slowly(asker, 8 * MIB, 2.0)
        stop.set()
        reader.join(DEADLINE)
        assert zqueued.events("peer.protocol_error", peer=asker.name) == []


def _answer_pings(peer: RawPeer, stop: threading.Event) -> None:
    peer.socket.settimeout(0.1)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            next(peer.commands())
            peer.say(command(b"PONG"))


def test_a_worker_that_reads_a_large_request_slowly(zqueued: Zqueued) -> None:
    with (
        RawPeer(zqueued.frontend(), "DEALER", version=(3, 0)) as asker,
        RawPeer(zqueued.backend(), "REP", receive_buffer=65536) as serving,
    ):
        asker.send(b"", bytes(8 * MIB))
        read_slowly(serving, 8 * MIB, 2.0)
        assert zqueued.events("peer.protocol_error") == []
        assert zqueued.queue().in_flight == 1


def test_peers_that_send_slowly(zqueued: Zqueued) -> None:
    """Their PONGs could come only behind it."""
    with (
        RawPeer(zqueued.frontend(), "DEALER") as asker,
        RawPeer(zqueued.backend(), "REP", version=(3, 0)) as serving,
    ):
        request = message([b"", bytes(MIB)])
        for at in range(0, len(request), len(request) // 75):
            asker.say(request[at : at + len(request) // 75])
            time.sleep(0.02)
        assert len(serving.receive()[-1]) == MIB
        assert zqueued.events("peer.protocol_error") == []


def test_a_client_that_stops_reading_is_found(zqueued: Zqueued) -> None:
    with (
        RawPeer(zqueued.frontend(), "DEALER", receive_buffer=65536) as asker,
        RawPeer(zqueued.backend(), "REP", version=(3, 0)) as serving,
    ):
        asker.send(b"", b"x")
        serving.serve(1, bytes(8 * MIB))
        read_slowly(asker, MIB, 0.5)
        event = zqueued.wait_event("peer.protocol_error", peer=asker.name)
        assert event["reason"] == "its heartbeat stopped"


def test_one_that_has_promised_pings_and_reads_is_not_cut_off(zqueued: Zqueued) -> None:
    with (
        RawPeer(zqueued.frontend(), "DEALER", version=(3, 0), receive_buffer=65536) as asker,
        RawPeer(zqueued.backend(), "REP", version=(3, 0)) as serving,
    ):
        asker.say(ping(5))
        asker.send(b"", b"x")
        serving.serve(1, bytes(8 * MIB))
        read_slowly(asker, 8 * MIB, 2.0)
        assert zqueued.events("peer.protocol_error", peer=asker.name) == []


# -- a slow link ---------------------------------------------------------------------------------


def _run(*arguments: str) -> None:
    subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=DEADLINE)


@pytest.fixture
def namespace() -> Iterator[tuple[str, str]]:
    """A network namespace behind a link of 4 MB a second: its name, our address."""
    if not shutil.which("ip") or not shutil.which("tc"):
        pytest.skip("no ip and tc here")
    name, ours, theirs = "zqslow", "zqslow0", "zqslow1"
    try:
        _run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        try:
            _run("ip", "link", "add", ours, "type", "veth", "peer", theirs, "netns", name)
            _run("ip", "addr", "add", "10.213.7.1/24", "dev", ours)
            _run("ip", "link", "set", ours, "up")
            _run("ip", "-n", name, "addr", "add", "10.213.7.2/24", "dev", theirs)
            _run("ip", "-n", name, "link", "set", theirs, "up")
            limit = ("tbf", "rate", "32mbit", "burst", "64kb", "limit", "256kb")
            _run("tc", "qdisc", "add", "dev", ours, "root", *limit)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no slow links here: {error.stderr.strip()}")
        yield name, "10.213.7.1"
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            _run("ip", "netns", "del", name)
        with contextlib.suppress(subprocess.CalledProcessError):
            _run("ip", "link", "del", ours)


def libzmq_in(namespace: str, code: str, endpoint: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", code, endpoint],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


ASKER = """
import sys, zmq
req = zmq.Context().socket(zmq.REQ)
req.connect(sys.argv[1])
req.send(b"x")
print(len(req.recv()), flush=True)
"""


def test_eight_seconds_of_reply_over_a_slow_link_and_a_link_that_goes_down(
    namespace: tuple[str, str], start_zqueued: StartZqueued
) -> None:
    name, address = namespace
    zqueued = start_zqueued(config("tcp", "400ms").replace("127.0.0.1", address))
    with (
        libzmq_in(name, ASKER, zqueued.frontend()) as asker,
        RawPeer(zqueued.backend(), "REP", version=(3, 0)) as serving,
    ):
        serving.serve(1, bytes(16 * MIB))
        assert asker.stdout is not None
        assert asker.stdout.readline() == f"{16 * MIB}\n"
        assert zqueued.events("peer.protocol_error") == []
    with (
        libzmq_in(name, ASKER, zqueued.frontend()) as asker,
        RawPeer(zqueued.backend(), "REP", version=(3, 0)) as serving,
    ):
        serving.serve(1, bytes(16 * MIB))
        _run("ip", "-n", name, "link", "set", "zqslow1", "down")
        began = time.monotonic()
        zqueued.wait_event("peer.protocol_error", reason="its heartbeat stopped")
        assert time.monotonic() - began < DEADLINE
        asker.kill()
