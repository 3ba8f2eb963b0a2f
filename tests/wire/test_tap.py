"""A tap shows what passes, whole and matched; what it recorded can be asked again."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from benchmarks import native
from benchmarks.brokers import Broker
from benchmarks.wire.peers import raw_peers
from benchmarks.wire.rows import rows
from tests.compiler import needs_a_compiler
from tests.conftest import StartZqueued
from tests.engines import on_wire
from tests.peers import Client, Peers
from tests.waiting import wait_for
from tests.zqueued import Zqueued, free_port
from zqueue.control import recording
from zqueue.control.client import Refused
from zqueue.control.messages import TappedMessage, TapResult
from zqueue.control.replay import replay

pytestmark = on_wire

TAPPED = """
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
tap = true
"""


@pytest.fixture
def zqueued(start_zqueued: StartZqueued) -> Zqueued:
    return start_zqueued(TAPPED)


class Reader:
    """Reads a tap in a thread of its own."""

    def __init__(self, zqueued: Zqueued, **wish: Any) -> None:
        self.messages: list[TappedMessage] = []
        self.dropped = 0
        self._stopping = threading.Event()
        self._client = zqueued.client()
        looks = self._client.tap(**wish)
        self._take(next(looks))
        self._thread = threading.Thread(target=self._run, args=(looks,))
        self._thread.start()

    def _take(self, found: TapResult) -> None:
        self.messages += found.messages
        self.dropped += found.dropped

    def _run(self, looks: Iterator[TapResult]) -> None:
        while not self._stopping.is_set():
            self._take(next(looks))

    def stop(self) -> None:
        if not self._stopping.is_set():
            self._stopping.set()
            self._thread.join()
            self._client.close()


@pytest.fixture
def read(zqueued: Zqueued) -> Iterator[Callable[..., Reader]]:
    readers: list[Reader] = []

    def start(**wish: Any) -> Reader:
        readers.append(Reader(zqueued, **wish))
        return readers[-1]

    yield start
    for reader in readers:
        reader.stop()


def bodies(message: TappedMessage) -> list[bytes]:
    return recording.bodies(message)


def asked(peers: Peers, zqueued: Zqueued, requests: int, name: str = "c") -> Client:
    client = peers.client(zqueued.frontend(), name, requests)
    client.finish()
    return client


def test_every_message_is_shown_once_and_matched(
    zqueued: Zqueued, peers: Peers, read: Callable[..., Reader]
) -> None:
    reader = read()
    peers.worker(zqueued.backend())
    asked(peers, zqueued, 100)
    wait_for(lambda: len(reader.messages) == 200)
    requests = {each.id: each for each in reader.messages if each.way == "request"}
    replies = {each.id: each for each in reader.messages if each.way == "reply"}
    assert len(requests) == len(replies) == 100
    assert requests.keys() == replies.keys()
    for number, request in requests.items():
        reply = replies[number]
        assert bodies(reply) == [b"", b"w:" + bodies(request)[1]]
        assert reply.client_identity == request.client_identity
        assert (reply.service or 0) > 0
        assert reply.waited is not None
        assert reply.at >= request.at
        assert request.sizes == (0, len(bodies(request)[1]))
    assert [bodies(each)[1] for each in requests.values()] == [
        f"c {number}".encode() for number in range(100)
    ]
    assert reader.dropped == 0


def test_what_is_asked_for_is_chosen_by_the_daemon(
    zqueued: Zqueued, peers: Peers, read: Callable[..., Reader]
) -> None:
    slow = read(took=0.05)
    large = read(smallest=6)
    one = read(contains="b 3")
    none = read(client="nobody")
    everything = read()
    with zqueued.client() as control:
        peers.worker(zqueued.backend(), work=0.06)
        asked(peers, zqueued, 1)
        peers.close()
        wait_for(lambda: not control.workers().workers)
        peers.worker(zqueued.backend(), "v")
        asked(peers, zqueued, 5, "b")
    wait_for(lambda: len(everything.messages) == 12)
    for reader in (slow, large, one, none):
        reader.stop()
    assert [bodies(each)[1] for each in slow.messages] == [b"c 0", b"w:c 0"]
    assert [bodies(each)[1] for each in one.messages] == [b"b 3", b"v:b 3"]
    assert all(sum(each.sizes) >= 6 for each in large.messages)
    assert none.messages == []


def test_large_messages_are_cut_and_say_so(
    zqueued: Zqueued,
    context: zmq.Context[zmq.Socket[bytes]],
    read: Callable[..., Reader],
) -> None:
    reader = read(content=10)
    with zqueued.client() as control:
        client = context.socket(zmq.DEALER)
        client.connect(zqueued.frontend())
        client.send_multipart([b"", b"head", b"x" * 1_000_000])
        [message] = wait_for(lambda: reader.messages)
        assert message.sizes == (0, 4, 1_000_000)
        assert bodies(message) == [b"", b"head", b"x" * 6]
        assert message.frames == 3
        assert control.status().queues[0].waiting == 1


def test_a_slow_reader_misses_messages_and_holds_up_nobody(
    zqueued: Zqueued, peers: Peers, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with zqueued.client() as control:
        looks = control.tap(content=100_000)
        next(looks)
        peers.worker(zqueued.backend())
        client = context.socket(zmq.DEALER)
        client.connect(zqueued.frontend())
        body = b"x" * 100_000
        for _ in range(10):
            for _ in range(100):
                client.send_multipart([b"", body])
            for _ in range(100):
                assert client.recv_multipart()[1][2:] == body
        seen, dropped = 0, 0
        while seen + dropped < 2000:
            found = next(looks)
            seen += len(found.messages)
            dropped += found.dropped
        assert seen + dropped == 2000
        assert dropped > 0


@needs_a_compiler
def test_under_full_load_some_are_shown_with_their_replies_and_the_others_counted(
    zqueued: Zqueued, read: Callable[..., Reader], tmp_path: Path
) -> None:
    reader = read()
    row = next(each for each in rows(idle=0) if each.key == "a")
    broker = Broker("zqueued", zqueued.process.pid, zqueued.frontend(), zqueued.backend())
    with raw_peers(
        native.build_raw_peers(tmp_path), row, broker, min(os.sched_getaffinity(0))
    ) as load:
        window = load.run(2.0, 1.0)
    passed = window.sent + window.total_answered
    wait_for(lambda: len(reader.messages) + reader.dropped >= passed, within=60)
    assert len(reader.messages) + reader.dropped == passed
    assert reader.dropped > 0
    # What passed before it was known how busy the data path is does not count.
    last = max(each.at for each in reader.messages)
    late = {each.id for each in reader.messages if each.at > last - 1}
    asked = {each.id for each in reader.messages if each.way == "request"}
    replied = {each.id for each in reader.messages if each.way == "reply"}
    assert len(asked & replied & late) > len(late) / 2


def test_one_that_is_not_read_ends(zqueued: Zqueued, peers: Peers) -> None:
    with zqueued.client() as control:
        open_ones = [control.tap() for _ in range(8)]
        for looks in open_ones:
            next(looks)
        with pytest.raises(Refused, match="there are 8 taps already"):
            next(control.tap())
        peers.worker(zqueued.backend())
        peers.client(zqueued.frontend())

        def there_is_room() -> bool:
            try:
                next(control.tap())
            except Refused:
                return False
            return True

        wait_for(there_is_room)


def test_it_has_to_be_allowed(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued()
    done = zqueued.ctl("tap")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "zqueuectl: default: queues.default.tap does not allow it\n"


def test_a_reload_allows_it_and_keeps_connections(zqueued: Zqueued, peers: Peers) -> None:
    peers.worker(zqueued.backend())
    client = peers.client(zqueued.frontend())
    wait_for(lambda: client.replies)
    zqueued.path.write_text(zqueued.path.read_text().replace("tap = true", "tap = false"))
    assert zqueued.ctl("reload").returncode == 0
    assert zqueued.ctl("tap").returncode == 1
    assert zqueued.events("peer.disconnected") == []
    assert len(client.stop()) == client.asked


def test_it_reads_well(zqueued: Zqueued, peers: Peers) -> None:
    command = [sys.executable, "-m", "zqueue.cli.zqueuectl", "-e", zqueued.control, "tap"]
    shown = subprocess.Popen([*command, "--count", "3"], stdout=subprocess.PIPE, text=True)
    matched = subprocess.Popen(
        [*command, "--match", "c [7]", "--count", "2", "--json"], stdout=subprocess.PIPE, text=True
    )
    with zqueued.client() as control:
        peers.worker(zqueued.backend())
        client = peers.client(zqueued.frontend())
        assert shown.wait(30) == 0
        client.stop()
        # Those with a 7 behind the space may have passed before it listened: ask again and again.
        while matched.poll() is None:
            asked(peers, zqueued, 8)
        assert control.status().queues[0].state == "running"
    assert shown.stdout is not None
    lines = shown.stdout.read().splitlines()
    # The first may be the reply to what was asked before.
    request, reply = lines[1:] if "<- #" in lines[0] else lines[:2]
    assert "-> #" in request
    assert " | c " in request
    assert "<- #" in reply
    assert "service" in reply
    assert matched.stdout is not None
    first, second = (json.loads(line) for line in matched.stdout)
    assert base64.b64decode(first["bodies"][1]).startswith(b"c 7")
    assert (first["way"], second["way"]) == ("request", "reply")
    assert first["id"] == second["id"]


def recorded(zqueued: Zqueued, peers: Peers, file: Path, requests: int) -> recording.Recording:
    """What ``tap --write`` makes of so many requests."""
    command = [sys.executable, "-m", "zqueue.cli.zqueuectl", "-e", zqueued.control]
    # Whoever runs the tests in the background may have them ignore it.
    writer = subprocess.Popen(
        [*command, "tap", "--write", str(file)],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: file.exists() and file.read_text())
    asked(peers, zqueued, requests)
    wait_for(lambda: len(file.read_text().splitlines()) == 1 + 2 * requests)
    writer.send_signal(signal.SIGINT)
    _, told = writer.communicate(timeout=20)
    assert writer.returncode == 0
    assert f"{2 * requests} messages recorded, 0 left out" in told.decode()
    with file.open() as lines:
        return recording.read(lines)


def test_what_was_recorded_is_asked_again(zqueued: Zqueued, peers: Peers, tmp_path: Path) -> None:
    peers.worker(zqueued.backend())
    file = tmp_path / "tap.jsonl"
    found = recorded(zqueued, peers, file, 20)
    assert (found.head.queue, found.dropped, len(found.messages)) == ("default", 0, 40)
    done = zqueued.ctl("replay", str(file), zqueued.frontend(), "--speed", "max", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert (report["sent"], report["same"], report["different"]) == (20, 20, 0)
    assert (report["left_out"], report["unanswered"]) == (0, 0)
    assert report["recorded"]["p50"] > 0
    assert report["replayed"]["p99"] >= report["replayed"]["p50"]
    assert zqueued.queue().requests.messages == 40
    # Something else that answers, and something that does not.
    peers.close()
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as other:
        other.linger = 0
        other.bind(endpoint)
        answering = threading.Thread(target=_answer_all_but_the_last, args=(other, 20))
        answering.start()
        report_ = replay(found, endpoint, speed=None, timeout=0.5)
        answering.join()
    assert (report_.sent, report_.same, report_.different, report_.unanswered) == (20, 0, 19, 1)
    first = report_.differences[0]
    assert (first.frame, first.at) == (0, 0)
    assert (bytes.fromhex(first.recorded), bytes.fromhex(first.got)) == (b"w:c 0", b"v:c 0")
    assert not report_.ok


def _answer_all_but_the_last(other: zmq.Socket[bytes], requests: int) -> None:
    for number in range(requests):
        *envelope, body = other.recv_multipart()
        if number < requests - 1:
            other.send_multipart([*envelope, b"v:" + body])


def test_a_replay_keeps_the_pace(zqueued: Zqueued, peers: Peers, tmp_path: Path) -> None:
    peers.worker(zqueued.backend(), work=0.02)
    found = recorded(zqueued, peers, tmp_path / "tap.jsonl", 10)
    lasted = found.messages[-1].at - found.messages[0].at
    at_half = replay(found, zqueued.frontend(), speed=0.5)
    assert at_half.ok
    assert at_half.seconds >= 2 * lasted * 0.9


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("", "line 1: not the head of a tap's recording"),
        ("{}\n", "line 1: not the head of a tap's recording: queue"),
        ('{"format": "zqueue tap", "version": 2}\n', "line 1: not the head"),
        ('HEAD\n{"way": "sideways"}\n', "line 2: not a message: "),
        ("HEAD\nrubbish\n", "line 2: "),
    ],
)
def test_what_is_no_recording_is_refused(
    zqueued: Zqueued, tmp_path: Path, lines: str, why: str
) -> None:
    file = tmp_path / "no.jsonl"
    head = recording.Head(queue="q", broker="b", began=1.0).model_dump_json()
    file.write_text(lines.replace("HEAD", head))
    done = zqueued.ctl("replay", str(file), zqueued.frontend())
    assert done.returncode == 2
    assert f"{file}: {why}" in done.stderr
    assert "Traceback" not in done.stderr
