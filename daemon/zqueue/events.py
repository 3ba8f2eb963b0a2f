"""Everything that can happen, by name: the catalogue, and the bus that carries events.

An event is said once and goes to the log and to every ``zqueuectl events --follow``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Kind:
    """One kind of event: its level (as in syslog), its fields, and what it tells an operator.
    ``loudest``: the highest level that one may have, where that is not the same for all.

    The important ones have a ``message_id`` (systemd.journal-fields(7)), by which the journal's
    catalog explains them; it never changes.
    """

    name: str
    level: str
    fields: tuple[str, ...]
    meaning: str
    message_id: str | None = None
    loudest: str | None = None


@dataclass(frozen=True)
class Event:
    """One thing that happened. ``time`` is seconds since the epoch, ``at`` the same on the
    monotonic clock (``None``: another version left it without); ``number`` counts what this process
    has said."""

    name: str
    level: str
    time: float
    queue: str | None
    message: str
    fields: dict[str, Any] = field(default_factory=dict)
    number: int = 0
    at: float | None = None


RANKS = {
    level: rank for rank, level in enumerate(("debug", "info", "warning", "error", "critical"))
}
"""Every level, and how much it matters."""

_KINDS = (
    Kind("daemon.starting", "info", ("version", "pid", "config"), "zqueued begins to start"),
    Kind(
        "daemon.ready",
        "info",
        ("control", "queues"),
        "every queue is bound; clients can connect",
        "7e9dabc4519640a1a35c6714fa6d9af1",
    ),
    Kind(
        "daemon.open_to_anyone",
        "warning",
        ("endpoints",),
        "a tcp://* endpoint serves anybody who can reach it",
    ),
    Kind(
        "metrics.listening",
        "info",
        ("url",),
        "metrics, health and the status page are served there",
    ),
    Kind(
        "metrics.failed",
        "error",
        ("error",),
        "metrics, health and the status page are served no more; the queues go on",
    ),
    Kind(
        "events.publishing",
        "info",
        ("endpoint",),
        "events are published there",
    ),
    Kind(
        "events.failed",
        "error",
        ("error",),
        "events are published no more; the queues go on",
    ),
    Kind(
        "daemon.stopping",
        "info",
        ("by", "drain_timeout"),
        "shutting down: every queue drains first, or is handed over",
        "d4ae4be5b8dc4b71b0f5faf4862d1e20",
    ),
    Kind("daemon.stopped", "info", ("uptime",), "the end of the run"),
    Kind(
        "daemon.stalled",
        "error",
        ("queues",),
        "a queue's thread does not answer; the watchdog is not pinged",
        "7dd70184382044ca954b056330dd58fd",
    ),
    Kind(
        "daemon.error",
        "error",
        ("error",),
        "an unexpected error, which zqueued survives; please report it",
    ),
    Kind(
        "daemon.failed",
        "critical",
        ("error",),
        "zqueued ends because of an unexpected error",
        "b08388cf640f481d985c1aec0cbee245",
    ),
    Kind(
        "handover.begins",
        "info",
        ("by", "to", "version", "queues"),
        "the connections and requests of these queues are about to go to the next process",
    ),
    Kind(
        "handover.done",
        "info",
        ("to", "connections", "seconds"),
        "the next process has them, or will find them",
    ),
    Kind(
        "handover.refused",
        "warning",
        ("by", "reason", "then"),
        "nothing could be handed over: the daemon drains and ends, or goes on",
        "be87f56a32314f0cb65631afd9ce1657",
    ),
    Kind(
        "handover.taken_up",
        "info",
        ("version", "connections", "paused"),
        "the connections and requests of the process before go on here",
        "f8b62add1d6f4ad5a37df6d310a963b7",
    ),
    Kind(
        "handover.lost",
        "error",
        ("reason", "connections", "requests"),
        "what the process before has left cannot be taken up: connections end, requests are lost",
        "d7728fbe84094c10aa141fb3512310e9",
    ),
    Kind(
        "control.refused",
        "warning",
        ("by", "verb", "error"),
        "a request on the control socket was malformed or refused",
        "328f097a423f467e8e1de91291deca26",
    ),
    Kind(
        "daemon.refused",
        "error",
        ("error", "exit_code"),
        "zqueued could not start",
        "d123e5fe27de4fa383ee787716f45848",
    ),
    Kind("config.warning", "warning", ("warning",), "something in the config deserves a look"),
    Kind(
        "config.reloaded",
        "info",
        ("by", "added", "removed", "changed", "unchanged", "needs_restart"),
        "a new config is in force",
    ),
    Kind(
        "config.refused",
        "error",
        ("by", "error"),
        "a reload was refused; the old config stays in force",
        "293cce504f904a46bd1fab687eba7129",
    ),
    Kind(
        "config.failed",
        "error",
        ("by", "error"),
        "a reload ended midway; the next one goes on from there",
    ),
    Kind(
        "log.lines_lost",
        "warning",
        ("lines",),
        "the log could not be written; these events are missing from it here",
    ),
    Kind("log.level_changed", "info", ("by", "old", "new"), "the log level was changed live"),
    Kind("queue.starting", "debug", ("by",), "the queue opens its sockets"),
    Kind(
        "queue.running",
        "info",
        ("by", "type", "engine", "frontend", "backend"),
        "requests and replies pass",
    ),
    Kind(
        "queue.taken_up",
        "info",
        ("clients", "workers", "waiting", "in_flight", "kept"),
        "the queue goes on with the connections and requests that it had",
    ),
    Kind("queue.paused", "info", ("by", "reason"), "no request goes to a worker; replies return"),
    Kind(
        "queue.draining",
        "info",
        ("by", "timeout"),
        "no new request is taken; what is in flight is finished",
    ),
    Kind("queue.drained", "info", ("by", "seconds"), "no request waits or is in flight any more"),
    Kind(
        "queue.drain_timed_out",
        "warning",
        ("by", "in_flight", "waiting", "estimated"),
        "the drain's time was up",
        "fb8810ab91d94177a790d95a749983ff",
    ),
    Kind("queue.stopped", "info", ("by", "reason", "lost"), "the queue's sockets are closed"),
    Kind(
        "queue.failed",
        "error",
        ("reason", "retry_in"),
        "the queue cannot work; it is tried again with back-off",
        "739853080ec0447bac6be59762e038db",
    ),
    Kind("queue.changed", "info", ("by", "keys", "rebound"), "a reload changed this queue"),
    Kind(
        "queue.steering_refused",
        "warning",
        ("by", "word", "error"),
        "a word on the queue's PAIR means nothing or is not allowed now",
    ),
    Kind(
        "queue.engine_stuck",
        "error",
        ("error",),
        "the engine could not be closed; its sockets stay open until zqueued ends",
    ),
    Kind(
        "queue.requests_lost",
        "warning",
        ("requests", "estimated", "reason"),
        "requests that no worker can answer any more",
        "a9a511ab9d1a4b6698c5bf52f1ae7362",
    ),
    Kind(
        "queue.congested",
        "debug",
        ("reason", "peer"),
        "more requests come than are taken: clients are held, or when_full ends requests",
    ),
    Kind(
        "queue.no_workers",
        "warning",
        (),
        "requests are waiting and no worker is connected",
        "1ecfef1c80324772a166f4bccd5bcb6b",
    ),
    Kind(
        "queue.broker_loop",
        "warning",
        ("peer", "also", "itself"),
        "another zqueued, or this one, is client and worker of this queue at once",
        "5eb1fe1e86f440008408054199c80e3d",
    ),
    Kind(
        "queue.engine_chosen",
        "info",
        ("engine", "reason"),
        "auto took this engine, and not the fastest one",
    ),
    Kind(
        "queue.events_lost",
        "warning",
        ("events",),
        "more happened at once than could be told; counters have it all",
    ),
    Kind(
        "peer.connected",
        "info",
        ("side", "peer", "id", "type", "zmtp"),
        "a client or worker finished its handshake",
    ),
    Kind(
        "peer.disconnected",
        "info",
        ("side", "peer", "id", "connected_for", "reason"),
        "a client or worker left",
    ),
    Kind(
        "peer.repeated",
        "info",
        ("repeated", "side", "peer", "reason", "times", "seconds"),
        "an event of a peer came so often again, for one reason: each time at level debug",
        loudest="warning",
    ),
    Kind("peer.kicked", "warning", ("by", "id"), "an operator ended a connection"),
    Kind(
        "peer.protocol_error",
        "warning",
        ("side", "peer", "reason", "cause", "likely", "suppressed"),
        "a peer was disconnected: it broke the protocol, or was silent for longer than it may",
        "4a4b1b9c1a7e4d5e9f0b6c1f6d0f5a31",
    ),
    Kind(
        "peer.duplicate_id",
        "warning",
        ("side", "peer", "holder", "suppressed"),
        "a client was refused: another one is connected with its routing id",
        "b5b9a2d1c6f84f0ea6a0d2d1c39e7c52",
    ),
    Kind(
        "request.malformed",
        "warning",
        ("peer", "reason", "suppressed"),
        "a request was dropped that no REP would answer, or whose envelope is too large",
        "0c8f6a2be27b4b6a8ff0a1c3de8b9f43",
    ),
    Kind(
        "request.returned",
        "warning",
        ("peer", "requests"),
        "a worker left, or was set aside, with requests that it had not answered: others get them",
    ),
    Kind(
        "request.slow",
        "warning",
        (
            *("id", "peer", "worker", "took", "waited", "service"),
            *("attempts", "size", "reply_size", "unsent", "suppressed"),
        ),
        "a reply came later than slow_request after its request",
        "7d0c3c1b5f6e4a53a9f2f3a8c1b4d6e0",
    ),
    Kind(
        "request.dead",
        "error",
        (
            *("id", "reason", "attempts", "client", "envelope", "size"),
            *("waited", "peer", "workers", "suppressed"),
        ),
        "a request was given up",
        "e1d6b0a7f3cb4f2f9a64b9a5c7d21e64",
    ),
    Kind(
        "dead_letters.failed",
        "error",
        ("error", "unwritten"),
        "dead letters cannot be written; they are kept in memory, and tried again",
        "5c1d1f0e4f6b4f1c8a4b3c6f3e0d7a25",
    ),
    Kind(
        "dead_letters.lost",
        "error",
        ("letters",),
        "zqueued ends, or the queue is removed, and dead letters could not be written",
        "ac72e8e0d00a449ab317ee70fda0d4e5",
    ),
    Kind("dead_letters.written", "info", (), "dead letters can be written again, and all are"),
    Kind(
        "dead_letters.full",
        "warning",
        ("kept", "bytes"),
        "as many dead letters are kept as may be: from now on the oldest go",
    ),
    Kind(
        "dead_letters.retried",
        "info",
        ("by", "letters"),
        "requests that had died were asked again, and are dead letters no more",
    ),
    Kind("dead_letters.dropped", "info", ("by", "letters"), "dead letters were thrown away"),
    Kind(
        "reply.dropped",
        "debug",
        ("peer", "reason", "suppressed"),
        "a worker's reply has no client to go to",
    ),
    Kind(
        "client.returned",
        "info",
        ("peer", "id", "away_for", "replies"),
        "a client is back within client_grace, and has got the replies that came meanwhile",
    ),
    Kind(
        "worker.set_aside",
        "warning",
        ("peer", "id", "service_timeout"),
        "a worker is at one request for too long: it gets no more until it answers",
        "3d1f4a6c58c24d0c9d5d4b7a1b0f6e92",
    ),
    Kind(
        "worker.answers_again",
        "info",
        ("peer", "id"),
        "a worker that was set aside has answered, and gets requests again",
    ),
    Kind("worker.drained", "info", ("peer", "id"), "a worker has answered all and gets no more"),
    Kind(
        "peer.rejected",
        "warning",
        ("side", "peer", "reason", "cause", "likely", "suppressed"),
        "a connection never became a ZeroMQ peer of the right type",
        "9af761e7eab640a289fa2bf874b09ab5",
    ),
    Kind(
        "peer.connect_retried",
        "debug",
        ("side", "endpoint", "error", "tries"),
        "a connect endpoint is not there; after five tries in a row it is a warning, once",
        loudest="warning",
    ),
    Kind(
        "listener.closed_gate",
        "error",
        ("side", "endpoint", "descriptors", "connections", "limit"),
        "file descriptors or max_connections run out: new connections wait in the kernel",
        "13d1611d9ed14310adf7097f81f11063",
    ),
    Kind(
        "listener.opened_gate",
        "info",
        ("side", "endpoint"),
        "there is room again: new connections are accepted",
    ),
    Kind(
        "listener.accept_failed",
        "error",
        ("side", "endpoint", "error"),
        "a connection could not be accepted",
    ),
    Kind(
        "capture.subscribed",
        "info",
        ("subscriptions",),
        "somebody reads the capture: the relay is on",
    ),
    Kind(
        "capture.unsubscribed",
        "info",
        (),
        "nobody reads the capture any more: it costs nothing again",
    ),
)

CATALOGUE: dict[str, Kind] = {kind.name: kind for kind in _KINDS}
"""Every kind of event by its name."""

Subscriber = Callable[[Event], None]


class EventBus:
    """Carries each event to every subscriber, in the order in which it was said.

    ``emit`` may be called from any thread; subscribers must not block and are called in the
    emitting thread.
    """

    def __init__(self) -> None:
        self._subscribers: tuple[Subscriber, ...] = ()
        self._said = 0
        self._lock = threading.Lock()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Add ``subscriber``; the returned function takes it away again."""
        with self._lock:
            self._subscribers = (*self._subscribers, subscriber)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(s for s in self._subscribers if s is not subscriber)

        return unsubscribe

    def emit(
        self,
        name: str,
        /,
        *,
        queue: str | None = None,
        level: str | None = None,
        **fields: Any,
    ) -> None:
        """Say that ``name`` happened; ``level`` if it matters more or less than others of its kind.

        Raises:
            KeyError: the name is not in :data:`CATALOGUE`.
            TypeError: a field is not among those that the catalogue gives for it.
        """
        kind = CATALOGUE[name]
        unknown = fields.keys() - set(kind.fields)
        if unknown:
            raise TypeError(f"event {name} has no field {', '.join(sorted(unknown))}")
        fields = {field: _writable(value) for field, value in fields.items()}
        with self._lock:
            self._said += 1
            now = time.time(), time.monotonic()
            event = Event(
                name, level or kind.level, now[0], queue, kind.meaning, fields, self._said, now[1]
            )
            for subscriber in self._subscribers:
                subscriber(event)


def _writable(value: Any) -> Any:
    """The name of a file may have bytes that are no text: no JSON could have it as it is."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    return value
