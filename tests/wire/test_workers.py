"""Workers are known one by one: listed, and drained by their id."""

from __future__ import annotations

import json

import zmq

from tests.conftest import StartZqueued
from tests.engines import on_wire
from tests.peers import Peers, wait_for_more
from tests.waiting import wait_for
from tests.zqueued import Zqueued
from zqueue.control.messages import Worker

pytestmark = on_wire


def workers(zqueued: Zqueued) -> dict[str, Worker]:
    """The workers by their address."""
    with zqueued.client() as control:
        return {worker.peer: worker for worker in control.workers().workers}


def test_are_listed_with_what_they_have(
    zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    rep, dealer, client = (context.socket(kind) for kind in (zmq.REP, zmq.DEALER, zmq.DEALER))
    for each in (rep, dealer):
        each.connect(zqueued.backend())
    client.connect(zqueued.frontend())
    wait_for(lambda: len(workers(zqueued)) == 2)
    for _ in range(3):
        client.send_multipart([b"", b"x"])
    wait_for(lambda: zqueued.queue().in_flight == 3)
    listed = {worker.type: worker for worker in workers(zqueued).values()}
    assert listed.keys() == {"REP", "DEALER"}
    assert (listed["REP"].in_flight, listed["REP"].ahead) == (1, 1)
    assert (listed["DEALER"].in_flight, listed["DEALER"].ahead) == (2, None)
    rep.send(rep.recv())
    wait_for(lambda: zqueued.queue().in_flight == 2)
    answered = next(each for each in workers(zqueued).values() if each.type == "REP")
    assert (answered.replies, answered.in_flight) == (1, 0)
    assert answered.service
    shown = zqueued.ctl("workers").stdout
    assert all(peer in shown for peer in workers(zqueued))
    assert len(json.loads(zqueued.ctl("workers", "--json").stdout)["workers"]) == 2


def test_one_that_is_drained_finishes_what_it_has_and_gets_no_more(
    zqueued: Zqueued, peers: Peers
) -> None:
    kept = peers.worker(zqueued.backend(), "kept")
    first = set(wait_for(lambda: workers(zqueued)))
    drained = peers.worker(zqueued.backend(), "drained", work=0.3)
    wait_for(lambda: len(workers(zqueued)) == 2)
    [peer] = workers(zqueued).keys() - first
    worker = workers(zqueued)[peer]
    clients = [peers.client(zqueued.frontend(), f"c{number}") for number in range(3)]
    wait_for(lambda: workers(zqueued)[peer].in_flight)
    done = zqueued.ctl("drain", "--worker", str(worker.id))
    assert (done.returncode, done.stdout) == (0, "default: drained\n")
    assert zqueued.queue().state == "running"
    assert workers(zqueued)[peer].state == "draining"
    assert workers(zqueued)[peer].in_flight == 0
    zqueued.wait_event("worker.drained", id=worker.id, peer=peer)
    served = len(drained.served)
    assert served
    wait_for_more(clients, 50)
    assert len(drained.served) == served
    assert kept.served
    for client in clients:
        assert len(client.stop()) == client.asked


def test_one_that_is_not_there_cannot_be_drained(zqueued: Zqueued) -> None:
    done = zqueued.ctl("drain", "--worker", "99")
    assert done.returncode == 1
    assert "there is no worker 99" in done.stderr


def test_a_drain_of_a_worker_times_out(zqueued: Zqueued, peers: Peers) -> None:
    peers.worker(zqueued.backend(), work=60)
    peers.client(zqueued.frontend(), requests=1)
    wait_for(lambda: zqueued.queue().in_flight == 1)
    [worker] = workers(zqueued).values()
    done = zqueued.ctl("drain", "--worker", str(worker.id), "--timeout", "200ms")
    assert done.returncode == 1
    assert "timed out" in done.stderr
    assert "1 in flight" in done.stderr


def test_those_of_two_queues_are_listed_and_a_drain_needs_a_name(
    start_zqueued: StartZqueued,
) -> None:
    sides = 'frontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'
    zqueued = start_zqueued(f"[queues.one]\n{sides}[queues.two]\n{sides}")
    assert "QUEUE" in zqueued.ctl("workers").stdout
    assert zqueued.ctl("workers", "two").returncode == 0
    assert "name it" in zqueued.ctl("drain", "--all", "--worker", "1").stderr
