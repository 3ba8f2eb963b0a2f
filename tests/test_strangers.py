"""Bytes of strangers outside of the data path: at the control socket, a queue's PAIR and HTTP, in
wishes of taps and in what is passed at the start. Whatever they say, the daemon stays up, finds no
mistake of its own, and does not grow.

Each part goes on for ``ZQUEUE_STRANGERS`` seconds, 2 if that is not set. ``ZQUEUE_STRANGERS_SEED``
plays again what a failure names.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.engines import on_every_engine, on_wire
from tests.http import SERVED, say
from tests.peers import Peers
from tests.waiting import DEADLINE, wait_for
from tests.wire import raw
from tests.zqueued import ONE_QUEUE, Zqueued
from zqueue.control import messages

SECONDS = float(os.environ.get("ZQUEUE_STRANGERS", "2"))
SEED = int(os.environ.get("ZQUEUE_STRANGERS_SEED", random.SystemRandom().getrandbits(32)))
GROWN_AT_MOST = 300 << 20

LONG = "9" * 5000
DEEP: Any = "x"
for _ in range(300):
    DEEP = [DEEP]
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1 << 31, 1 << 63, 1 << 64, 10**400, 1.5, -0.0, 1e308),
    *(float("inf"), float("nan"), "", "x", "default", "*", "[", "[!", "é", "\0", "\ud800", LONG),
    *(
        "*" * 2000,
        "*a" * 500,
        "\n",
        "-",
        "x" * 100_000,
        [],
        [None],
        ["a"] * 1000,
        {},
        {"a": {}},
        DEEP,
    ),
)
COLUMNS = ("id", "peer", "requests", "service", "unsent_bytes", "state", "age", "size", "p50", "x")
VALUES = (
    "0",
    "1",
    "-1",
    "1s",
    "1MiB",
    "*",
    "",
    LONG,
    "1" * 400,
    "1e400",
    "nan",
    "inf",
    "[",
    "²",
    "٣",
)
EXCLUDED = {"shutdown", "upgrade"}
"""What would end the daemon if it is asked rightly."""
REQUESTS = [
    each
    for each in vars(messages).values()
    if isinstance(each, type)
    and issubclass(each, messages.Message)
    and "verb" in each.model_fields
    and each.model_fields["verb"].default not in EXCLUDED
]
RIGHT: dict[str, Callable[[random.Random], Any]] = {
    "queues": lambda rng: rng.choice([["default"], [], ["nobody"]]),
    "filter": lambda rng: [
        rng.choice(COLUMNS) + rng.choice(("=", "!=", "<", ">=", "~")) + rng.choice(VALUES)
        for _ in range(rng.randrange(3))
    ],
    "sort": lambda rng: rng.choice(("", "-")) + rng.choice(COLUMNS),
    "limit": lambda rng: rng.choice((0, 1, 1 << 70)),
    "tap": lambda rng: rng.choice("abc"),
    "client": lambda rng: rng.choice(("1", "*", LONG, "[" * 50, "*a" * 100, "²", "00ff")),
    "worker": lambda rng: rng.choice(("1", "tcp:*", LONG, 1, 1 << 40)),
    "contains": lambda rng: rng.choice(("x", "é", "x" * 1024)),
    "content": lambda rng: rng.choice((0, 1, 1 << 20)),
    "took": lambda rng: rng.choice((0, 1e300)),
    "wait": lambda rng: rng.choice((0, 0.01, False)),
    "timeout": lambda rng: rng.choice((0, 0.01, 1e300)),
    "connection": lambda rng: rng.choice((0, 1, -1, 1 << 62, 1 << 64)),
    "level": lambda rng: rng.choice(("info", "debug", "loud")),
    "names": lambda rng: rng.choice((["peer.*"], ["*"], ["["], [LONG])),
    "since": lambda rng: rng.choice((0, -1e300, 1e300, 1)),
    "recent": lambda rng: rng.choice((0, 5, 1 << 70)),
    "request": lambda rng: rng.choice("123"),
}


def request(rng: random.Random) -> bytes:
    """A request as it may come: most of it right, some of it odd."""
    kind = rng.choice(REQUESTS)
    told: dict[str, Any] = {
        "v": 1,
        "id": rng.choice("123"),
        "verb": kind.model_fields["verb"].default,
    }
    for name in kind.model_fields.keys() - told.keys():
        if rng.random() < 0.6:
            told[name] = (
                RIGHT[name](rng) if name in RIGHT and rng.random() < 0.8 else rng.choice(ODD)
            )
    if rng.random() < 0.3:
        told[rng.choice([*told, "wings"])] = rng.choice(ODD)
    encoded = json.dumps(told).encode()
    if rng.random() < 0.1:
        at = rng.randrange(len(encoded))
        encoded = encoded[:at] + rng.randbytes(rng.choice((0, 1, 4))) + encoded[at + 1 :]
    return encoded


def odd_bytes(rng: random.Random) -> bytes:
    return rng.choice(
        (
            b"",
            b"\0",
            b"\xff\xfe\x80",
            b"{",
            b"[" * 200_000,
            b'{"v":' * 50_000,
            rng.randbytes(rng.choice((1, 20, 5000))),
            bytes(rng.choice((1 << 16, 1 << 20, 1 << 23))),
        )
    )


def rounds() -> Iterator[random.Random]:
    """One after the other until the time is over; what failed is of the last seed printed."""
    until, seed = time.monotonic() + SECONDS, SEED
    while True:
        print(f"ZQUEUE_STRANGERS_SEED={seed}")
        yield random.Random(seed)
        if time.monotonic() > until:
            return
        seed += 1


class Watched:
    """A daemon with a worker and a client that asks all the time."""

    def __init__(self, zqueued: Zqueued) -> None:
        self.zqueued = zqueued
        self._before = self._memory()

    def _memory(self) -> int:
        for line in Path(f"/proc/{self.zqueued.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
        raise AssertionError("it has ended")

    def must_be_well(self) -> None:
        zqueued = self.zqueued
        assert zqueued.process.poll() is None, zqueued.log_path.read_text()[-3000:]
        with zqueued.client() as control:
            if control.status().queues[0].state in ("stopped", "failed"):
                control.start("default")
            control.resume("default")
        wait_for(lambda: zqueued.queue().state == "running", "the queue to be at work")
        for bad in ("daemon.error", "daemon.failed", "queue.failed", "queue.engine_stuck"):
            assert zqueued.events(bad) == []
        assert "Traceback" not in zqueued.log_path.read_text()
        wait_for(lambda: self._memory() - self._before < GROWN_AT_MOST, "it to be small again")


@pytest.fixture
def watched(engine: str, start_zqueued: StartZqueued, peers: Peers, tmp_path: Path) -> Watched:
    more = f'control = "ipc://{tmp_path}/pair"\ncapture = "ipc://{tmp_path}/capture"\n'
    if engine == "wire":
        more += "tap = true\ndead_letters_max = 10\nmax_waiting = 50\n"
    published = f'[events]\npublish = "ipc://{tmp_path}/events"\n'
    zqueued = start_zqueued(SERVED + published + ONE_QUEUE + more)
    peers.worker(zqueued.backend())
    peers.client(zqueued.frontend())
    wait_for(lambda: zqueued.queue().replies.messages > 10)
    return Watched(zqueued)


CORNERS: tuple[dict[str, Any], ...] = (
    {"verb": "workers", "filter": ["requests>" + "1" * 400]},
    {"verb": "workers", "filter": [f"age>{LONG}"]},
    {"verb": "clients", "filter": ["peer=" + "[" * 100_000]},
    {"verb": "clients", "filter": ["peer=" + "*?" * 50_000]},
    {"verb": "tap", "tap": "c", "client": "[" * 100_000, "wait": 0.5},
    {"verb": "tap", "tap": "d", "worker": LONG, "wait": 0.5},
    {"verb": "tap", "tap": "e", "client": "1" * 1024, "wait": 0.5},
    {"verb": "dead-list", "after": 1 << 64},
    {"verb": "dead-list", "last": 1 << 64},
    {"verb": "events", "recent": 1 << 70, "since": float("nan"), "follow": False},
)
"""What has stopped a queue, or kept it from answering for minutes."""


def must_be_no_mistake_of_ours(reply: bytes) -> None:
    told = json.loads(reply)
    # So it answers where an exception came out of it; what is refused has another code.
    assert told.get("code") != "failed", told


@on_wire
def test_letters_that_once_did_harm(watched: Watched) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as caller:
        caller.linger = 0
        caller.connect(watched.zqueued.control)
        for corner in CORNERS:
            caller.send(json.dumps({"v": 1, "id": "1"} | corner).encode())
            assert caller.poll(int(DEADLINE * 1000)), corner
            must_be_no_mistake_of_ours(caller.recv_multipart()[-1])
    watched.must_be_well()


@on_every_engine
def test_letters_at_the_control_socket(watched: Watched) -> None:
    with zmq.Context() as context:
        context.linger = 0
        for rng in rounds():
            with context.socket(zmq.DEALER) as caller:
                caller.connect(watched.zqueued.control)
                for _ in range(40):
                    how = rng.random()
                    if how < 0.9:
                        frames = [request(rng)]
                    elif how < 0.98:
                        frames = [odd_bytes(rng) for _ in range(rng.choice((1, 2, 5)))]
                    else:
                        frames = [b"x"] * 20_000
                    caller.send_multipart(frames)
                while caller.poll(50):
                    must_be_no_mistake_of_ours(caller.recv_multipart()[-1])
    watched.must_be_well()


def scrambled(rng: random.Random, type: str) -> bytes:
    """What a program says that knows only some of ZMTP, or none."""
    versions = raw.VERSIONS if type in raw.NUMBERS else raw.VERSIONS[:2]
    said = raw.hello(type, rng.choice(versions))
    how = rng.randrange(6)
    if how == 0:
        return odd_bytes(rng)
    if how == 1:
        return said[: rng.randrange(len(said))] + odd_bytes(rng)
    if how == 2:  # a frame that is said to be larger than anything
        return (
            said
            + bytes([raw.LONG])
            + rng.choice((1 << 31, 1 << 40, (1 << 64) - 1)).to_bytes(8, "big")
        )
    if how == 3:
        return said + raw.frame(b"x", raw.MORE) * rng.choice((3, 20_000))
    if how == 4:
        return said + raw.command(rng.randbytes(rng.randrange(9)), rng.randbytes(rng.randrange(40)))
    if how == 5 and "SUB" in type:
        begins = (rng.choice((b"\0", b"\1", b"\2")) for _ in range(rng.choice((1, 2000))))
        return said + b"".join(raw.frame(begin + odd_bytes(rng)[:20_000]) for begin in begins)
    return said + raw.message([request(rng) for _ in range(rng.choice((1, 2)))], long=True)


def say_raw(address: Any, family: socket.AddressFamily, said: bytes) -> None:
    with socket.socket(family) as stranger:
        stranger.settimeout(DEADLINE)
        with suppress(ConnectionError):
            stranger.connect(address)
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(1 << 16):
                pass


@on_every_engine
def test_bytes_at_what_listens_besides_the_data_path(watched: Watched, tmp_path: Path) -> None:
    places = (
        (raw.local_address(watched.zqueued.control), ("DEALER", "REQ", "PUB")),
        (str(tmp_path / "events"), ("SUB", "XSUB", "PULL")),
        (str(tmp_path / "capture"), ("SUB", "XSUB", "REQ")),
    )
    for rng in rounds():
        for path, types in places:
            say_raw(path, socket.AF_UNIX, scrambled(rng, rng.choice(types)))
    watched.must_be_well()


@on_every_engine
def test_words_at_the_pair_of_a_queue(watched: Watched, tmp_path: Path) -> None:
    words = (b"PAUSE", b"RESUME", b"TERMINATE", b"STATISTICS")
    with zmq.Context() as context:
        context.linger = 0
        for rng in rounds():
            with context.socket(zmq.PAIR) as script:
                script.connect(f"ipc://{tmp_path}/pair")
                for _ in range(20):
                    word = bytearray(rng.choice(words))
                    if rng.random() < 0.5:
                        word[rng.randrange(len(word))] = rng.randrange(256)
                    more = rng.choice((b"", b"", b"\0", b" ", odd_bytes(rng)))
                    frames = rng.choice(
                        ([bytes(word) + more], [bytes(word), more], [odd_bytes(rng)])
                    )
                    with suppress(zmq.Again):
                        script.send_multipart(frames, zmq.DONTWAIT)
                while script.poll(20):
                    assert [len(frame) for frame in script.recv_multipart()] == [8] * 8
    pair = tmp_path / "pair"
    for rng in rounds():
        said = scrambled(rng, rng.choice(("PAIR", "PAIR", "DEALER")))
        wait_for(pair.is_socket, "the one before to be gone")
        with suppress(FileNotFoundError):  # not yet
            say_raw(str(pair), socket.AF_UNIX, said)
    watched.must_be_well()


@on_wire
def test_wishes_of_taps(watched: Watched) -> None:
    wishes = ("client", "worker", "smallest", "largest", "took", "contains", "content")
    with zmq.Context() as context:
        context.linger = 0
        for rng in rounds():
            with context.socket(zmq.DEALER) as caller:
                caller.connect(watched.zqueued.control)
                for number in range(10):
                    wish = {
                        name: RIGHT[name](rng)
                        if name in RIGHT and rng.random() < 0.8
                        else rng.choice(ODD)
                        for name in rng.sample(wishes, rng.randrange(3))
                    }
                    told = {"v": 1, "id": str(number), "verb": "tap", "tap": rng.choice("abcdef")}
                    caller.send(json.dumps(told | {"wait": 0.2} | wish).encode())
                while caller.poll(300):
                    must_be_no_mistake_of_ours(caller.recv_multipart()[-1])
    watched.must_be_well()


@on_every_engine
def test_what_is_asked_by_http(watched: Watched) -> None:
    paths = ("/", "/metrics", "/healthz", "/api/v1/status", "/api/v1/workers", "/api/v1/requests")
    for rng in rounds():
        query = "&".join(
            f"{rng.choice(('queue', 'filter', 'sort', 'limit', 'x'))}="
            + rng.choice(
                (
                    rng.choice(COLUMNS) + "=" + rng.choice(VALUES[:7]),
                    "default",
                    "%ff%00",
                    "9" * 5000,
                )
            )
            for _ in range(rng.randrange(4))
        )
        said = f"GET {rng.choice(paths)}?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        how = rng.randrange(4)
        if how == 0:
            said = odd_bytes(rng) + b"\r\n\r\n"
        elif how == 1:
            at = rng.randrange(len(said))
            said = said[:at] + rng.randbytes(3) + said[at + 1 :]
        elif how == 2:
            said = said[:-2] + b"Accept: " + odd_bytes(rng)[:10_000] + b"\r\n\r\n"
        with suppress(BrokenPipeError, ConnectionResetError):
            assert not say(watched.zqueued, said).startswith(b"HTTP/1.1 500")
    watched.must_be_well()


PASS = """
import os, sys
count, names, *command = sys.argv[1:]
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": names, "LISTEN_FDS": count}
os.execv(command[0], command)
"""


@on_wire
@pytest.mark.parametrize(
    ("count", "names"),
    [
        ("", "default.frontend"),
        ("-1", "a"),
        ("0", "a:b"),
        ("3", ""),
        ("2", "hand-over/0:hand-over/0"),
        ("4", "hand-over/" + "9" * 5000 + ":hand-over/-1:hand-over/:hand-over/²"),
        ("9" * 5000, "kept/default.frontend/5"),
        ("99999999999", "kept/:kept/default.frontend/x"),
        ("٣", ":" * 100_000),
        ("²", "\n"),
        ("1e3", "\udcff"),
    ],
    ids=range(11),
)
def test_what_is_passed_at_the_start(count: str, names: str, start_zqueued: StartZqueued) -> None:
    """Nothing is passed but what the variables say."""
    zqueued = start_zqueued(prefix=(sys.executable, "-c", PASS, count, names))
    assert zqueued.queue().state == "running"
    assert zqueued.events("daemon.error") == []
    assert "Traceback" not in zqueued.log_path.read_text()
