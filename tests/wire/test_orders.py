"""Orders to a data path whose loop does not come round."""

from __future__ import annotations

import threading

import pytest

from tests.waiting import DEADLINE, wait_for
from tests.wire.data_path import new_data_path
from zqueue.engine.wire.datapath import DataPath

HOLD = 1


def fill(path: DataPath) -> int:
    """Give orders until one is refused; how many were taken."""
    for given in range(1000):
        try:
            path.end_peer(given)
        except BlockingIOError:
            return given
    raise AssertionError("no order was refused")


def test_an_order_is_carried_out_or_refused() -> None:
    path = new_data_path()
    path.sockets([], [])
    assert fill(path) > 10
    with pytest.raises(BlockingIOError):
        path.submit(b"id", [b"", b"x"])
    for _ in range(1000):  # what it is to do in the end has room, however often it is said
        path.forward()
        path.drain()
        path.hold()
    thread = threading.Thread(target=path.run, args=(0,))
    thread.start()
    try:
        wait_for(lambda: path.obeyed, "the orders to be carried out")
        assert path.mode == HOLD
        path.end_peer(0)
    finally:
        path.close(0)
        thread.join(DEADLINE)
    assert not thread.is_alive()


def test_a_data_path_that_does_not_come_round_still_ends() -> None:
    path = new_data_path()
    path.sockets([], [])
    fill(path)
    path.hold()
    path.freeze()
    path.close(0)
    path.run(0)
    assert path.mode == HOLD
