"""Which events somebody wants to hear of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from zqueue.events import CATALOGUE, RANKS, Event


@dataclass(frozen=True)
class EventFilter:
    """Events of the kinds in ``names`` and of at least ``level``, of one ``queue`` or of
    everything."""

    names: frozenset[str]
    queue: str | None = None
    level: str = "debug"

    def wants(self, event: Event) -> bool:
        return (
            event.name in self.names
            and self.queue in (None, event.queue)
            and RANKS.get(event.level, len(RANKS)) >= RANKS[self.level]
        )


def kinds(patterns: Iterable[str]) -> frozenset[str]:
    """The kinds of events with these names, in which ``*`` may be a part.

    Raises:
        ValueError: there is no kind of event with such a name.
    """
    named = set[str]()
    for pattern in patterns:
        found = {kind for kind in CATALOGUE if fnmatchcase(kind, pattern)}
        if not found:
            raise ValueError(f'there is no event "{pattern}"; docs/events.md lists them all')
        named |= found
    return frozenset(named)


def event_filter(
    names: Iterable[str] = (), level: str = "debug", queue: str | None = None
) -> EventFilter:
    """A filter for events of at least ``level``; ``names`` may have ``*``, and none are all.

    Raises:
        ValueError: there is no kind of event with such a name.
    """
    named = kinds(names)
    loud = frozenset(
        kind.name
        for kind in CATALOGUE.values()
        if RANKS[kind.loudest or kind.level] >= RANKS[level]
    )
    return EventFilter(named & loud if named else loud, queue, level)
