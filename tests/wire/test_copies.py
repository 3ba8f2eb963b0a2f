"""What is copied for taps and the capture is what passed, whatever a worker sends, and how long."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import StartZqueued
from tests.waiting import wait_for
from tests.wire.exchange import assert_nothing_is_left, client, worker
from tests.wire.raw import LONG, MORE, frame, message
from tests.zqueued import Zqueued
from zqueue.control import recording
from zqueue.control.messages import TappedMessage
from zqueue.engine.wire.exchange import Exchange

RING = 8 << 20
ABOUT = 8 * 9 + 4 + 2 * 64 + 4
"""Bytes of the ring that a record has beside those of its message."""
LENGTHS = (0, 1, 254, 255, 256, 257, 263, 264, 265, 404, 413, 5000, 70_000)
BOTH = """
[queues.orders]
engine = "wire"
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
capture = "ipc://{folder}/capture"
tap = true
"""


def tapping(most: int = 1 << 62, exchanges: int = 1 << 62) -> Exchange:
    exchange = Exchange()
    exchange.tap(True, most)
    exchange.allow_tap(exchanges)
    return exchange


def assert_is(copied: dict[str, Any], frames: list[bytes]) -> None:
    """``copied`` is the beginning of these frames, and tells what is missing."""
    assert copied["frames"] == len(frames)
    there = len(copied["bodies"])
    sizes = [len(each) for each in frames]
    assert copied["sizes"] == sizes[:there]
    *whole, last = copied["bodies"]
    assert whole == frames[: there - 1]
    assert frames[there - 1].startswith(last)
    assert copied["whole"] == (copied["bodies"] == frames)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("more", [[], [b""], [b"", b"x"], [b"y" * 300, b"", b"z" * 70_000]])
@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("type", ["DEALER", "ROUTER", "REP"])
def test_what_answers_nothing_is_copied_as_it_was_sent(
    length: int, more: list[bytes], long: bool, type: str
) -> None:
    exchange = tapping()
    serving = worker(exchange, type)
    frames = [b"i" * length, *more]
    serving.feed(message(frames, long=long))
    [copied] = exchange.tapped()
    assert (copied["number"], copied["worker"]) == (0, serving.number)
    assert copied["whole"]
    assert_is(copied, frames)
    assert_nothing_is_left(exchange)


@given(
    most=st.sampled_from([0, 1, 200, 264, 300, 5000, 1 << 20, (1 << 64) - 1]),
    sent=st.lists(
        st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=4), min_size=1, max_size=8
    ),
    long=st.booleans(),
)
def test_what_is_cut_says_so(most: int, sent: list[list[int]], long: bool) -> None:
    exchange = tapping(most)
    serving = worker(exchange, "DEALER")
    stream = [[bytes([65 + place]) * length for place, length in enumerate(each)] for each in sent]
    serving.feed(b"".join(message(frames, long=long) for frames in stream))
    copies = exchange.tapped()
    assert len(copies) == len(stream)
    for copied, frames in zip(copies, stream, strict=True):
        assert_is(copied, frames)
    assert exchange.tap_missed == 0


def test_a_clients_routing_id_stands_where_the_worker_had_another() -> None:
    exchange = tapping()
    asking, serving = client(exchange, identity=b"i" * 255), worker(exchange, "REP")
    asking.send(b"", b"ask")
    [request] = serving.hear()
    serving.feed(message([*request[:-1], b"r" * 300], long=True))
    asked, replied = exchange.tapped()
    assert asked["bodies"] == [b"i" * 255, b"", b"ask"]
    assert replied["bodies"] == [b"i" * 255, b"", b"r" * 300]
    assert replied["number"] == asked["number"]


@pytest.mark.parametrize("less", [-1, 0, 1])
@pytest.mark.parametrize("begin", [0, 1, 400])
def test_the_reply_to_what_was_begun_fits_to_the_last_byte(less: int, begin: int) -> None:
    exchange = tapping()
    asking, serving = client(exchange, "DEALER", identity=b"me"), worker(exchange, "DEALER")
    serving.send(b"x" * begin)
    exchange.skip_tapped()
    asking.send(b"", b"ask")
    [request] = serving.hear()
    room = RING - 2 * ABOUT - len(message([b"me", b"", b"ask"]))
    body = room - len(message([b"me", b""])) - 9 - less
    serving.send(*request[:-1], b"r" * body)
    copies = exchange.tapped()
    assert exchange.tap_missed == (less < 0)
    assert_is(copies[0], [b"me", b"", b"ask"])
    if less >= 0:
        assert_is(copies[1], [b"me", b"", b"r" * body])
    serving.send(b"after", b"it")
    [copied] = exchange.tapped()
    assert_is(copied, [b"after", b"it"])


def test_lengths_that_overflow_are_no_frames() -> None:
    for length in ((1 << 64) - 1, (1 << 64) - 9, (1 << 63), 1 << 62):
        exchange = tapping()
        serving = worker(exchange, "DEALER")
        serving.feed(frame(b"a", MORE) + bytes([LONG]) + length.to_bytes(8, "big") + b"b" * 300)
        assert not serving.is_there
        assert exchange.tapped() == []


# -- the daemon ----------------------------------------------------------------------------------


@pytest.fixture
def zqueued(start_zqueued: StartZqueued, tmp_path: Path) -> Zqueued:
    return start_zqueued(BOTH.format(folder=tmp_path))


def tapped(
    zqueued: Zqueued, count: int, content: int, tell: threading.Event
) -> list[TappedMessage]:
    found: list[TappedMessage] = []
    with zqueued.client() as control:
        looks = control.tap("orders", content=content)
        next(looks)
        tell.set()
        while len(found) < count:
            found += next(looks).messages
    return found


def test_the_daemon_captures_and_taps_any_reply_exactly(
    zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    sub = context.socket(zmq.SUB)
    sub.set_hwm(0)
    sub.subscribe(b"")
    capture = zqueued.queue("orders").capture
    assert capture is not None
    sub.connect(capture)
    zqueued.wait_event("capture.subscribed")
    sent = [
        [b"i" * length, *more] for length in LENGTHS for more in ([], [b"", b"x"], [b"y" * 300])
    ]
    found: list[TappedMessage] = []
    ready = threading.Event()
    reader = threading.Thread(
        target=lambda: found.extend(tapped(zqueued, len(sent), 1 << 20, ready))
    )
    reader.start()
    assert ready.wait(30)
    dealer = context.socket(zmq.DEALER)
    dealer.connect(zqueued.backend("orders"))
    for frames in sent:
        dealer.send_multipart(frames)
    for frames in sent:
        assert sub.poll(30_000)
        assert sub.recv_multipart() == [b"orders", *frames]
    reader.join(60)
    for message_, frames in zip(found, sent, strict=True):
        assert message_.id is None
        assert bytes.fromhex(message_.client_identity) == frames[0]
        assert message_.identity_size == len(frames[0])
        assert recording.bodies(message_) == frames[1:]
        assert (message_.frames, message_.sizes) == (
            len(frames) - 1,
            tuple(len(each) for each in frames[1:]),
        )
    assert wait_for(lambda: zqueued.status().state == "running")


def test_what_a_tap_cuts_of_a_reply_without_an_envelope_is_told(
    zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    found: list[TappedMessage] = []
    ready = threading.Event()
    reader = threading.Thread(target=lambda: found.extend(tapped(zqueued, 2, 10, ready)))
    reader.start()
    assert ready.wait(30)
    dealer = context.socket(zmq.DEALER)
    dealer.connect(zqueued.backend("orders"))
    dealer.send(b"a" * 1_000_000)
    dealer.send_multipart([b"b" * 1_000_000, b"c"])
    reader.join(60)
    for message_, body, frames in zip(found, (b"a", b"b"), (0, 1), strict=True):
        assert bytes.fromhex(message_.client_identity) == body * 255
        assert (message_.identity_size, message_.frames) == (1_000_000, frames)
        assert recording.bodies(message_) == []
