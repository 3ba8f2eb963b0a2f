"""What an operator should know of the queues now: what is wrong, whose it is, what to do."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from zqueue.control.messages import RATED_OVER, QueueStatus, StatusResult
from zqueue.engine import Side
from zqueue.plurals import counted
from zqueue.reach import Reach

_LONG_WAIT = 1.0

Weight = Literal["bad", "warn", "note"]
_ORDER: tuple[Weight, ...] = ("bad", "warn", "note")


@dataclass(frozen=True)
class Finding:
    """One thing about one queue, or about the daemon where ``queue`` is empty.

    ``whose``: who can mend it. ``do``: commands, or what to look at.
    """

    weight: Weight
    queue: str
    what: str
    whose: Literal["operator", "workers", "clients", "this machine", "zqueued"]
    do: tuple[str, ...]


def findings(status: StatusResult, reach: Reach) -> list[Finding]:
    """All there is to tell, the worst first."""
    found = [each for queue in status.queues for each in _of_queue(queue, status, reach)]
    found += _of_log(status, reach)
    found += _of_readers(status)
    if status.state != "running":
        found.insert(0, Finding("warn", "", f"zqueued is {status.state}", "operator", ()))
    return worst_first(found)


def worst_first(found: list[Finding]) -> list[Finding]:
    """What is bad before what is not."""
    return sorted(found, key=lambda each: _ORDER.index(each.weight))


def expected_wait(queue: QueueStatus) -> float | None:
    """How long a request that comes now will wait, at the rate of the last seconds (Little's law).

    ``None`` if that cannot be told: nothing is answered, or not known.
    """
    if not queue.waiting:
        return 0.0 if queue.waiting == 0 else None
    rate = queue.replies.messages_per_second
    return queue.waiting / rate if rate > 0 else None


def _of_log(status: StatusResult, reach: Reach) -> Iterator[Finding]:
    lost = status.log_lines_lost
    if lost:
        what = f"{counted(lost, 'line')} of the log could not be written since the start: "
        what += "what reads it is too slow, or the disk is full"
        where = (
            f"df {shlex.quote(status.log)}" if status.log.startswith("/") else "see who reads it"
        )
        do = (where, f"{reach.ctl} events: the daemon remembers the latest of each kind")
        yield Finding("warn", "", what, "this machine", do)


def _of_readers(status: StatusResult) -> Iterator[Finding]:
    """Those who ask zqueued to tell them something, and do not read it."""
    if status.slow_subscribers:
        times = counted(status.slow_subscribers, "time")
        what = f"a subscriber of [events] publish missed events, {times} since the start: it reads "
        what += "too slowly; how many events is not known"
        do = ("let it read in a thread of its own, or subscribe to less", "or raise [events] level")
        yield Finding("note", "", what, "operator", do)
    if status.replies_dropped:
        dropped = counted(status.replies_dropped, "answer was", "answers were")
        what = f"{dropped} dropped since the start: a caller of the control socket does not read"
        look = "see which program asks again and again, and does not read what it is answered"
        yield Finding("note", "", what, "operator", (look,))


def _of_queue(queue: QueueStatus, status: StatusResult, reach: Reach) -> Iterator[Finding]:
    name = queue.name
    if queue.stale:
        yield Finding(
            "bad",
            name,
            "its thread does not answer; what is shown of it is old",
            "zqueued",
            (reach.log(status, warnings=True), f"top -H -p {status.pid}"),
        )
    yield from _of_state(queue, status, reach)
    if queue.state == "running":
        yield from _of_work(queue, status, reach)
    yield from _of_deaths(queue, reach)
    if queue.engine_reason and queue.type == "queue":  # no other can have the wire engine
        yield Finding("note", name, f"engine libzmq: {queue.engine_reason}", "operator", ())


def _of_state(queue: QueueStatus, status: StatusResult, reach: Reach) -> Iterator[Finding]:
    name, why = queue.name, f": {queue.reason}" if queue.reason else ""
    if queue.state == "failed":
        yield Finding(
            "bad",
            name,
            f"it failed{why}; it is tried again by itself",
            "this machine",
            (reach.log(status, name), f"{reach.ctl} start {name}"),
        )
    elif queue.state == "stopped":
        yield Finding(
            "warn", name, f"{queue.by} stopped it{why}", "operator", (f"{reach.ctl} start {name}",)
        )
    elif queue.state in ("paused", "draining"):
        what = f"{queue.by} has {queue.state} it" if queue.state == "paused" else "it is draining"
        yield Finding("warn", name, f"{what}{why}", "operator", (f"{reach.ctl} resume {name}",))


def _of_work(queue: QueueStatus, status: StatusResult, reach: Reach) -> Iterator[Finding]:
    name, waiting = queue.name, queue.waiting or 0
    for endpoint, why in queue.not_connected.items():
        what = f"{endpoint} cannot be connected to: {why}"
        do = ("see whether the endpoint is right, and whether a ZeroMQ peer binds to it",)
        yield Finding("bad", name, what, "operator", do)
    wait = expected_wait(queue)
    look = f"{reach.ctl} workers {name}"
    there = where(queue, Side.BACKEND)
    if not queue.workers.connected and queue.type == "queue":
        if waiting or queue.in_flight:
            what = f"no worker is connected, and {_waiting(waiting)}"
            yield Finding("bad", name, what, "workers", ("start workers", there))
        else:
            yield Finding("warn", name, "no worker is connected", "workers", (there,))
    elif wait is None and waiting:
        yield _of_silence(queue, reach)
    elif wait is not None and wait > _LONG_WAIT:
        what = f"a request that comes now waits {wait:.1f} s"
        if queue.requests.messages_per_second > queue.replies.messages_per_second:
            what += ": more come than the workers can do"
        yield Finding("warn", name, what, "workers", (look, "start more workers"))
    if queue.lost:
        lost = counted(queue.lost, "request was", "requests were")
        what = f"{lost} lost since the start, at a stop or with a worker"
        yield Finding("note", name, what, "workers", ())
    for side, peers in (("clients", queue.clients), ("workers", queue.workers)):
        if peers.rejected:
            rejected = counted(peers.rejected, "connection")
            what = f"{rejected} of {side} turned away since the start"
            see = reach.log(status, name, warnings=True)
            yield Finding("note", name, what, "clients" if side == "clients" else "workers", (see,))


def where(queue: QueueStatus, side: Side) -> str:
    """Where the peers of a side have to be: what they connect to, and what connects to them."""
    peers = "clients" if side is Side.FRONTEND else "workers"
    endpoints = queue.frontend if side is Side.FRONTEND else queue.backend
    bound = [each for each in endpoints if not each.startswith("connect ")]
    connect = [each.removeprefix("connect ") for each in endpoints if each not in bound]
    ways = [f"{peers} connect to {', '.join(bound)}"] if bound else []
    if connect:
        ways.append(f"zqueued connects to {peers} that bind to {', '.join(connect)}")
    return "; ".join(ways)


def _of_silence(queue: QueueStatus, reach: Reach) -> Finding:
    """Requests wait, and none was answered in the last seconds. Workers that take longer than that
    may well be at work."""
    name, look = queue.name, f"{reach.ctl} workers {queue.name}"
    if queue.service is None or queue.service.p99 >= RATED_OVER:
        what = f"{_waiting(queue.waiting)}, and none was answered in the last seconds"
        do: tuple[str, ...] = (look, "see whether they answer at all", "start more workers")
        if queue.service is not None:
            what += f"; one takes up to {queue.service.p99:.1f} s"
            do = (look, "start more workers")
        return Finding("warn", name, what, "workers", do)
    what = f"{_waiting(queue.waiting)}, and no worker answers"
    return Finding("bad", name, what, "workers", (look, "restart those that hang"))


def _waiting(count: int | None) -> str:
    return counted(count or 0, "request waits", "requests wait")


def _of_deaths(queue: QueueStatus, reach: Reach) -> Iterator[Finding]:
    letters = queue.dead_letters
    if letters.failure:
        what = f"{counted(letters.unwritten, 'dead letter')} cannot be written: {letters.failure}"
        yield Finding("bad", queue.name, what, "this machine", (f"df {letters.path}",))
    if letters.kept:
        causes = queue.died.model_dump() if queue.died is not None else {}
        of = ", ".join(f"{cause} {count}" for cause, count in causes.items() if count)
        what = counted(letters.kept, "request that died is kept", "requests that died are kept")
        what += f"; since the start have died: {of}" if of else ""
        see = f"{reach.ctl} dead list {queue.name}"
        again = f"{reach.ctl} dead retry --all -q {queue.name}"
        yield Finding("note", queue.name, what, "workers", (see, again))
