"""What the libzmq engine still holds when a queue is drained, stopped or replaced is handed out, or
told as lost, or as not known."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.engines import on_libzmq
from tests.http import SERVED, ask
from tests.peers import Peers
from tests.waiting import wait_for
from tests.zqueued import Zqueued
from zqueue.control.client import Refused
from zqueue.control.messages import UpgradeResult

pytestmark = on_libzmq

Context = zmq.Context[zmq.Socket[bytes]]

JOBS = [b"job %d" % number for number in range(100)]
CONFIG = """
[queues.default]
type = "{type}"
frontend = "tcp://127.0.0.1:*"
backend = {{ bind = "tcp://127.0.0.1:*"{more} }}
"""
SENDER = {"queue": zmq.DEALER, "streamer": zmq.PUSH}
WORKER = {"queue": zmq.DEALER, "streamer": zmq.PULL}
both_types = pytest.mark.parametrize("type", ["queue", "streamer"])


def config(type: str, more: str = "") -> str:
    return CONFIG.format(type=type, more=more)


def send_jobs(zqueued: Zqueued, type: str, context: Context) -> zmq.Socket[bytes]:
    """Jobs that the queue's frontend holds, for no worker is there."""
    sender = context.socket(SENDER[type])
    sender.linger = 0
    sender.connect(zqueued.frontend())
    for job in JOBS:
        sender.send_multipart([b"", job] if type == "queue" else [job])
    wait_for(lambda: zqueued.queue().waiting is None, "something that waits uncounted")
    return sender


def more_than_the_kernel_takes(
    start_zqueued: StartZqueued, context: Context
) -> tuple[Zqueued, zmq.Socket[bytes]]:
    """A streamer that has handed out 300 jobs, and a worker that has not read them."""
    zqueued = start_zqueued(config("streamer", ', send_buffer = "8KiB"'))
    producer, worker = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    worker.rcvhwm = 1
    worker.rcvbuf = 8192
    worker.connect(zqueued.backend())
    wait_for(lambda: zqueued.queue().workers.connected == 1)
    producer.connect(zqueued.frontend())
    for number in range(300):
        producer.send(b"%d" % number + bytes(10_000))
    wait_for(lambda: zqueued.queue().requests.messages == 300)
    return zqueued, worker


@both_types
def test_a_drain_is_not_over_while_the_frontend_can_be_read(
    type: str, start_zqueued: StartZqueued, context: Context
) -> None:
    zqueued = start_zqueued(config(type))
    sender = send_jobs(zqueued, type, context)
    assert "waiting -, " in zqueued.ctl("stats").stdout
    drained = zqueued.ctl("drain", "--timeout", "300ms", "--then", "terminate")
    assert drained.returncode == 1
    assert "timed out" in drained.stdout + drained.stderr
    zqueued.wait_event("queue.drain_timed_out")
    assert zqueued.events("queue.drained") == []
    lost = zqueued.wait_event("queue.stopped")["lost"]
    assert (lost, zqueued.queue().lost) == ((100, 100) if type == "queue" else (None, None))
    assert not sender.closed


@both_types
@pytest.mark.parametrize("how", ["drain", "reload", "shutdown"])
def test_a_drain_hands_out_what_had_come(
    how: str, type: str, start_zqueued: StartZqueued, context: Context
) -> None:
    zqueued = start_zqueued(config(type))
    sender = send_jobs(zqueued, type, context)
    told: list[Any] = []

    def end() -> None:
        if how == "shutdown":
            told.append(zqueued.stop())
            return
        if how == "reload":
            zqueued.write(config(type, ', tcp_keepalive = "60s"'))
        words = ["reload"] if how == "reload" else ["drain", "--then", "terminate"]
        told.append(zqueued.ctl(*words).returncode)

    backend = zqueued.backend()
    ending = threading.Thread(target=end)
    ending.start()
    zqueued.wait_event("queue.draining")
    worker = context.socket(WORKER[type])
    worker.connect(backend)
    done: list[bytes] = []
    while len(done) < len(JOBS):
        assert worker.poll(10_000), f"{len(done)} of {len(JOBS)} came"
        message = worker.recv_multipart()
        done.append(message[-1])
        if type == "queue":
            worker.send_multipart(message)
    ending.join()
    assert done == JOBS
    assert told == [0]
    zqueued.wait_event("queue.drained")
    assert zqueued.events("queue.drain_timed_out") == []
    if type == "queue":
        assert [sender.recv_multipart()[-1] for _ in JOBS] == JOBS
    assert not sender.closed


def test_what_workers_have_not_read_yet_gets_out_before_the_end(
    start_zqueued: StartZqueued, context: Context
) -> None:
    """More than the kernel takes: what is left of the drain's time is for that."""
    zqueued, worker = more_than_the_kernel_takes(start_zqueued, context)
    told: list[int] = []
    drain = threading.Thread(
        target=lambda: told.append(
            zqueued.ctl("drain", "--timeout", "50s", "--then", "terminate").returncode
        )
    )
    drain.start()
    zqueued.wait_event("queue.draining")
    wait_for(lambda: zqueued.queue().stale, "the queue to flush")
    came = [worker.recv() for _ in range(300)]
    assert [each.rstrip(b"\0") for each in came] == [b"%d" % number for number in range(300)]
    drain.join()
    assert told == [0]
    assert zqueued.queue().lost == 0
    assert zqueued.events("daemon.stalled") == []


def test_a_worker_that_does_not_read_has_the_drain_time_out(
    start_zqueued: StartZqueued, context: Context
) -> None:
    zqueued, _worker = more_than_the_kernel_takes(start_zqueued, context)
    drained = zqueued.ctl("drain", "--timeout", "1500ms", "--then", "terminate")
    assert drained.returncode == 1
    assert zqueued.wait_event("queue.stopped")["lost"] is None
    zqueued.wait_event("queue.drain_timed_out")
    assert zqueued.queue().lost is None


def test_producers_that_never_stop_have_the_drain_time_out(
    start_zqueued: StartZqueued, context: Context
) -> None:
    zqueued = start_zqueued(config("streamer"))
    over = threading.Event()

    def produce() -> None:
        with zmq.Context() as own, own.socket(zmq.PUSH) as producer:
            producer.linger = 0
            producer.connect(zqueued.frontend())
            while not over.is_set():
                if producer.poll(20, zmq.POLLOUT):
                    producer.send(b"more")

    def consume() -> None:
        with zmq.Context() as own, own.socket(zmq.PULL) as worker:
            worker.connect(zqueued.backend())
            while not over.is_set():
                if worker.poll(20):
                    worker.recv()

    threads = [threading.Thread(target=each) for each in (produce, consume)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: zqueued.queue().requests.messages > 1000)
        assert zqueued.ctl("drain", "--timeout", "1s").returncode == 1
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("type", ["forwarder", "streamer"])
def test_what_cannot_be_known_is_not_told_as_0(
    type: str, start_zqueued: StartZqueued, context: Context
) -> None:
    zqueued = start_zqueued(SERVED + config(type))
    if type == "streamer":
        assert zqueued.queue().lost == 0
        assert 'end="lost"' in ask(zqueued, "/metrics").text
        producer, worker = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        worker.connect(zqueued.backend())
        producer.connect(zqueued.frontend())
        producer.send(b"gone with its worker")
        assert worker.poll(10_000)
        wait_for(lambda: zqueued.queue().requests.messages == 1)
        worker.close(0)
    wait_for(lambda: zqueued.queue().lost is None)
    assert "lost -;" in zqueued.ctl("stats").stdout
    assert 'end="lost"' not in ask(zqueued, "/metrics").text
    status = ask(zqueued, "/api/v1/status").json
    assert status["queues"][0]["lost"] is None
    assert zqueued.ctl("terminate").returncode == 0
    assert zqueued.queue().lost is None, "it stays unknown"


def test_a_request_that_died_with_its_worker_holds_up_no_drain(
    zqueued: Zqueued, peers: Peers, context: Context
) -> None:
    dying = context.socket(zmq.REP)
    dying.connect(zqueued.backend())
    client = context.socket(zmq.REQ)
    client.linger = 0
    client.connect(zqueued.frontend())
    client.send(b"lost")
    assert dying.recv() == b"lost"
    peers.worker(zqueued.backend())
    wait_for(lambda: zqueued.queue().workers.connected == 2)
    dying.close(0)
    wait_for(lambda: zqueued.queue().workers.connected == 1)
    drained = zqueued.ctl("drain", "--timeout", "20s")
    assert (drained.returncode, drained.stdout) == (0, "default: drained\n")
    zqueued.wait_event("queue.requests_lost", requests=1)
    assert (zqueued.queue().in_flight, zqueued.queue().lost) == (0, 1)


def test_what_comes_during_an_upgrade_is_counted_and_so_is_all_of_its_pause(
    zqueued: Zqueued, context: Context
) -> None:
    client, worker = context.socket(zmq.DEALER), context.socket(zmq.REP)
    client.connect(zqueued.frontend())
    worker.connect(zqueued.backend())
    client.send_multipart([b"", b"first"])
    assert worker.recv() == b"first"
    wait_for(lambda: zqueued.queue().in_flight == 1)
    told: list[UpgradeResult] = []

    def upgrade() -> None:
        with zqueued.client(timeout=30) as control:
            told.append(control.upgrade())

    upgrading = threading.Thread(target=upgrade)
    upgrading.start()
    zqueued.wait_event("queue.draining")
    for _ in range(5):
        client.send_multipart([b"", b"meanwhile"])
    began = time.monotonic()
    wait_for(lambda: time.monotonic() > began + 1)  # the drain goes on for as long
    worker.send(b"reply")
    assert client.recv_multipart() == [b"", b"reply"]
    upgrading.join()
    wait_for(lambda: zqueued.pids() == [told[0].pid], "the old process to be gone")
    queue = zqueued.queue()
    assert (queue.state, queue.in_flight, queue.lost) == ("running", 0, 5)
    assert told[0].paused > 1
    assert zqueued.wait_event("handover.taken_up")["paused"] >= told[0].paused


def test_an_upgrade_that_is_refused_leaves_the_queue_at_work(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    zqueued = start_zqueued(config("queue"))
    peers.worker(zqueued.backend())
    client = peers.client(zqueued.frontend(), requests=3)
    assert len(client.finish()) == 3
    frontend, backend = zqueued.frontend(), zqueued.backend()
    zqueued.path.write_text("no config")
    with zqueued.client(timeout=30) as control, pytest.raises(Refused):
        control.upgrade()
    assert (zqueued.queue().state, zqueued.frontend(), zqueued.backend()) == (
        "running",
        frontend,
        backend,
    )
    assert len(peers.client(frontend, requests=3).finish()) == 3
