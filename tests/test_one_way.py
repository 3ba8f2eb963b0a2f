"""Forwarders and streamers, which have no replies."""

from __future__ import annotations

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.test_steering import assert_idle
from tests.waiting import wait_for


@pytest.mark.parametrize(
    ("kind", "source", "sink"),
    [("forwarder", zmq.PUB, zmq.SUB), ("streamer", zmq.PUSH, zmq.PULL)],
)
def test_forwarder_and_streamer_are_steered_too(
    kind: str,
    source: int,
    sink: int,
    start_zqueued: StartZqueued,
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    zqueued = start_zqueued(f"""
[queues.default]
type = "{kind}"
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
""")
    producer, consumer = context.socket(source), context.socket(sink)
    producer.connect(zqueued.frontend())
    consumer.connect(zqueued.backend())
    with zqueued.client() as control:
        if kind == "forwarder":
            # Subscriptions pass, also through a paused queue.
            control.pause()
            consumer.subscribe(b"")
            control.resume()

            def passes() -> bool:
                producer.send(b"first")
                return bool(consumer.poll(50))

            wait_for(passes)
            while consumer.poll(200):
                consumer.recv()
        control.pause()
        for number in range(100):
            producer.send(b"%d" % number)
        assert not consumer.poll(300), "paused"
        assert_idle(zqueued)
        control.resume()
        assert [consumer.recv() for _ in range(100)] == [b"%d" % number for number in range(100)]
        producer.send(b"last")
        assert consumer.recv() == b"last"
        assert control.terminate().ok
