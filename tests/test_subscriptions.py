"""What subscribers send, on its way through a forwarder to the publishers."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.waiting import wait_for
from tests.wire.raw import RawPeer, command, message
from tests.zqueued import Zqueued
from zqueue.engine import LONGEST_SUBSCRIPTION

FORWARDER = """
[queues.default]
type = "forwarder"
frontend = "tcp://127.0.0.1:*"
backend = {{ bind = "tcp://127.0.0.1:*"{more} }}
"""
CAPTURED = """
[queues.default]
{engine}
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
capture = "ipc://{folder}/capture"
"""
TOO_LONG = 200_000
LONGEST_HEAD = len(b"\x09SUBSCRIBE")
TOPICS = 5_000


def come_and_go(endpoint: str, length: int) -> None:
    """Subscribe, in either form, and leave; libzmq's own SUB would end the test by such a topic."""
    for said in (message([b"\x01" + b"b" * length]), command(b"SUBSCRIBE", b"c" * length)):
        with RawPeer(endpoint, "SUB") as sub:
            with contextlib.suppress(OSError):  # it may be refused before all is said
                sub.say(said)
                sub.socket.shutdown(socket.SHUT_WR)
            sub.farewell()


def both_forms(length: int) -> list[bytes]:
    """What publishers see of :func:`come_and_go`, sorted."""
    return [does + topic * length for does in (b"\0", b"\1") for topic in (b"b", b"c")]


def arrive(
    endpoint: str, topic: bytes, context: zmq.Context[zmq.Socket[bytes]]
) -> zmq.Socket[bytes]:
    """A subscriber whose subscriptions before this one have arrived when this one has."""
    sub = context.socket(zmq.SUB)
    sub.subscribe(topic)
    sub.connect(endpoint)
    return sub


def received(publisher: zmq.Socket[bytes], count: int) -> list[bytes]:
    """The next messages from subscribers."""
    found: list[bytes] = []
    while len(found) < count:
        assert publisher.poll(5000), f"{len(found)} of {count} came"
        found.append(publisher.recv())
    return found


def topics_at(publisher: zmq.Socket[bytes], count: int) -> set[bytes]:
    """The topics that a publisher, an XPUB, is asked for: wait for so many."""
    found: set[bytes] = set()
    while len(found) < count:
        assert publisher.poll(5000), f"{len(found)} of {count} subscriptions came"
        found.add(publisher.recv()[1:])
    return found


@pytest.mark.parametrize(
    ("more", "length", "passes"),
    [
        ("", TOO_LONG, False),
        ("", LONGEST_SUBSCRIPTION + 1, False),
        ("", LONGEST_SUBSCRIPTION - LONGEST_HEAD, True),
        (', max_message_size = "64KiB"', (64 << 10) - LONGEST_HEAD, True),
        (', max_message_size = "64KiB"', TOO_LONG, False),
        (', max_message_size = "100B"', 101, False),
    ],
)
def test_a_long_subscription_ends_nobody_else(
    more: str,
    length: int,
    passes: bool,
    start_zqueued: StartZqueued,
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    zqueued = start_zqueued(FORWARDER.format(more=more))
    publisher = context.socket(zmq.XPUB)
    publisher.connect(zqueued.frontend())
    sub = arrive(zqueued.backend(), b"a", context)
    assert topics_at(publisher, 1) == {b"a"}
    with zqueued.client() as control:
        come_and_go(zqueued.backend(), length)
        if passes:
            assert sorted(received(publisher, 4)) == both_forms(length)
        # A size limits what subscribers send, and not what is published.
        publisher.send(b"a" + bytes(1 << 20))
        assert len(sub.recv()) == 1 + (1 << 20)
        assert control.terminate().ok
    assert zqueued.process.poll() is None


def test_a_small_stack_is_enough(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    shell = ("sh", "-c", 'ulimit -s 2048; exec "$@"', "sh")
    zqueued = start_zqueued(FORWARDER.format(more=', max_message_size = "32KiB"'), prefix=shell)
    publisher = context.socket(zmq.XPUB)
    publisher.connect(zqueued.frontend())
    length = (32 << 10) - LONGEST_HEAD
    come_and_go(zqueued.backend(), length)
    assert sorted(received(publisher, 4)) == both_forms(length)
    assert zqueued.status().state == "running"


@pytest.mark.parametrize("engine", ["wire", "libzmq"], indirect=True)
def test_a_long_subscription_to_a_capture_is_refused(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    zqueued = start_zqueued(CAPTURED.format(folder=tmp_path, engine=""))
    capture = zqueued.queue().capture
    assert capture is not None
    come_and_go(capture, TOO_LONG)
    sub = arrive(capture, b"default", context)
    zqueued.wait_event("capture.subscribed", subscriptions=1)
    assert not sub.closed
    assert len(zqueued.events("capture.subscribed")) == 1, "the long one has not been taken"


@pytest.mark.parametrize("again", [False, True], ids=["late", "again"])
def test_a_publisher_gets_every_subscription(
    again: bool, start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    zqueued = start_zqueued(FORWARDER.format(more=""))
    topics = {b"topic %d" % number for number in range(TOPICS)}
    sub = context.socket(zmq.SUB)
    sub.set_hwm(0)
    sub.connect(zqueued.backend())
    for topic in topics:
        sub.subscribe(topic)
    first = publisher(zqueued, context)
    assert topics_at(first, TOPICS) == topics
    if again:
        first.close()
        wait_for(lambda: not zqueued.queue().clients.connected)
        first = publisher(zqueued, context)
        assert topics_at(first, TOPICS) == topics
    else:
        late = publisher(zqueued, context)
        assert topics_at(late, TOPICS) == topics
    # And while it is connected, all at once.
    more = {b"more %d" % number for number in range(TOPICS)}
    for topic in more:
        sub.subscribe(topic)
    assert topics_at(first, TOPICS) == more


def publisher(zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    xpub = context.socket(zmq.XPUB)
    xpub.set_hwm(0)
    xpub.connect(zqueued.frontend())
    return xpub
