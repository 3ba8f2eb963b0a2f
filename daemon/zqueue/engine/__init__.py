"""What moves the messages of one queue.

An engine owns the queue's data sockets and the thread that works on them. It knows nothing of
config files, logs or systemd: the queue's own thread steers it by the methods of :class:`Engine`,
polls what :meth:`Engine.pollables` names, and hears from it by the reports that
:meth:`Engine.reports` returns. No method waits for data to move.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import zmq

    from zqueue.listeners import Listener


class Side(StrEnum):
    """Which side of a queue: ``frontend`` faces clients, ``backend`` faces workers."""

    FRONTEND = "frontend"
    BACKEND = "backend"


@dataclass(frozen=True)
class SocketPlan:
    """One side of a queue as the engine is to build it.

    ``options`` are libzmq socket options (``zmq.SNDHWM`` and so on) to their values, ``listeners``
    are sockets already listening, ``connect`` are endpoints to connect to.
    """

    listeners: tuple[Listener, ...]
    connect: tuple[str, ...]
    options: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """All an engine needs to know to serve one queue."""

    name: str
    type: str
    frontend: SocketPlan
    backend: SocketPlan
    capture: Listener | None = None


@dataclass(frozen=True)
class Traffic:
    """What has passed one way since the queue was created.

    ``messages`` is whole messages, an estimate where :attr:`Statistics.estimated` says so.
    """

    messages: int = 0
    frames: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Statistics:
    """An engine's counters. ``waiting`` and ``in_flight`` are ``None`` where it cannot know."""

    requests: Traffic = Traffic()
    replies: Traffic = Traffic()
    waiting: int | None = None
    in_flight: int | None = None
    lost: int = 0
    estimated: bool = True
    taken_at: float = 0.0


@dataclass
class ConnectionCounts:
    """Connections of one side, counted since the engine was opened."""

    accepted: int = 0
    disconnected: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class Report:
    """Something that happened in the engine: an event's name and its fields."""

    event: str
    fields: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """One queue's data path. All methods are called from the queue's thread only."""

    name: str

    def open(self, hold: bool) -> None:
        """Make the sockets and begin to forward, or with ``hold`` only to return replies.

        Raises:
            EndpointError: an endpoint cannot be had; nothing is left open.
        """

    def hold(self) -> None:
        """Give no further request to a worker; go on returning replies. Idempotent."""

    def drain(self) -> None:
        """As :meth:`hold`, but workers still get what was taken from clients already."""

    def forward(self) -> None:
        """Pass requests again. Idempotent."""

    @property
    def held(self) -> bool:
        """True once the hold has taken effect: no request has gone out since."""

    def close(self, flush: float) -> int:
        """Close the sockets now, whatever is under way; returns how many requests were let go.

        What is on its way to peers already may take up to ``flush`` seconds to get out.
        """

    @property
    def settling(self) -> bool:
        """True while an order has not taken effect; tick more often then."""

    def write_off_orphans(self, reason: str) -> Iterable[Report]:
        """Give up for lost what workers that left may have taken with them."""

    def refresh(self) -> None:
        """Ask for fresh counters; ``statistics.taken_at`` tells when they came."""

    def pollables(self) -> Sequence[zmq.Socket[bytes]]:
        """The sockets that become readable when :meth:`reports` has work to do."""

    def reports(self) -> Iterable[Report]:
        """Read what is readable, without waiting, and tell what happened."""

    def tick(self) -> Iterable[Report]:
        """Called some four times a second: ask for fresh counters, look for a stuck data path."""

    @property
    def statistics(self) -> Statistics:
        """The latest counters."""

    def peers(self) -> dict[Side, int]:
        """How many connections each side has now, their handshake done."""

    def connection_counts(self) -> dict[Side, ConnectionCounts]:
        """How many connections each side has had."""

    @property
    def failure(self) -> str | None:
        """Why the data path ended by itself, or ``None`` while it has not."""
