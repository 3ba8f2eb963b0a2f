"""The capture: everything that passes, for whoever subscribes."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.engines import on_every_engine
from tests.peers import Peers, wait_for_more
from tests.zqueued import Zqueued

pytestmark = on_every_engine

CAPTURED = """
[queues.orders]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
capture = "ipc://{folder}/capture"
"""


@pytest.fixture
def captured(start_zqueued: StartZqueued, peers: Peers, tmp_path: Path) -> Zqueued:
    """A daemon whose queue has a capture and a worker."""
    zqueued = start_zqueued(CAPTURED.format(folder=tmp_path))
    peers.worker(zqueued.backend("orders"))
    return zqueued


def subscriber(
    zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]], topic: bytes = b"", hwm: int = 0
) -> zmq.Socket[bytes]:
    sub = context.socket(zmq.SUB)
    sub.set_hwm(hwm)
    sub.subscribe(topic)
    capture = zqueued.queue("orders").capture
    assert capture is not None
    sub.connect(capture)
    return sub


def test_publishes_every_message_with_the_queues_name_first(
    captured: Zqueued, peers: Peers, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    sub = subscriber(captured, context, b"orders")
    captured.wait_event("capture.subscribed", subscriptions=1)
    assert len(peers.client(captured.frontend("orders"), requests=50).finish()) == 50
    messages: list[list[bytes]] = []
    while len(messages) < 100:
        assert sub.poll(5000), f"{len(messages)} of 100 messages were captured"
        messages.append(sub.recv_multipart())
    assert {message[0] for message in messages} == {b"orders"}
    assert all(message[2] == b"" for message in messages), "the envelope is captured, too"
    bodies = [message[3] for message in messages]
    assert sorted(body for body in bodies if not body.startswith(b"w:")) == sorted(
        b"c %d" % number for number in range(50)
    )
    assert len([body for body in bodies if body.startswith(b"w:")]) == 50


def test_comes_and_goes_under_load_and_loses_nothing(
    captured: Zqueued, peers: Peers, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    client = peers.client(captured.frontend("orders"))
    for number in range(1, 11):
        sub = subscriber(captured, context)
        assert sub.poll(10_000), "nothing is captured"
        sub.close(0)
        captured.wait_events("capture.unsubscribed", number)
        wait_for_more([client], 10)
    assert len(client.stop()) == client.asked


def test_a_subscriber_that_does_not_read_holds_nobody_up(
    captured: Zqueued, peers: Peers, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    deaf = subscriber(captured, context, hwm=1)
    captured.wait_event("capture.subscribed")
    clients = [peers.client(captured.frontend("orders"), f"c{n}", requests=500) for n in range(4)]
    for client in clients:
        assert len(client.finish()) == 500
    assert not deaf.closed
