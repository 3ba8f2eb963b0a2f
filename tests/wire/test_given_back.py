"""Memory that is not needed any more goes back to the kernel, a little at a time."""

from __future__ import annotations

import pytest

from zqueue.engine.wire import support

if support.missing():
    pytest.skip(f"no wire engine: {support.missing()}", allow_module_level=True)

from tests.wire.fuzz import FRONTEND, handshake, message
from zqueue.engine.wire.exchange import Exchange

HOLD = 1
AT_ONCE = 512 << 10
SPARE = 1 << 20
"""What stays of empty slabs."""
KEPT = 64 << 20
SECONDS = 30
PARTS_A_SECOND = 100


class Queue:
    """One that holds what its client asks."""

    def __init__(self) -> None:
        self.exchange = Exchange(max_waiting=0, max_waiting_bytes=1 << 40)
        self.exchange.connect(FRONTEND)
        if not self.exchange.mapped_bytes:
            pytest.skip("in this build all memory is the C library's")
        self.exchange.steer(HOLD)

    @property
    def mapped(self) -> int:
        return self.exchange.mapped_bytes

    def backlog(self, size: int, count: int) -> int:
        """The client that has as much to wait, or a bit more."""
        client = self.exchange.connect(FRONTEND)
        self.exchange.feed(client, handshake(b"DEALER"))
        self.exchange.output(client)
        # As much as a turn of the loop may read.
        at_once = max(1, min(count, 1000, (4 << 20) // size))
        some = message([b"", bytes(size)]) * at_once
        for _ in range(0, count, at_once):
            self.exchange.feed(client, some)
        assert self.exchange.counters["waiting"] >= count
        return client

    def second(self) -> int:
        """What the loop does in one; how many parts were given back."""
        self.exchange.judge_memory()
        for part in range(PARTS_A_SECOND):
            before = self.mapped
            more = self.exchange.unmap()
            assert before - AT_ONCE <= self.mapped <= before
            if not more:
                return part
        return PARTS_A_SECOND


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (1, 100_000),
        (200, 100_000),
        (5000, 10_000),
        (30_000, 2000),
        (100_000, 1000),
        (3 << 20, 50),
        (70 << 20, 3),
    ],
)
def test_after_a_backlog(size: int, count: int) -> None:
    queue = Queue()
    before = queue.mapped
    client = queue.backlog(size, count)
    assert queue.mapped - before > count * size
    parts = [queue.second() for _ in range(3)]
    assert sum(parts) <= 2, "it is all in use"
    queue.exchange.close(client)
    parts = [queue.second() for _ in range(SECONDS)]
    assert max(parts) > 1
    assert parts[-1] == 0
    assert queue.mapped <= before + SPARE


def test_what_outlives_the_others_holds_only_its_own_slabs() -> None:
    queue = Queue()
    before = queue.mapped
    leaving = [queue.backlog(200, 50_000)]
    stays = queue.exchange.connect(FRONTEND)
    queue.exchange.feed(stays, handshake(b"DEALER") + message([b"", bytes(200)]))
    leaving.append(queue.exchange.connect(FRONTEND))
    queue.exchange.feed(leaving[1], handshake(b"DEALER") + message([b"", bytes(200)]) * 50_000)
    for each in leaving:
        queue.exchange.close(each)
    for _ in range(SECONDS):
        queue.second()
    assert queue.exchange.counters["waiting"] == 1
    assert queue.mapped <= before + 2 * SPARE


def test_serves_every_size() -> None:
    """What one size does not need any more another one gets."""
    queue = Queue()
    queue.exchange.close(queue.backlog(10, 100_000))
    most = queue.mapped
    for size, count in ((100, 60_000), (300, 30_000), (900, 10_000), (9000, 1000)):
        queue.exchange.close(queue.backlog(size, count))
    assert queue.mapped < 1.1 * most


@pytest.mark.parametrize(
    "sizes", [(1 << 20, 2 << 20, 3 << 20), (1000, 1 << 20), (1 << 20, 1000), (30_000, 250, 100_000)]
)
def test_what_is_not_used_of_one_size_does_not_add_up_with_others(sizes: tuple[int, ...]) -> None:
    """However fast they follow each other."""
    queue = Queue()
    for size in sizes:
        queue.exchange.close(queue.backlog(size, (100 << 20) // size))
        assert queue.mapped < 2 * (100 << 20) + KEPT


def test_is_kept_while_it_is_needed_again() -> None:
    """Each second as much waits as the second before."""
    queue = Queue()
    queue.exchange.close(queue.backlog(200, 20_000))
    queue.second()
    most = queue.mapped
    for _ in range(5):
        queue.exchange.close(queue.backlog(200, 20_000))
        assert queue.second() == 0
        assert queue.mapped == most
