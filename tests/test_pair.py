"""A queue's own PAIR, steered by a script written for ``zmq_proxy_steerable``."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.engines import on_every_engine
from tests.peers import Peers
from tests.waiting import wait_for
from tests.zqueued import Zqueued, free_port

pytestmark = on_every_engine


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/default.pair"


@pytest.fixture
def steered(start_zqueued: StartZqueued, endpoint: str) -> Zqueued:
    return start_zqueued(f"""
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
control = "{endpoint}"
""")


def script(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    pair = context.socket(zmq.PAIR)
    pair.linger = 1000
    pair.connect(endpoint)
    return pair


def statistics(pair: zmq.Socket[bytes]) -> list[int]:
    pair.send(b"STATISTICS")
    assert pair.poll(10_000), "STATISTICS was not answered"
    answer = pair.recv_multipart()
    assert [len(frame) for frame in answer] == [8] * 8
    return [struct.unpack("=Q", frame)[0] for frame in answer]


def test_the_words_mean_what_the_manual_says(
    steered: Zqueued, endpoint: str, peers: Peers, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    pair = script(context, endpoint)
    worker = peers.worker(steered.backend())
    assert len(peers.client(steered.frontend(), "before", requests=5).finish()) == 5

    pair.send(b"PAUSE")
    wait_for(lambda: steered.queue().state == "paused")
    assert steered.queue().by.startswith("pair uid=0")
    held = peers.client(steered.frontend(), "held", requests=1)
    wait_for(lambda: steered.queue().clients.connected >= 1)
    assert len(worker.served) == 5

    pair.send(b"RESUME")
    assert len(held.finish()) == 1

    counters = statistics(pair)
    request, reply = len(b"before 0"), len(b"w:before 0")
    frames, requests, replies = 18, 5 * (5 + request) + 5 + 6, 5 * (5 + reply) + 5 + 8
    assert counters == [frames, requests, frames, replies, frames, replies, frames, requests]

    pair.send(b"TERMINATE")
    wait_for(lambda: steered.queue().state == "stopped")
    assert statistics(pair) == counters, "the counters outlive a stop"
    assert not pair.poll(0), "only STATISTICS is answered"


def test_it_steers_under_full_load(
    steered: Zqueued, endpoint: str, peers: Peers, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    pair = script(context, endpoint)
    workers = [peers.worker(steered.backend(), name) for name in "AB"]
    clients = [peers.client(steered.frontend(), f"c{n}", requests=3000) for n in range(8)]
    for turn in range(5):
        wait_for(lambda: all(worker.served for worker in workers))
        pair.send(b"PAUSE")
        wait_for(lambda: steered.queue().state == "paused")
        wait_for(lambda: steered.queue().in_flight == 0, "the workers to finish")
        had = [len(worker.served) for worker in workers]
        assert statistics(pair)
        assert [len(worker.served) for worker in workers] == had, f"paused, turn {turn}"
        pair.send(b"RESUME")
        wait_for(lambda: steered.queue().state == "running")
    assert [len(client.finish()) for client in clients] == [3000] * 8


def test_statistics_are_answered_in_every_situation(
    steered: Zqueued, endpoint: str, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    pair = script(context, endpoint)
    client = context.socket(zmq.DEALER)
    client.connect(steered.frontend())
    for number in range(1, 4):
        client.send_multipart([b"", b"no worker takes it"])
        assert len(statistics(pair)) == 8
        pair.send([b"PAUSE", b"RESUME", b"PAUSE"][number - 1])
        assert len(statistics(pair)) == 8


@pytest.mark.parametrize(
    "word", [b"", b"pause", b"PAUSE\0", b"FLY", b"\xff" * 300, b"x" * 5_000_000]
)
def test_a_wrong_word_changes_nothing(
    word: bytes, steered: Zqueued, endpoint: str, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    pair = script(context, endpoint)
    pair.send(word)
    pair.send_multipart([b"PAUSE", b"PAUSE"])
    assert statistics(pair)
    assert steered.queue().state == "running"
    wait_for(lambda: len(steered.events("queue.steering_refused")) == 2)


def test_a_peer_that_goes_away_in_the_middle_changes_nothing(
    steered: Zqueued, endpoint: str, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    for _ in range(20):
        pair = script(context, endpoint)
        for _ in range(10):
            pair.send(b"STATISTICS")
        pair.close(0)
    assert steered.queue().state == "running"

    def served() -> bool:
        pair = script(context, endpoint)
        pair.send(b"STATISTICS")
        answered = bool(pair.poll(500))
        pair.close(0)
        return answered

    wait_for(served, "the next peer to be served")


def test_the_pair_may_start_what_it_stopped_only_by_other_means(
    steered: Zqueued, endpoint: str, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    pair = script(context, endpoint)
    pair.send(b"TERMINATE")
    wait_for(lambda: steered.queue().state == "stopped")
    pair.send(b"RESUME")
    steered.wait_event("queue.steering_refused", word="RESUME")
    assert steered.queue().state == "stopped"
    assert steered.ctl("start").returncode == 0
    assert statistics(pair)


def test_the_next_script_is_served_when_the_one_before_has_left(
    steered: Zqueued, endpoint: str, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    first = script(context, endpoint)
    assert statistics(first)
    others = [script(context, endpoint) for _ in range(3)]
    for other in others:
        other.send(b"STATISTICS")
    for word, state in ((b"PAUSE", "paused"), (b"RESUME", "running")):
        first.send(word)
        wait_for(lambda wanted=state: steered.queue().state == wanted)  # type: ignore[misc]
    assert statistics(first)
    assert not any(other.poll(0) for other in others)
    first.close(0)
    for _ in range(3):

        def answered() -> list[zmq.Socket[bytes]]:
            return [other for other in others if other.poll(0)]

        [served] = wait_for(answered, "one of the others to be served")
        assert len(served.recv_multipart()) == 8
        served.send(b"PAUSE")
        wait_for(lambda: steered.queue().state == "paused")
        served.send(b"RESUME")
        wait_for(lambda: steered.queue().state == "running")
        others.remove(served)
        served.close(0)


@pytest.mark.parametrize("type", [zmq.PUB, zmq.REQ, zmq.DEALER])
def test_another_socket_at_the_pair_is_told(
    type: int, steered: Zqueued, endpoint: str, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with context.socket(type) as lost:
        lost.linger = 0
        lost.connect(endpoint)
        event = steered.wait_event("peer.rejected", side="control")
    assert "is no PAIR" in event["likely"]
    assert event["level"] == "warning"
    found = steered.ctl("doctor").stdout
    assert "turned away at the queue's PAIR in the last hour" in found
    assert "only a PAIR steers a queue" in found or "clients connect to" in found
    pair = script(context, endpoint)
    assert statistics(pair)


def test_a_browser_at_the_pair_is_told(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    port = free_port()
    zqueued = start_zqueued(f"""
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
control = "tcp://127.0.0.1:{port}"
""")
    with socket.create_connection(("127.0.0.1", port)) as browser:
        browser.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        zqueued.wait_event("peer.rejected", side="control")
    pair = script(context, f"tcp://127.0.0.1:{port}")
    assert statistics(pair)
