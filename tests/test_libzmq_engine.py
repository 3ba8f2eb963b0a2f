"""What only the libzmq engine does: it cannot see who has which request."""

from __future__ import annotations

import pytest
import zmq

from tests.engines import on_libzmq
from tests.peers import Peers
from tests.test_bad_peers import assert_well
from tests.waiting import wait_for
from tests.zqueued import Zqueued
from zqueue.engine import Plan, SocketPlan
from zqueue.engine.libzmq import LibzmqEngine
from zqueue.listeners import listen

pytestmark = on_libzmq


@pytest.mark.parametrize("type", ["queue", "forwarder", "streamer"])
def test_a_hold_is_in_force_when_it_returns(type: str, engine: str) -> None:
    assert engine == LibzmqEngine.name
    frontend, backend = (
        SocketPlan((listen("tcp://127.0.0.1:*", backlog=10),), ()) for _ in range(2)
    )
    held = LibzmqEngine(Plan("held", type, frontend, backend))
    held.open(hold=False)
    try:
        for _ in range(100):
            held.hold()
            assert held.held
            held.forward()
    finally:
        held.close(0)


def test_the_last_worker_dies_with_requests(
    zqueued: Zqueued, peers: Peers, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    worker = context.socket(zmq.REP)
    worker.connect(zqueued.backend())
    client = context.socket(zmq.REQ)
    client.connect(zqueued.frontend())
    client.send(b"lost")
    assert worker.recv() == b"lost"
    wait_for(lambda: zqueued.queue().in_flight == 1)
    worker.close(0)
    zqueued.wait_event("queue.requests_lost", requests=1, estimated=True)
    queue = zqueued.queue()
    assert (queue.in_flight, queue.lost) == (0, 1)
    assert zqueued.ctl("drain", "--timeout", "5s").returncode == 0
    assert "~1 request was lost" in zqueued.ctl("status").stdout
    zqueued.ctl("resume")
    peers.worker(zqueued.backend())
    assert_well(zqueued, peers)
