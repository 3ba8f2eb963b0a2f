"""What happened of late. Each kind of event has room of its own: a flood of one drives out no
other.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from zqueue.clocks import monotonic_of, told
from zqueue.event_filter import EventFilter
from zqueue.events import CATALOGUE, Event

EVENTS_OF_A_KIND = 200
"""How many events of one kind are remembered."""

BYTES_OF_A_KIND = 256 << 10
"""How much memory they may take, but that the last is remembered whatever its size."""

_BYTES_OF_ITSELF = 800  # an event without the text in its fields


@dataclass(frozen=True)
class Forgotten:
    """Of the events of a kind and a queue those up to ``time`` had to make room; ``at`` as in
    :class:`~zqueue.events.Event`."""

    name: str
    queue: str | None
    time: float
    at: float | None = None


@dataclass(frozen=True)
class HistoryState:
    """What another process needs to remember the same."""

    begins: float
    events: tuple[Event, ...]
    forgotten: tuple[Forgotten, ...]
    begins_at: float | None = None


@dataclass(frozen=True)
class Recalled:
    """Events in the order of their time, and what is missing among them.

    ``begins``: nothing from before then was ever remembered. ``forgotten``: of which kinds some
    would be there that had to make room, and the time of the last of these. ``number`` is that of
    the last event that was there to be recalled.
    """

    events: list[Event]
    begins: float
    forgotten: dict[str, float]
    number: int


@dataclass
class _Kind:
    events: deque[Event] = field(default_factory=deque)
    bytes: int = 0
    forgotten: dict[str | None, Event | Forgotten] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        self.events.append(event)
        self.bytes += _bytes(event)
        while len(self.events) > EVENTS_OF_A_KIND or (
            self.bytes > BYTES_OF_A_KIND and len(self.events) > 1
        ):
            oldest = self.events.popleft()
            self.bytes -= _bytes(oldest)
            self.forgotten[oldest.queue] = oldest


class EventHistory:
    """Remembers events. Subscribe it to an event bus. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[str, _Kind] = {}
        self._begins, self._begins_at = time.time(), time.monotonic()
        self._number = 0

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._number = event.number
            self._remember(event)

    def recall(
        self, wanted: EventFilter, since: float | None = None, last: int | None = None
    ) -> Recalled:
        """Those that are ``wanted`` and happened not before ``since`` (seconds since the epoch), of
        these with ``last`` the newest only."""
        with self._lock:
            number, begins = self._number, told(self._begins, self._begins_at)
            events = self._all(wanted.names)
            forgotten = [each for each in self._forgotten() if each.name in wanted.names]
        from_ = float("-inf") if since is None else monotonic_of(since)
        found = [event for event in events if _at(event) >= from_ and wanted.wants(event)]
        found.sort(key=_at)
        if last is not None and len(found) > last:
            found = found[len(found) - last :]
            from_ = _at(found[0]) if found else float("inf")
        missing: dict[str, float] = {}
        for each in forgotten:
            if _at(each) >= from_ and wanted.queue in (None, each.queue):
                missing[each.name] = max(each.time, missing.get(each.name, each.time))
        return Recalled(found, begins, missing, number)

    def leave(self) -> HistoryState:
        """All of it, for another process."""
        with self._lock:
            forgotten = tuple(self._forgotten())
            return HistoryState(self._begins, tuple(self._all()), forgotten, self._begins_at)

    def take_up(self, left: HistoryState) -> None:
        """Remember what another process has left, besides what has happened here."""
        with self._lock:
            events = (*left.events, *self._all())
            forgotten = (*left.forgotten, *self._forgotten())
            begins_at = monotonic_of(left.begins) if left.begins_at is None else left.begins_at
            if begins_at < self._begins_at:
                self._begins, self._begins_at = left.begins, begins_at
            self._kinds = {}
            for each in forgotten:
                self._kind(each.name).forgotten[each.queue] = each
            for event in events:
                self._remember(event)

    def _remember(self, event: Event) -> None:
        if event.name in CATALOGUE:  # another version may have said what this one does not know
            self._kind(event.name).add(event)

    def _kind(self, name: str) -> _Kind:
        return self._kinds.setdefault(name, _Kind())

    def _all(self, names: frozenset[str] = frozenset(CATALOGUE)) -> list[Event]:
        return [
            event for name, kind in self._kinds.items() if name in names for event in kind.events
        ]

    def _forgotten(self) -> Iterator[Forgotten]:
        for name, kind in self._kinds.items():
            for queue, last in kind.forgotten.items():
                yield Forgotten(name, queue, last.time, last.at)


def _at(event: Event | Forgotten) -> float:
    return monotonic_of(event.time) if event.at is None else event.at


def _bytes(event: Event) -> int:
    return _BYTES_OF_ITSELF + sum(len(str(value)) for value in event.fields.values())
