"""What a peer can make the engine hold in memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zqueue.engine.wire import support

if support.missing():
    pytest.skip(f"no wire engine: {support.missing()}", allow_module_level=True)

from tests.wire.fuzz import BACKEND, FRONTEND, MORE, command, frame, handshake, message
from zqueue.engine.wire.exchange import Exchange

PINGS = 10_000 * command(b"PING", b"\0\0" + b"context")
A_BIT_MORE = 2 << 20


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


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="it needs more memory")
def test_small_replies_between_larger_ones() -> None:
    exchange = Exchange()
    client = exchange.connect(FRONTEND)
    exchange.feed(client, handshake(b"DEALER", b"me"))
    worker = exchange.connect(BACKEND)
    exchange.feed(worker, handshake(b"DEALER"))
    replies = message([b"me", b"", b"small"]) + message([b"me", b"", bytes(1100)])
    before = resident_bytes()
    for _ in range(20_000):
        # In two reads, so that the larger one is not copied but shared.
        exchange.feed(worker, replies[:60])
        exchange.feed(worker, replies[60:])
    grown = resident_bytes() - before
    unread = len(exchange.output(client))
    assert grown < 4 * unread


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
