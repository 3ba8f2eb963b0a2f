from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import StartZqueued
from tests.waiting import wait_for
from tests.zqueued import Zqueued
from zqueue.engine.wire import support

# Without its extension modules the engine's tests cannot even be imported.
collect_ignore_glob = ["test_*.py"] if support.missing() else []


@pytest.fixture
def engine() -> str:
    """Everything here is about the wire engine."""
    return "wire"


@pytest.fixture
def start_zqueued(start_zqueued: StartZqueued) -> Iterator[StartZqueued]:
    """Starts real daemons; whatever a test does to one, its requests have to add up after it."""
    daemons: list[Zqueued] = []

    def start(*arguments: Any, **how: Any) -> Zqueued:
        daemons.append(start_zqueued(*arguments, **how))
        return daemons[-1]

    yield start
    for daemon in daemons:
        if daemon.process.poll() is None:
            assert_adds_up(daemon)
            with daemon.client() as control:
                control.terminate(all=True)
            assert not daemon.events("queue.engine_stuck"), "not all was given back"


def assert_adds_up(zqueued: Zqueued) -> None:
    """Every request that was ever taken is somewhere, or has come to one of its ends."""
    wait_for(lambda: not any(queue.stale for queue in zqueued.status().queues))
    for queue in zqueued.status().queues:
        assert queue.ends is not None
        assert queue.waiting is not None
        assert queue.in_flight is not None
        ended = sum(queue.ends.model_dump().values()) + queue.lost
        open_ones = queue.waiting + queue.in_flight + queue.kept
        assert queue.requests.messages == open_ones + ended, (
            f"{queue.requests} of {queue.name} are not {queue.waiting} waiting, {queue.kept} kept, "
            f"{queue.in_flight} in flight, {queue.ends} and {queue.lost} lost"
        )
