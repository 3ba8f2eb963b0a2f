"""Bytes and descriptors in a parcel, and a daemon's state in one."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import socket
import time
from collections.abc import Iterator

import pytest

from zqueue import handover
from zqueue.drain import DrainState
from zqueue.engine import ConnectionCounts, Ends, Side, Snapshot, Statistics, Traffic
from zqueue.event_history import Forgotten, HistoryState
from zqueue.events import Event
from zqueue.figures import Totals
from zqueue.handover import QueueState, SocketState
from zqueue.parcel import Parcel
from zqueue.states import Standing, State


@pytest.fixture
def null() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def opened() -> int:
    gc.collect()  # what tests before this one have left goes now, and not in the midst of it
    return len(os.listdir("/proc/self/fd"))


def test_what_is_packed_is_there_until_it_is_emptied(null: int) -> None:
    before = opened()
    parcel = Parcel.pack([b"state ", b"of all"], [null] * 600)
    assert parcel.read() == b"state of all"
    for _ in range(2):
        found = parcel.look()
        assert len(found) == 600
        assert all(os.path.sameopenfile(null, each) for each in found)
        handover.close(found)
    # Whoever keeps a duplicate sees it emptied.
    kept = Parcel([os.dup(descriptor) for descriptor in parcel.descriptors])
    parcel.empty()
    assert kept.look() == []
    assert kept.has_pairs
    for each in (parcel, kept):
        each.close()
    assert opened() == before


def test_a_connection_in_it_stays_open(null: int) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        parcel = Parcel.pack([b""], [theirs.fileno()])
        theirs.close()
        ours.sendall(b"hello")
        (found,) = parcel.look()
        parcel.empty()
        with socket.socket(fileno=found) as again:
            assert again.recv(5) == b"hello"
        parcel.close()
        assert ours.recv(1) == b"", "and it is closed once nobody has it"


def test_nobody_can_change_the_bytes(null: int) -> None:
    parcel = Parcel.pack([b"state"], [null])
    with pytest.raises(PermissionError):
        os.pwrite(parcel.descriptors[0], b"x", 0)
    parcel.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may have so many in flight")
def test_more_than_one_pair_holds(null: int) -> None:
    parcel = Parcel.pack([b""], [null] * 100_000)
    assert len(parcel.descriptors) == 3
    parcel.close()


def a_state(*descriptors: int) -> handover.State:
    standing = Standing(State.DRAINING, time.time(), "0/root", "because")
    totals = Totals(
        counters=Statistics(requests=Traffic(1, 2, 3), ends=Ends(replied=1)),
        connections={side: ConnectionCounts(accepted=7) for side in Side},
    )
    first, *rest = descriptors
    return handover.State(
        version="1.2",
        frozen_at=time.monotonic(),
        sockets=(SocketState("control", "ipc:///x", True, 42, first),),
        queues=(
            QueueState("a", standing, totals, 3, 1.0, DrainState("me", 2.5, "pause")),
            QueueState("b", standing, snapshot=Snapshot(b"engine's\n", tuple(rest[:2]))),
            QueueState("c", standing, snapshot=Snapshot(b"", tuple(rest[2:]))),
        ),
        events=HistoryState(
            begins=1.5,
            events=(Event("queue.paused", "info", 2.5, "a", "it is", {"by": "me", "n": [1]}, 7),),
            forgotten=(Forgotten("peer.connected", "a", 2.0),),
        ),
    )


def test_a_state_is_read_as_it_was_written() -> None:
    state = a_state(10, 11, 12, 13)
    written = b"".join(handover.write(state))
    assert handover.read(written, list(state.descriptors())) == state


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"zqueue hand-over", b"something elsexx", "it is no state of a zqueued"),
        (b'"format":1', b'"format":9', "its format is 9, and this version reads 1"),
        (b'"draining"', b'"dreaming"', "it is damaged: "),
        (b"engine's\n", b"engine's", "it is not all there"),
    ],
)
def test_what_cannot_be_read_is_refused(old: bytes, new: bytes, reason: str) -> None:
    state = a_state(10, 11, 12, 13)
    written = b"".join(handover.write(state))
    assert old in written
    with pytest.raises(ValueError, match=reason):
        handover.read(written.replace(old, new), list(state.descriptors()))


def test_descriptors_that_are_missing_are_noticed() -> None:
    state = a_state(10, 11, 12, 13)
    with pytest.raises(ValueError, match="4 descriptors belong to it, and 3 came with it"):
        handover.read(b"".join(handover.write(state)), [10, 11, 12])


def test_what_a_later_version_adds_is_passed_over() -> None:
    state = a_state(10, 11, 12, 13)
    written = b"".join(handover.write(state))
    more = b'"format":1,"news":[1]'
    head = len(b"zqueue hand-over\n")
    size = int.from_bytes(written[head : head + 8], "little") + len(more) - len(b'"format":1')
    written = written[:head] + size.to_bytes(8, "little") + written[head + 8 :]
    read = handover.read(written.replace(b'"format":1', more), list(state.descriptors()))
    assert read == state


def test_what_an_earlier_version_did_not_write_is_not_missed() -> None:
    state = a_state(10, 11, 12, 13)
    first, *rest = handover.write(state)
    head = len(b"zqueue hand-over\n")
    header = json.loads(first[head + 8 :])
    del header["state"]["events"]
    encoded = json.dumps(header).encode()
    first = first[:head] + len(encoded).to_bytes(8, "little") + encoded
    read = handover.read(first + b"".join(rest), list(state.descriptors()))
    assert read == dataclasses.replace(state, events=None)
