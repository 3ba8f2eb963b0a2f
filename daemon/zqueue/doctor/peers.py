"""The peers of a queue: workers that are slow, stuck or too few, clients that do not read, peers at
the wrong port."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from zqueue.control.client import ControlClient
from zqueue.control.messages import EventReply, OpenRequest, QueueStatus, Worker
from zqueue.doctor.machine import RAISE_LIMIT
from zqueue.engine import Side
from zqueue.engine.reasons import reason_named, reason_of
from zqueue.findings import Finding, where
from zqueue.plurals import counted
from zqueue.quantities import parse_size
from zqueue.reach import Reach
from zqueue.repeats import address_of

_NEARLY_FULL = 0.8
_TIMES_SLOWER = 4.0
_ENOUGH_ANSWERS = 50
_LONG_WHERE_NOTHING_IS_KNOWN = 60.0
_TIMES_LONGER = 100
_LONG_AT_LEAST = 1.0
_PEERS_NAMED = 3
_UNASKED_AT_LEAST = 3
_PLACES = {"control": "queue's PAIR"}
_WHOSE: Mapping[str, Literal["clients", "workers"]] = {"frontend": "clients", "backend": "workers"}


def room(queue: QueueStatus, in_force: Mapping[str, Any]) -> Iterator[Finding]:
    """How much waits, against how much may."""
    most = in_force.get(f"queues.{queue.name}.max_waiting") or 0
    if most and queue.waiting is not None and queue.waiting >= most * _NEARLY_FULL:
        when_full = in_force.get(f"queues.{queue.name}.when_full", "hold")
        then = {
            "hold": "then clients are held",
            "reject": "then requests are rejected",
            "oldest": "then the oldest die",
        }[when_full]
        what = f"{queue.waiting} of {counted(most, 'request')} that may wait do; {then}"
        do = ("start more workers", f"or raise queues.{queue.name}.max_waiting")
        yield Finding("warn", queue.name, what, "workers", do)


def turned_away(events: Iterable[EventReply], queue: QueueStatus) -> Iterator[Finding]:
    """Peers that were turned away, or broke the protocol; ``events`` are those of the last hour."""
    seen: dict[tuple[str, str], Counter[str]] = {}
    texts: dict[str, str] = {}
    for event in events:
        if event.name not in ("peer.rejected", "peer.protocol_error"):
            continue
        text = str(event.fields["reason"])
        # Another version may have said it without, or have other reasons.
        reason = reason_named(str(event.fields.get("cause", ""))) or reason_of(text)
        if reason.level == "debug":
            continue
        id = reason.id if reason_named(reason.id) else text
        texts[id] = text
        hosts = seen.setdefault((str(event.fields["side"]), id), Counter())
        hosts[address_of(event.fields["peer"])] += 1 + int(event.fields.get("suppressed", 0))
    for (side, id), hosts in seen.items():
        reason = reason_named(id) or reason_of(texts[id])
        named = ", ".join(host for host, _ in hosts.most_common(_PEERS_NAMED))
        more = f" and {len(hosts) - _PEERS_NAMED} more" if len(hosts) > _PEERS_NAMED else ""
        times = counted(hosts.total(), "time")
        likely = reason.likely_on(side)
        what = (
            f"turned away at the {_PLACES.get(side, side)} in the last hour, {times}: {texts[id]}"
        )
        what += f"; likely {likely}" if likely and likely not in texts[id] else ""
        what += f"; from {named}{more}"
        ports = (where(queue, Side.FRONTEND), where(queue, Side.BACKEND)) if reason.ports else ()
        yield Finding(
            "warn",
            queue.name,
            what,
            _WHOSE.get(side, "operator"),
            (*ports, *reason.do) or ("look at it",),
        )


def shut_out(events: Iterable[EventReply], queue: QueueStatus, reach: Reach) -> Iterator[Finding]:
    """Listening sockets that accept nobody for now."""
    shut: dict[str, EventReply] = {}
    for event in events:
        if event.name == "listener.closed_gate":
            shut[str(event.fields["endpoint"])] = event
        elif event.name == "listener.opened_gate":
            shut.pop(str(event.fields["endpoint"]), None)
        elif event.name == "queue.starting":
            shut.clear()  # its sockets are others
    for endpoint, event in shut.items():
        limit = event.fields["limit"]
        if "connections" in event.fields:
            why = f"max_connections = {limit} is reached"
            kept = int(limit) - int(event.fields["connections"])
            if kept > 0:
                why += (
                    f", but for {kept} that the other side has not taken and that are kept for it"
                )
            do: tuple[str, ...] = (f"{reach.ctl} clients {queue.name}",)
        else:
            in_use = counted(event.fields["descriptors"], "descriptor is", "descriptors are")
            why = f"{in_use} in use of {limit}"
            do = RAISE_LIMIT
        what = f"new connections to {endpoint} wait in the kernel: {why}"
        yield Finding("bad", queue.name, what, "this machine", do)


def of_queue(
    zqueued: ControlClient, queue: QueueStatus, in_force: Mapping[str, Any], reach: Reach
) -> Iterator[Finding]:
    """What an engine that can tell peers apart knows of them.

    Raises:
        Refused: it cannot.
    """
    workers = zqueued.workers(queue.name).workers
    yield from _strangers(workers, queue, reach)
    yield from _stuck(workers, queue, reach)
    yield from _busy(workers, queue)
    yield from _uneven(workers, queue, reach)
    yield from _brokers(zqueued, workers, queue)
    # It is read from no more once this much is kept for it; others are held for want of room.
    most = parse_size(str(in_force.get(f"queues.{queue.name}.max_unsent") or "0B"))
    much = max(1, most // 4)
    held = zqueued.clients(queue.name, filter=["state=held", f"unsent_bytes>={much}"]).clients
    for client in held[:_PEERS_NAMED]:
        what = f"client {client.id} ({client.peer}) does not read its replies: "
        kept = counted(client.unsent_bytes, "byte is", "bytes are")
        what += f"{kept} kept for it, and it is not read from"
        do = ("see what that client does", f"{reach.ctl} kick {client.id} -q {queue.name}")
        yield Finding("warn", queue.name, what, "clients", do)
    oldest = zqueued.requests(
        queue.name, filter=["state=in_flight"], sort="-state_for", limit=1
    ).requests
    if oldest and oldest[0].state_for > _long(queue):
        yield _old(oldest[0], queue, reach)


def _strangers(workers: Sequence[Worker], queue: QueueStatus, reach: Reach) -> Iterator[Finding]:
    """Workers that say what answers nothing, or never answer."""
    for worker in workers:
        who = f"worker {worker.id} ({worker.peer}, {worker.type})"
        answered = worker.replies - worker.unasked
        if worker.unasked >= _UNASKED_AT_LEAST and worker.unasked > answered:
            sent = counted(worker.unasked, "message that answers", "messages that answer")
            what = f"{who} has sent {sent} nothing, and answered "
            what += f"{counted(answered, 'request')}: it speaks another protocol"
            do: tuple[str, ...] = (
                "a worker of Paranoid Pirate (READY, heartbeats) or Majordomo (MDPW01) needs the "
                "broker of its own guide; zqueued dispatches by itself, and needs neither",
                "have it answer each request with the frames before the empty one as they came, an "
                "empty frame, and the reply",
                f"{reach.ctl} tap {queue.name} shows what it sends",
                f"{reach.ctl} kick {worker.id} -q {queue.name}",
            )
            yield Finding("bad", queue.name, what, "workers", do)
        elif _has_never_answered(worker):
            given = counted(worker.requests, "request")
            what = f"{who} was given {given}, and has never answered"
            do = (
                "look at that process: does it read, and does it send the frames before the empty "
                "one back?",
                f"{reach.ctl} requests {queue.name} --filter worker={worker.id}",
                "restart it",
            )
            long = worker.silent_for > _LONG_WHERE_NOTHING_IS_KNOWN
            yield Finding("bad" if long else "warn", queue.name, what, "workers", do)


def _has_never_answered(worker: Worker) -> bool:
    """Nothing was heard of it, though it has had the time to answer."""
    quiet = worker.silent_for > _LONG_AT_LEAST
    return worker.replies == worker.unasked and worker.in_flight > 0 and quiet


def _stuck(workers: Sequence[Worker], queue: QueueStatus, reach: Reach) -> Iterator[Finding]:
    for worker in workers:
        if worker.state == "aside":
            what = f"worker {worker.id} ({worker.peer}) is at one request for longer than "
            what += "service_timeout: it gets no more until it answers"
            yield Finding(
                "bad", queue.name, what, "workers", ("look at that process", "or restart it")
            )
        elif worker.state == "draining":
            what = f"worker {worker.id} ({worker.peer}) was drained: it gets no more"
            do = (
                "stop it, or let it connect anew",
                f"{reach.ctl} kick {worker.id} -q {queue.name}",
            )
            yield Finding("note", queue.name, what, "operator", do)


def _brokers(
    zqueued: ControlClient, workers: Sequence[Worker], queue: QueueStatus
) -> Iterator[Finding]:
    """Other brokers that are workers, or this one: what came from a broker goes to none of them."""
    brokers = {worker.broker: worker for worker in workers if worker.broker}
    if not brokers:
        return
    clients = zqueued.clients(queue.name, filter=["broker!="]).clients
    for client in clients:
        if client.broker in brokers:
            worker = brokers[client.broker]
            what = "a queue of a zqueued and this one are each other's worker, or it is this one: "
            what += f"it is client {client.id} ({client.peer}) and worker {worker.id} "
            what += f"({worker.peer}); what it asks goes to no worker that is a zqueued"
            do = ("let only one of them connect to the other", "see docs/engines.md")
            yield Finding("warn", queue.name, what, "operator", do)
    waiting = sum(client.waiting for client in clients)
    if waiting and all(worker.broker for worker in workers):
        what = (
            f"{counted(waiting, 'request', 'requests')} of other zqueueds wait: each worker here "
        )
        what += "is a zqueued, too, and what came from one goes to no other"
        do = ("start a worker that is none", "or let these clients ask the last zqueued itself")
        yield Finding("bad", queue.name, what, "workers", do)


def _busy(workers: Sequence[Worker], queue: QueueStatus) -> Iterator[Finding]:
    ready = [worker for worker in workers if worker.state == "ready"]
    busy = [w for w in ready if w.ahead is not None and w.in_flight >= w.ahead]
    if queue.waiting and ready and len(busy) == len(ready) and queue.state == "running":
        count = "the only worker is" if len(ready) == 1 else f"all {len(ready)} workers are"
        what = f"{count} busy, and {counted(queue.waiting, 'request waits', 'requests wait')}"
        # More of those that never answer would not help.
        silent = all(map(_has_never_answered, busy))
        do = ("look at the workers first: none has ever answered",) if silent else ()
        yield Finding("warn", queue.name, what, "workers", (*do, "start more workers"))


def _uneven(workers: Sequence[Worker], queue: QueueStatus, reach: Reach) -> Iterator[Finding]:
    known = [w for w in workers if w.p50 is not None and w.replies >= _ENOUGH_ANSWERS]
    for worker in known:
        others = [w.p50 for w in known if w is not worker and w.p50 is not None]
        assert worker.p50 is not None
        if others and worker.p50 > _TIMES_SLOWER * statistics.median(others):
            times = worker.p50 / statistics.median(others)
            what = f"worker {worker.id} ({worker.peer}) takes {times:.0f} times as long as others"
            do = (f"{reach.ctl} workers {queue.name} --sort=-p50", "see what is different there")
            yield Finding("warn", queue.name, what, "workers", do)


def _long(queue: QueueStatus) -> float:
    if queue.service is None:
        return _LONG_WHERE_NOTHING_IS_KNOWN
    return max(_LONG_AT_LEAST, _TIMES_LONGER * queue.service.p99)


def _old(request: OpenRequest, queue: QueueStatus, reach: Reach) -> Finding:
    what = f"request {request.id} is at worker {request.worker} ({request.worker_peer}) for "
    what += f"{request.state_for:.0f} s"
    do = (
        "look at that process",
        f"{reach.ctl} kick {request.worker} -q {queue.name}: it goes to another, or dies "
        "(redeliver, max_attempts)",
        f"queues.{queue.name}.service_timeout does so by itself",
    )
    return Finding("warn", queue.name, what, "workers", do)
