"""States that zqueued has written, one of each format, in ``tests/recorded``: what is handed over.

``python -m tests.recorded_states`` writes those of the formats of this tree. It is to be run when a
format is raised, or when the same layout is only written differently in the source.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tests.wire.test_snapshot import busy_queue
from zqueue import handover
from zqueue.drain import DrainState
from zqueue.engine import Snapshot
from zqueue.engine.wire.support import STATE_FORMAT
from zqueue.event_history import EventHistory
from zqueue.events import EventBus
from zqueue.figures import Totals
from zqueue.handover import QueueState, SocketState
from zqueue.states import Standing, State

RECORDED = Path(__file__).parent / "recorded"
# Of the repository: what is installed has no source.
SOURCE = Path(__file__).parents[1] / "daemon/zqueue/engine/wire/snapshot.pyx"
SAVES = ("dispatcher_saved", "_save_client", "_save_peer", "_save_request")
PEERS = 5
"""How many connections the recorded queue has."""


def layout() -> dict[str, list[str]]:
    """What is written, in its order, by each function that saves a part of a queue."""
    source = SOURCE.read_text()
    found = {}
    for name in SAVES:
        found_at = re.search(rf"^cdef \w+ {name}\(", source, re.MULTILINE)
        assert found_at is not None
        begin = found_at.end()
        body = source[begin : source.index("\ncdef ", begin)]
        calls = re.findall(r"writer\.\w+\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)", body)
        found[name] = [re.sub(r"\s+", " ", call) for call in calls]
        if name == "dispatcher_saved":
            found[name] += re.findall(r'"(\w+)":', body)
    return found


def indented(calls: list[str]) -> list[str]:
    return [f"    {call}" for call in calls]


def layout_file(format: int) -> Path:
    return RECORDED / f"wire-{format}.layout"


def wire_file(format: int) -> Path:
    return RECORDED / f"wire-{format}.state"


def handover_file(format: int) -> Path:
    return RECORDED / f"handover-{format}.state"


def descriptors(count: int) -> Iterator[int]:
    """So many, for what belongs to a state."""
    for _ in range(count):
        yield os.open(os.devnull, os.O_RDONLY)


def whole(snapshot: bytes) -> handover.State:
    """A daemon's state with something of everything."""
    bus, history = EventBus(), EventHistory()
    bus.subscribe(history)
    bus.emit("queue.paused", queue="orders", by="0/root", reason="")
    standing = Standing(State.PAUSED, 1.0, "0/root", "to mend a worker", 2.0)
    queues = (
        QueueState("orders", standing, Totals(last_activity=3.0, active_at=4.0), 5, 6.0),
        QueueState(
            "default",
            Standing(State.DRAINING, 7.0, "pair", at=8.0),
            drain=DrainState("pair", 9.0, "pause"),
            snapshot=Snapshot(snapshot, tuple(descriptors(PEERS))),
            opened_monotonic=10.0,
        ),
    )
    sockets = (
        SocketState("default.frontend", "tcp://*:5559", True, None, *descriptors(1)),
        SocketState("control", "ipc:///run/zqueue/control.sock", True, 11, *descriptors(1)),
    )
    return handover.State("0.1.0", 12.0, sockets, queues, history.leave())


def main() -> None:
    lines = [line for name, calls in layout().items() for line in (name, *indented(calls))]
    layout_file(STATE_FORMAT).write_text("\n".join(lines) + "\n")
    snapshot = busy_queue().snapshot()
    wire_file(STATE_FORMAT).write_bytes(snapshot)
    state = whole(snapshot)
    handover_file(handover.FORMAT).write_bytes(b"".join(handover.write(state)))


if __name__ == "__main__":
    main()
