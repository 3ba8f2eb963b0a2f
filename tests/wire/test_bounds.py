"""What a peer can make the engine hold in memory."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from zqueue.engine.wire import support

if support.missing():
    pytest.skip(f"no wire engine: {support.missing()}", allow_module_level=True)

from tests.wire.fuzz import BACKEND, FRONTEND, MORE, command, frame, handshake, message
from zqueue.engine.wire.exchange import Exchange

HOLD = 1
PINGS = 10_000 * command(b"PING", b"\0\0" + b"context")
A_BIT_MORE = 64 << 10


@pytest.mark.parametrize(
    ("side", "said"),
    [
        (FRONTEND, handshake(b"DEALER")),
        (FRONTEND, handshake(b"DEALER") + frame(MORE, b"a message that goes on and on")),
        (BACKEND, handshake(b"REP")),
    ],
    ids=["client", "client within a message", "worker"],
)
def test_pongs_for_one_that_does_not_read(side: int, said: bytes) -> None:
    exchange = Exchange()
    peer = exchange.connect(side)
    exchange.feed(peer, said)
    for _ in range(50):
        if not exchange.held_back(peer):
            exchange.feed(peer, PINGS)
    assert exchange.peers == [peer]
    assert len(exchange.output(peer)) < A_BIT_MORE
    # It reads again, and is answered again.
    assert not exchange.held_back(peer)
    exchange.feed(peer, command(b"PING", b"\0\0again"))
    assert exchange.output(peer).endswith(command(b"PONG", b"again"))


def fed_in_two(exchange: Exchange, peer: int, said: bytes, cut: int) -> None:
    """In two reads, so that what is large is kept in the block that it was read to."""
    exchange.feed(peer, said[:cut])
    exchange.feed(peer, said[cut:])


def sizes_of(pattern: str) -> Iterator[int]:
    rng = random.Random(pattern)
    while True:
        if pattern == "small between large":
            yield from (1100, 5)
        elif pattern == "some small between large":
            yield from (1100, *[5] * 120)
        elif pattern == "half of a block":
            yield 8200
        elif pattern == "a bit less than what is left":
            yield from (1, 500)
        else:
            yield rng.choice((0, 1, 10, 100, 255, 256, 500, 900, 1030, 2000, 8000, 9000, 20_000))


@pytest.mark.parametrize(
    "pattern",
    [
        "small between large",
        "some small between large",
        "half of a block",
        "a bit less than what is left",
        "any",
    ],
)
def test_unread_replies(pattern: str) -> None:
    """Whatever their sizes, they take less than 2.5 times their bytes."""
    exchange = Exchange()
    client = exchange.connect(FRONTEND)
    exchange.feed(client, handshake(b"DEALER", b"me"))
    worker = exchange.connect(BACKEND)
    exchange.feed(worker, handshake(b"DEALER"))
    exchange.output(client)
    exchange.output(worker)
    sizes = sizes_of(pattern)
    unread = 0
    while unread < 5 << 20:
        reply = message([b"me", b"", bytes(next(sizes))])
        fed_in_two(exchange, worker, reply, min(len(reply) - 1, 60))
        unread += len(reply) - len(frame(MORE, b"me"))
    assert exchange.block_bytes < 2.5 * unread
    assert len(exchange.output(client)) == unread
    assert exchange.block_bytes == 0


@pytest.mark.parametrize("size", [10, 1030, 1290, 5000, 70_000, 1_300_000])
def test_waiting_requests(size: int) -> None:
    """However they came, they take less than 1.5 times their bytes."""
    rng = random.Random(size)
    exchange = Exchange()
    exchange.steer(HOLD)
    client = exchange.connect(FRONTEND)
    exchange.feed(client, handshake(b"DEALER"))
    exchange.output(client)
    while exchange.counters["waiting_bytes"] < 100 * size:
        some = rng.randrange(1, size)
        of_many = message([b"", *[bytes(size // 50)] * (some * 50 // size), b"last"])
        for said in (message([b"", bytes(some)]), of_many):
            fed_in_two(exchange, client, said, rng.randrange(1, len(said)))
        # What comes amid a message is cut out of it, and so must be the room that it took.
        exchange.feed(client, frame(MORE, b"") + command(b"ANYTHING", bytes(60_000)))
        exchange.feed(client, frame(0, bytes(some)))
    exchange.feed(client, command(b"PONG"))
    assert exchange.block_bytes < 1.5 * exchange.counters["waiting_bytes"]
