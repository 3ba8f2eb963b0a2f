"""What an operator should know of the queues now: what is wrong, whose it is, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from zqueue.control.messages import RATED_OVER, QueueStatus, StatusResult

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


def findings(status: StatusResult) -> list[Finding]:
    """All there is to tell, the worst first."""
    found = [each for queue in status.queues for each in _of_queue(queue, status.pid)]
    if status.state != "running":
        found.insert(0, Finding("warn", "", f"zqueued is {status.state}", "operator", ()))
    return worst_first(found)


def worst_first(found: list[Finding]) -> list[Finding]:
    """What is bad before what is not."""
    return sorted(found, key=lambda each: _ORDER.index(each.weight))


def addressed(found: list[Finding], call: str, unit: str) -> list[Finding]:
    """With commands that reach the daemon they are about: ``call`` for zqueuectl, and its unit."""
    return [
        replace(each, do=tuple(_addressed(line, call, unit) for line in each.do)) for each in found
    ]


def _addressed(line: str, call: str, unit: str) -> str:
    line = re.sub(r"^zqueuectl\b", lambda _: call, line)
    its_unit = re.compile(r"^(journalctl -u|systemctl restart) zqueue(?= |$)")
    return its_unit.sub(lambda found: f"{found[1]} {unit}", line)


def expected_wait(queue: QueueStatus) -> float | None:
    """How long a request that comes now will wait, at the rate of the last seconds (Little's law).

    ``None`` if that cannot be told: nothing is answered, or not known.
    """
    if not queue.waiting:
        return 0.0 if queue.waiting == 0 else None
    rate = queue.replies.messages_per_second
    return queue.waiting / rate if rate > 0 else None


def _of_queue(queue: QueueStatus, pid: int) -> Iterator[Finding]:
    name = queue.name
    if queue.stale:
        yield Finding(
            "bad",
            name,
            "its thread does not answer; what is shown of it is old",
            "zqueued",
            ("journalctl -u zqueue -p warning -n 50", f"top -H -p {pid}"),
        )
    yield from _of_state(queue)
    if queue.state == "running":
        yield from _of_work(queue)
    yield from _of_deaths(queue)
    if queue.engine_reason:
        yield Finding("note", name, f"engine libzmq: {queue.engine_reason}", "operator", ())


def _of_state(queue: QueueStatus) -> Iterator[Finding]:
    name, why = queue.name, f": {queue.reason}" if queue.reason else ""
    if queue.state == "failed":
        yield Finding(
            "bad",
            name,
            f"it failed{why}; it is tried again by itself",
            "this machine",
            (f"journalctl -u zqueue QUEUE={name} -n 50", f"zqueuectl start {name}"),
        )
    elif queue.state == "stopped":
        yield Finding(
            "warn", name, f"{queue.by} stopped it{why}", "operator", (f"zqueuectl start {name}",)
        )
    elif queue.state in ("paused", "draining"):
        what = f"{queue.by} has {queue.state} it" if queue.state == "paused" else "it is draining"
        yield Finding("warn", name, f"{what}{why}", "operator", (f"zqueuectl resume {name}",))


def _of_work(queue: QueueStatus) -> Iterator[Finding]:
    name, waiting = queue.name, queue.waiting or 0
    wait = expected_wait(queue)
    look = f"zqueuectl workers {name}"
    where = f"workers connect to {', '.join(queue.backend)}"
    if not queue.workers.connected and queue.type == "queue":
        if waiting or queue.in_flight:
            what = f"no worker is connected, and {waiting} requests wait"
            yield Finding("bad", name, what, "workers", ("start workers", where))
        else:
            yield Finding("warn", name, "no worker is connected", "workers", (where,))
    elif wait is None and waiting:
        yield _of_silence(queue)
    elif wait is not None and wait > _LONG_WAIT:
        what = f"a request that comes now waits {wait:.1f} s"
        if queue.requests.messages_per_second > queue.replies.messages_per_second:
            what += ": more come than the workers can do"
        yield Finding("warn", name, what, "workers", (look, "start more workers"))
    if queue.lost:
        what = f"{queue.lost} requests were lost since the start, at a stop or with a worker"
        yield Finding("note", name, what, "workers", ())
    for side, peers in (("clients", queue.clients), ("workers", queue.workers)):
        if peers.rejected:
            what = f"{peers.rejected} connections of {side} were sent away since the start"
            see = f"journalctl -u zqueue QUEUE={name} -p warning"
            yield Finding("note", name, what, "clients" if side == "clients" else "workers", (see,))


def _of_silence(queue: QueueStatus) -> Finding:
    """Requests wait, and none was answered in the last seconds. Workers that take longer than that
    may well be at work."""
    name, look = queue.name, f"zqueuectl workers {queue.name}"
    if queue.service is None or queue.service.p99 >= RATED_OVER:
        what = f"{queue.waiting} requests wait, and none was answered in the last seconds"
        if queue.service is not None:
            what += f"; one takes up to {queue.service.p99:.1f} s"
        return Finding("warn", name, what, "workers", (look, "start more workers"))
    what = f"{queue.waiting} requests wait, and no worker answers"
    return Finding("bad", name, what, "workers", (look, "restart those that hang"))


def _of_deaths(queue: QueueStatus) -> Iterator[Finding]:
    letters = queue.dead_letters
    if letters.failure:
        what = f"{letters.unwritten} dead letters cannot be written: {letters.failure}"
        yield Finding("bad", queue.name, what, "this machine", (f"df {letters.path}",))
    if letters.kept:
        causes = queue.died.model_dump() if queue.died is not None else {}
        of = ", ".join(f"{cause} {count}" for cause, count in causes.items() if count)
        what = f"{letters.kept} requests that died are kept"
        what += f"; since the start have died: {of}" if of else ""
        see = f"zqueuectl dead list {queue.name}"
        again = f"zqueuectl dead retry --all -q {queue.name}"
        yield Finding("note", queue.name, what, "workers", (see, again))
