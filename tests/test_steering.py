"""Steering a queue under load: every request is answered once, and every verb does what it says."""

from __future__ import annotations

import threading

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.engines import about, on_every_engine
from tests.peers import Peers, settle, wait_for_more
from tests.waiting import DEADLINE, wait_for
from tests.zqueued import ONE_QUEUE, Zqueued
from zqueue.control.client import Refused

pytestmark = on_every_engine

IDLE = 0.04
"""CPU seconds a second up to which a daemon counts as idle; the kernel counts in steps of 0.01, and
a spin takes 1."""


def assert_idle(zqueued: Zqueued) -> None:
    """It comes to rest, and then stays at rest."""

    def is_idle() -> bool:
        before = zqueued.cpu_seconds()
        settle(1.0)
        return zqueued.cpu_seconds() - before <= IDLE

    wait_for(is_idle, "the daemon to be idle")
    assert is_idle()


def test_fifty_rounds_of_everything_lose_nothing(zqueued: Zqueued, peers: Peers) -> None:
    further = (
        "",
        '[queues.further]\nfrontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n',
        '[queues.further]\nfrontend = "tcp://127.0.0.1:*"\nbackend = "ipc://*"\n',
    )
    workers = [peers.worker(zqueued.backend(), name) for name in "AB"]
    clients = [peers.client(zqueued.frontend(), f"client-{n}") for n in range(4)]
    wait_for(lambda: all(client.replies for client in clients))
    with zqueued.client() as control:
        for number in range(50):
            assert control.pause("default", wait=number % 2 == 0, timeout=10).ok
            assert control.status().queues[0].state == "paused"
            assert control.resume("default").ok
            assert control.drain("default", timeout=10).ok
            assert control.status().queues[0].in_flight == 0
            assert control.resume("default").ok
            zqueued.write(ONE_QUEUE + further[number % 3])
            assert "default" in control.reload().unchanged
            wait_for_more(clients, 8)
    replies = [client.stop() for client in clients]
    asked = sum(client.asked for client in clients)
    assert sum(map(len, replies)) == asked
    assert sum(len(worker.served) for worker in workers) == asked
    queue = zqueued.queue()
    assert (queue.requests.messages, queue.replies.messages) == (asked, asked)
    assert (queue.requests.frames, queue.replies.frames) == (3 * asked, 3 * asked)
    assert queue.lost == 0


def test_a_reload_that_needs_new_sockets_keeps_the_ports(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    config = """
[queues.default]
frontend = {{ bind = "tcp://127.0.0.1:*", high_water_mark = {mark} }}
backend = "tcp://127.0.0.1:*"
"""
    zqueued = start_zqueued(config.format(mark=1000))
    frontend, backend = zqueued.frontend(), zqueued.backend()
    peers.worker(backend)
    assert len(peers.client(frontend, requests=20).finish()) == 20
    zqueued.write(config.format(mark=500))
    with zqueued.client() as control:
        result = control.reload()
    assert result.changed == {"default": ("frontend.high_water_mark",)}
    assert result.rebound == ("default",)
    assert (zqueued.frontend(), zqueued.backend()) == (frontend, backend)
    assert len(peers.client(frontend, requests=20).finish()) == 20


def test_a_pause_says_what_is_in_flight_just_then(
    zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]], engine: str
) -> None:
    if engine == "libzmq":
        pytest.skip("libzmq's proxy says later what it has counted")
    client, worker = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    worker.connect(zqueued.backend())
    client.connect(zqueued.frontend())
    with zqueued.client() as control:
        for _ in range(5):
            client.send_multipart([b"", b"request"])
            assert worker.poll(int(DEADLINE * 1000))
            request = worker.recv_multipart()
            assert control.pause().queues[0].in_flight == 1
            worker.send_multipart(request)
            assert client.poll(int(DEADLINE * 1000))
            client.recv_multipart()
            control.resume()


def test_paused_holds_requests_returns_replies_and_is_idle(
    zqueued: Zqueued, peers: Peers, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    frontend = zqueued.frontend()
    worker = peers.worker(zqueued.backend(), work=0.2)
    first = peers.client(frontend, "first", requests=1)
    wait_for(lambda: zqueued.queue().in_flight == 1)
    with zqueued.client() as control:
        assert control.pause().queues[0].changed
        held = [peers.client(frontend, f"held-{n}", requests=1) for n in range(5)]
        assert len(first.finish()) == 1, "a reply must return while the queue is paused"
        wait_for(lambda: zqueued.queue().clients.connected >= 5)
        # More than the high-water mark, from one who does not wait for replies.
        flood = context.socket(zmq.DEALER)
        flood.set_hwm(10)
        flood.connect(frontend)
        sent = 0
        while flood.poll(300, zmq.POLLOUT):
            flood.send_multipart([b"", b"x" * 10_000])
            sent += 1
        assert sent > 1000, "it is the high-water marks that hold the flood"
        assert_idle(zqueued)
        assert len(worker.served) == 1
        control.resume()
    for client in held:
        assert len(client.finish()) == 1
    flood.setsockopt(zmq.LINGER, 0)


def test_pausing_twice_is_done_and_changes_nothing(zqueued: Zqueued) -> None:
    for verb, state in (("pause", "paused"), ("resume", "running"), ("terminate", "stopped")):
        assert zqueued.ctl(verb).returncode == 0
        again = zqueued.ctl(verb)
        assert (again.returncode, again.stdout) == (0, f"default: already {state}\n")
    assert zqueued.ctl("start").returncode == 0
    assert zqueued.ctl("start").stdout == "default: already running\n"


def test_status_says_since_when_and_by_whom(zqueued: Zqueued) -> None:
    before = zqueued.queue()
    assert (before.state, before.by) == ("running", "config")
    zqueued.ctl("pause")
    after = zqueued.queue()
    assert after.since > before.since
    assert after.by == "0/root"


def test_a_stopped_queue_refuses_what_it_cannot(zqueued: Zqueued) -> None:
    zqueued.ctl("terminate")
    refused = zqueued.ctl("pause")
    assert refused.returncode == 1
    assert "stopped; start it first" in refused.stderr


@pytest.mark.parametrize("situation", ["no workers", "full workers", "paused", "full and paused"])
def test_terminate_never_waits_for_data(
    situation: str, start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    zqueued = start_zqueued("""
[queues.default]
frontend = { bind = "tcp://127.0.0.1:*", high_water_mark = 50 }
backend = { bind = "tcp://127.0.0.1:*", high_water_mark = 50 }
""")
    client = context.socket(zmq.DEALER)
    client.connect(zqueued.frontend())
    if "full" in situation:
        deaf = context.socket(zmq.DEALER)
        deaf.set_hwm(1)
        deaf.connect(zqueued.backend())
        wait_for(lambda: zqueued.queue().workers.connected == 1)
    while client.poll(300, zmq.POLLOUT):
        client.send_multipart([b"", b"x" * 20_000])
    with zqueued.client() as control:
        if "paused" in situation:
            assert control.pause().ok
            assert control.status().queues[0].state == "paused"
        assert_idle(zqueued)
        result = control.terminate()
        assert (result.ok, result.queues[0].state) == (True, "stopped")
        assert control.start().ok
        assert control.status().queues[0].state == "running"


def test_a_queue_without_workers_is_idle_and_serves_them_when_they_come(
    zqueued: Zqueued, peers: Peers
) -> None:
    clients = [peers.client(zqueued.frontend(), f"early-{n}", requests=3) for n in range(10)]
    wait_for(lambda: zqueued.queue().clients.connected == 10)
    assert_idle(zqueued)
    peers.worker(zqueued.backend())
    for client in clients:
        assert len(client.finish()) == 3


class TestDrain:
    def test_finishes_what_is_in_flight(self, zqueued: Zqueued, peers: Peers, engine: str) -> None:
        peers.worker(zqueued.backend(), work=2.5)
        client = peers.client(zqueued.frontend(), requests=1)
        wait_for(lambda: zqueued.queue().in_flight == 1)
        done = zqueued.ctl("drain")
        assert (done.returncode, done.stdout) == (0, "default: drained\n")
        assert f", {about(engine)}1 in flight" in done.stderr, "it shows progress"
        assert len(client.finish()) == 1
        assert zqueued.queue().state == "paused"

    def test_times_out_and_says_what_is_left(
        self, zqueued: Zqueued, peers: Peers, engine: str
    ) -> None:
        peers.worker(zqueued.backend(), work=60)
        peers.client(zqueued.frontend(), requests=1)
        wait_for(lambda: zqueued.queue().in_flight == 1)
        done = zqueued.ctl("drain", "--timeout", "300ms")
        assert done.returncode == 1
        assert "timed out" in done.stderr
        assert f"; {about(engine)}1 in flight" in done.stderr
        assert zqueued.queue().state == "paused"
        zqueued.wait_event("queue.drain_timed_out", in_flight=1, estimated=engine == "libzmq")

    def test_then_terminate(self, zqueued: Zqueued) -> None:
        assert zqueued.ctl("drain", "--then", "terminate").returncode == 0
        assert zqueued.queue().state == "stopped"

    def test_a_resume_from_elsewhere_ends_it(self, zqueued: Zqueued, peers: Peers) -> None:
        peers.worker(zqueued.backend(), work=60)
        peers.client(zqueued.frontend(), requests=1)
        wait_for(lambda: zqueued.queue().in_flight == 1)
        outcomes: list[str] = []

        def drain() -> None:
            with zqueued.client() as control:
                outcomes.append(control.drain(timeout=60).queues[0].outcome)

        drainer = threading.Thread(target=drain)
        drainer.start()
        wait_for(lambda: zqueued.queue().state == "draining")
        assert zqueued.ctl("resume").returncode == 0
        drainer.join(20)
        assert outcomes == ["interrupted"]
        assert zqueued.queue().state == "running"


class TestPauseWait:
    def test_returns_when_nothing_is_in_flight(self, zqueued: Zqueued, peers: Peers) -> None:
        peers.worker(zqueued.backend(), work=0.5)
        client = peers.client(zqueued.frontend(), requests=1)
        wait_for(lambda: zqueued.queue().in_flight == 1)
        with zqueued.client() as control:
            result = control.pause(wait=True, timeout=20)
            assert (result.ok, result.queues[0].in_flight) == (True, 0)
        assert len(client.finish()) == 1

    def test_times_out(self, zqueued: Zqueued, peers: Peers) -> None:
        peers.worker(zqueued.backend(), work=60)
        peers.client(zqueued.frontend(), requests=1)
        wait_for(lambda: zqueued.queue().in_flight == 1)
        done = zqueued.ctl("pause", "--wait", "--timeout", "300ms")
        assert done.returncode == 1
        assert "timed out" in done.stderr
        assert zqueued.queue().state == "paused"

    def test_a_resume_from_elsewhere_ends_it(self, zqueued: Zqueued, peers: Peers) -> None:
        peers.worker(zqueued.backend(), work=60)
        peers.client(zqueued.frontend(), requests=1)
        wait_for(lambda: zqueued.queue().in_flight == 1)
        results: list[int] = []

        def pause() -> None:
            results.append(zqueued.ctl("pause", "--wait").returncode)

        waiter = threading.Thread(target=pause)
        waiter.start()
        wait_for(lambda: zqueued.queue().state == "paused")
        zqueued.ctl("resume")
        waiter.join(20)
        assert results == [1]


def test_the_name_may_be_left_out_only_if_there_is_one_queue(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued("""
[queues.one]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
[queues.two]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
start = "paused"
""")
    with zqueued.client() as control:
        with pytest.raises(Refused, match="which queue"):
            control.pause()
        with pytest.raises(Refused, match='no queue "three"; there are: one, two'):
            control.pause("one", "three")
        assert zqueued.queue("one").state == "running"
        assert zqueued.queue("two").state == "paused"
        assert control.resume(all=True).ok
    assert {queue.state for queue in zqueued.status().queues} == {"running"}


def test_a_drain_gives_waiting_requests_to_workers(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """Also what libzmq's blocked send was let out into."""
    zqueued = start_zqueued("""
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = { bind = "tcp://127.0.0.1:*", high_water_mark = 5 }
""")
    client, worker = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    client.set_hwm(0)
    worker.set_hwm(5)
    client.connect(zqueued.frontend())
    worker.connect(zqueued.backend())
    wait_for(lambda: zqueued.queue().workers.connected == 1)
    count = 600
    for _ in range(count):
        client.send_multipart([b"", b"x" * 20_000])
    wait_for(lambda: zqueued.events("queue.congested") or zqueued.queue().waiting)
    outcomes: list[str] = []

    def drain() -> None:
        with zqueued.client() as control:
            outcomes.append(control.drain(timeout=20).queues[0].outcome)

    drainer = threading.Thread(target=drain)
    drainer.start()
    wait_for(lambda: zqueued.queue().state == "draining")
    while drainer.is_alive():
        if worker.poll(20):
            worker.send_multipart(worker.recv_multipart())
    assert outcomes == ["done"]
    with zqueued.client() as control:
        control.resume()
    replies = 0
    while replies < count:
        if worker.poll(5):
            worker.send_multipart(worker.recv_multipart())
        while client.poll(0):
            client.recv_multipart()
            replies += 1


def test_terminate_waits_for_no_linger(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    zqueued = start_zqueued("""
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = { bind = "tcp://127.0.0.1:*", linger = "40s" }
""")
    client, deaf = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    deaf.set_hwm(1)
    client.connect(zqueued.frontend())
    deaf.connect(zqueued.backend())
    wait_for(lambda: zqueued.queue().workers.connected == 1)
    while client.poll(300, zmq.POLLOUT):
        client.send_multipart([b"", b"x" * 20_000])
    assert zqueued.ctl("terminate").returncode == 0
    assert zqueued.events("daemon.stalled") == []


def test_a_request_without_any_worker_is_told(zqueued: Zqueued, peers: Peers) -> None:
    peers.client(zqueued.frontend(), requests=1)
    zqueued.wait_event("queue.no_workers")
