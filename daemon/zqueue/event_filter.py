"""Which events somebody wants to hear of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from zqueue.events import CATALOGUE, RANKS, Event


@dataclass(frozen=True)
class EventFilter:
    """Events of the kinds in ``names``, of one ``queue`` or of everything."""

    names: frozenset[str]
    queue: str | None = None

    def wants(self, event: Event) -> bool:
        return event.name in self.names and self.queue in (None, event.queue)


def event_filter(
    names: Iterable[str] = (), level: str = "debug", queue: str | None = None
) -> EventFilter:
    """A filter for events of at least ``level``; ``names`` may have ``*``, and none are all.

    Raises:
        ValueError: there is no kind of event with such a name.
    """
    named = set[str]()
    for name in names:
        found = {kind for kind in CATALOGUE if fnmatchcase(kind, name)}
        if not found:
            raise ValueError(f'there is no event "{name}"; docs/events.md lists them all')
        named |= found
    loud = {kind.name for kind in CATALOGUE.values() if RANKS[kind.level] >= RANKS[level]}
    return EventFilter(frozenset(named & loud if named else loud), queue)
