"""A daemon that finds a damaged state in systemd's store says what was lost, and serves."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.passing import HasFileno, passing
from tests.peers import Peers
from tests.waiting import wait_for
from tests.wire.test_snapshot import with_header
from tests.zqueued import Zqueued
from zqueue import handover
from zqueue.engine.wire import support
from zqueue.parcel import Parcel

pytestmark = pytest.mark.skipif(
    bool(support.missing()), reason="the libzmq engine has no connections to hand over"
)

QUEUE = '[queues.{}]\nfrontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'
WAITING = 3

# It keeps what it is sent to take up, and ends.
KEEPS = """#!{python}
import os
from pathlib import Path
from zqueue.cli.zqueued import main
from zqueue.parcel import Parcel

def read(self, read=Parcel.read):
    Path({path!r}).write_bytes(read(self))
    os._exit(7)

Parcel.read = read
main(prog_name="zqueued")
"""


def one_of_each(state: bytes) -> dict[str, tuple[bytes, str]]:
    """By name: what is in the state of a queue, and why it is refused, if it is."""
    at = state.index(b"\n") + 1
    later = state[:at] + bytes([support.STATE_FORMAT + 1]) + state[at + 1 :]
    return {
        "whole": (state, ""),
        "wrong": (with_header(state, counters__waiting=1), "it is damaged: waiting is 1, and 3"),
        "bits": (state[:-1] + bytes([state[-1] ^ 1]), "it is damaged"),
        "short": (state[: len(state) // 2], "it is damaged"),
        "later": (later, f"its format is {support.STATE_FORMAT + 1}"),
    }


class Passed:
    """A descriptor, for :func:`passing`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor


class Left:
    """What a daemon with one queue had: ``state`` is the queue's."""

    def __init__(self, all_: handover.State, opened: ExitStack) -> None:
        self._all = all_
        [self._queue] = all_.queues
        assert self._queue.snapshot is not None
        self._snapshot = self._queue.snapshot
        self.state = self._snapshot.state
        self._opened = opened

    def passed(
        self, queues: dict[str, bytes], damage: Callable[[bytes], bytes] = lambda all_: all_
    ) -> dict[str, Any]:
        """How to start a daemon that is passed ``queues``, and of all what ``damage`` makes of it.
        Each queue has one connection, an end of a pair."""
        left, ours = [], []
        for name, state in queues.items():
            pair = socket.socketpair()
            for end in pair:
                self._opened.enter_context(end)
            ours.append(pair[0].fileno())
            snapshot = replace(self._snapshot, state=state, descriptors=(ours[-1],))
            left.append(replace(self._queue, name=name, snapshot=snapshot))
        written = handover.write(replace(self._all, sockets=(), queues=tuple(left)))
        parcel = Parcel.pack([damage(b"".join(written))], ours)
        self._opened.callback(parcel.close)
        parts = enumerate(parcel.descriptors)
        return passing(*((f"hand-over/{place}", Passed(each)) for place, each in parts))


@pytest.fixture
def left(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> Iterator[Left]:
    program, kept = tmp_path / "zqueued", tmp_path / "kept"
    program.write_text(f"#!{sys.executable}\nfrom zqueue.cli.zqueued import main\nmain()\n")
    program.chmod(0o755)
    before = start_zqueued(QUEUE.format("q"), program=program)
    client = context.socket(zmq.DEALER)
    client.connect(before.frontend("q"))
    for number in range(WAITING):
        client.send_multipart([b"", b"%d" % number])
    wait_for(lambda: before.queue("q").waiting == WAITING)
    program.write_text(KEEPS.format(python=sys.executable, path=str(kept)))
    assert before.upgrade().returncode == 1
    before.kill()
    content = kept.read_bytes()
    begin = content.index(b"\n") + 9
    end = begin + int.from_bytes(content[begin - 8 : begin], "little")
    header = json.loads(content[begin:end])
    count = header["sizes"]["q"]["connections"] + len(header["state"]["sockets"])
    with ExitStack() as opened:
        yield Left(handover.read(content, range(count)), opened)


def assert_serves(zqueued: Zqueued, queue: str, peers: Peers) -> None:
    peers.worker(zqueued.backend(queue))
    assert len(peers.client(zqueued.frontend(queue), requests=3).finish()) == 3


def test_each_queue_is_taken_up_or_told(
    left: Left, start_zqueued: StartZqueued, peers: Peers
) -> None:
    queues = one_of_each(left.state)
    how = left.passed({name: state for name, (state, _) in queues.items()})
    zqueued = start_zqueued("".join(map(QUEUE.format, queues)), **how)
    for name, (_, why) in queues.items():
        lost = zqueued.events("handover.lost", queue=name)
        if why:
            [told] = lost
            assert why in told["reason"]
            assert (told["connections"], told["requests"]) == (1, WAITING)
        else:
            assert lost == []
        taken = zqueued.queue(name)
        assert (taken.waiting, taken.clients.connected) == ((0, 0) if why else (WAITING, 1))
        assert_serves(zqueued, name, peers)
    assert zqueued.wait_event("handover.taken_up")["connections"] == 1


@pytest.mark.parametrize(
    ("damage", "why", "requests"),
    [
        (lambda all_: all_[:-1], "it is not all there", WAITING),
        (lambda all_: all_.replace(b'"format":1', b'"format":9'), "its format is 9", None),
        (lambda all_: all_[:60], "it is damaged", None),
        (lambda all_: b"", "it is no state of a zqueued", None),
    ],
    ids=["short", "later", "head", "empty"],
)
def test_all_of_it_is_told(
    damage: Callable[[bytes], bytes],
    why: str,
    requests: int | None,
    left: Left,
    start_zqueued: StartZqueued,
    peers: Peers,
) -> None:
    zqueued = start_zqueued(QUEUE.format("q"), **left.passed({"q": left.state}, damage))
    [told] = zqueued.events("handover.lost")
    assert why in told["reason"]
    assert (told["connections"], told["requests"]) == (1, requests)
    shown = zqueued.ctl("events", "--name", "handover.lost").stdout
    assert f"requests={'-' if requests is None else requests}" in shown
    assert_serves(zqueued, "q", peers)


# Its engine takes up nothing.
REFUSES = """#!{python}
from zqueue.cli.zqueued import main
from zqueue.engine.wire.engine import WireEngine

def open(self, hold, taken_up=None, *, frozen=False, open=WireEngine.open):
    if taken_up is not None:
        raise ValueError("it is damaged: as the test wants it")
    open(self, hold)

WireEngine.open = open
main(prog_name="zqueued")
"""


def test_what_a_reload_loses_is_told(
    start_zqueued: StartZqueued,
    context: zmq.Context[zmq.Socket[bytes]],
    peers: Peers,
    tmp_path: Path,
) -> None:
    program = tmp_path / "zqueued"
    program.write_text(REFUSES.format(python=sys.executable))
    program.chmod(0o755)
    zqueued = start_zqueued(QUEUE.format("q"), program=program)
    client = context.socket(zmq.DEALER)
    client.connect(zqueued.frontend("q"))
    for number in range(WAITING):
        client.send_multipart([b"", b"%d" % number])
    wait_for(lambda: zqueued.queue("q").waiting == WAITING)
    zqueued.write(QUEUE.format("q") + "max_frames = 77\n")
    zqueued.ctl("reload")
    told = zqueued.wait_event("handover.lost", queue="q")
    assert "as the test wants it" in told["reason"]
    assert (told["connections"], told["requests"]) == (1, WAITING)
    wait_for(lambda: zqueued.queue("q").state == "running", "it to be tried again")
    assert_serves(zqueued, "q", peers)


@pytest.mark.parametrize("kinds", ["file", "pipe", "listening", "missing first"])
def test_what_is_no_parcel_is_told(
    kinds: str, start_zqueued: StartZqueued, peers: Peers, tmp_path: Path
) -> None:
    """Whoever edits the unit may pass anything by these names."""
    ours: list[HasFileno]
    with ExitStack() as opened:
        if kinds == "pipe":
            ours = [Passed(each) for each in os.pipe()]
            for each in ours:
                opened.callback(os.close, each.fileno())
        elif kinds == "listening":
            ours = [opened.enter_context(socket.create_server(("127.0.0.1", 0)))] * 2
        else:
            ours = [opened.enter_context((tmp_path / "x").open("w"))] * 2
        first = 1 if kinds == "missing first" else 0
        passed = [(f"hand-over/{first + place}", each) for place, each in enumerate(ours)]
        zqueued = start_zqueued(QUEUE.format("q"), **passing(*passed[: 2 - first]))
        assert_serves(zqueued, "q", peers)
