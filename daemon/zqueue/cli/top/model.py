"""What is looked at, and what a key changes about it. It knows no terminal and no daemon."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from zqueue.cli.top.follower import Look, Lost, Wanted
from zqueue.cli.top.lists import LISTS, Listing
from zqueue.cli.top.table import Column, in_order
from zqueue.control.messages import QueueStatus

_INTERVALS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_REMEMBERED = 300
_PAGE = 10

Verb = Literal["pause", "resume", "drain"]

_MEANING: dict[Verb, str] = {
    "pause": "no request goes to a worker any more",
    "resume": "requests pass again",
    "drain": "no new request, what is there is finished, then it is paused",
}


@dataclass(frozen=True)
class Steer:
    """What the operator asks for: of a queue, or of one of its workers."""

    verb: Verb
    queue: str
    worker: int | None = None

    def __str__(self) -> str:
        whom = self.queue if self.worker is None else f"worker {self.worker} of {self.queue}"
        return f"{self.verb} {whom}"

    @property
    def meaning(self) -> str:
        if self.worker is not None:
            return "it finishes what it has and gets no more"
        return _MEANING[self.verb]


@dataclass
class Sorting:
    column: int = 0
    falling: bool = False


@dataclass
class Model:
    """``queue`` and ``row`` are what is selected; ``in_list``: the keys are for the list.
    ``question``: what is done after a y. ``told`` stays until a key is pressed. ``rates``: the
    requests a second of each queue at each look; ``None`` where it could not be looked at. ``ctl``
    is zqueuectl with what finds the daemon, if that is known."""

    queue: str | None = None
    interval: float = 1.0
    listing: Listing = LISTS[0]
    look: Look | None = None
    lost: Lost | None = None
    lost_since: float | None = None
    row: Any = None
    in_list: bool = False
    question: Steer | None = None
    told: str = ""
    help: bool = False
    only_selected: bool = False
    over: bool = False
    rates: dict[str, deque[float | None]] = field(default_factory=dict)
    sortings: dict[str, Sorting] = field(default_factory=dict)
    ctl: str = ""

    # -- what the daemon says --------------------------------------------------------------------

    def see(self, look: Look) -> None:
        """Take what was found; a look that was overtaken by a key changes no selection."""
        before, self.look = self.look, look
        self.lost = self.lost_since = None
        if before is not None and before.status.pid != look.status.pid:
            self.told = f"zqueued was restarted: it is pid {look.status.pid} now"
        names = [queue.name for queue in look.status.queues]
        if self.queue not in names:
            self.queue = look.queue
        if look.due:
            self.rates = {name: self.rates.get(name, deque(maxlen=_REMEMBERED)) for name in names}
            for queue in look.status.queues:
                known = None if queue.stale else queue.requests.messages_per_second
                self.rates[queue.name].append(known)
        if self.rows() and self._place() is None:
            self.row = self.rows()[0].id

    def lose(self, lost: Lost) -> None:
        """The daemon does not answer any more, or still does not."""
        if self.lost_since is None and self.look is not None:
            self.lost_since = self.look.at
        self.lost = lost
        for rates in self.rates.values():
            rates.append(None)

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.queue, self.listing, self.interval)

    # -- what is shown ---------------------------------------------------------------------------

    @property
    def queues(self) -> tuple[QueueStatus, ...]:
        return self.look.status.queues if self.look is not None else ()

    @property
    def is_listed(self) -> bool:
        """Whether what was found is of the queue and the list that are selected now."""
        look = self.look
        return look is not None and (look.queue, look.listing) == (self.queue, self.listing)

    @property
    def sorting(self) -> Sorting:
        return self.sortings.setdefault(self.listing.name, Sorting())

    @property
    def sorted_by(self) -> Column:
        return self.listing.columns[self.sorting.column]

    def rows(self) -> list[Any]:
        """The rows of the list, in the order that was chosen."""
        if self.look is None or not self.is_listed:
            return []
        return in_order(self.look.rows, self.sorted_by, self.sorting.falling)

    # -- what the operator says ------------------------------------------------------------------

    def press(self, key: str) -> Steer | None:
        """Do what ``key`` is for; what is to be asked of the daemon, if anything."""
        self.told = ""
        if self.question is not None:
            asked, self.question = self.question, None
            if key == "y":
                return asked
            self.told = f"not done: {asked}"
        elif self.help:
            self.help = False
        elif act := _KEYS.get(key):
            act(self)
        else:
            self.listing = next((each for each in LISTS if each.key == key), self.listing)
        return None

    def _move(self, by: int) -> None:
        if self.in_list:
            rows = self.rows()
            if rows:
                self.row = rows[_within(rows, (self._place() or 0) + by)].id
        elif self.queues:
            names = [queue.name for queue in self.queues]
            at = names.index(self.queue) if self.queue in names else 0
            self.queue = names[_within(names, at + by)]

    def _place(self) -> int | None:
        ids = [row.id for row in self.rows()]
        return ids.index(self.row) if self.row in ids else None

    def _sort(self, by: int) -> None:
        self.sorting.column = (self.sorting.column + by) % len(self.listing.columns)

    def _reverse(self) -> None:
        self.sorting.falling = not self.sorting.falling

    def _ask(self, verb: Verb) -> None:
        if self.queue is None:
            return
        if verb != "drain" or not self.in_list:
            self.question = Steer(verb, self.queue)
        elif not self.listing.drains:
            self.told = f"{self.listing.name} cannot be drained; Tab goes back to the queues"
        elif self._place() is None:
            self.told = "no row is selected; Tab goes back to the queues"
        else:
            self.question = Steer(verb, self.queue, self.row)

    def _change_interval(self, by: int) -> None:
        longer = [each for each in _INTERVALS if each > self.interval]
        shorter = [each for each in _INTERVALS if each < self.interval]
        if by > 0 and longer:
            self.interval = longer[0]
        elif by < 0 and shorter:
            self.interval = shorter[-1]

    def _toggle(self, what: str) -> None:
        setattr(self, what, not getattr(self, what))


def _within(places: list[Any], at: int) -> int:
    return max(0, min(len(places) - 1, at))


_KEYS: dict[str, Callable[[Model], None]] = {
    "up": lambda model: model._move(-1),
    "k": lambda model: model._move(-1),
    "down": lambda model: model._move(1),
    "j": lambda model: model._move(1),
    "pageup": lambda model: model._move(-_PAGE),
    "pagedown": lambda model: model._move(_PAGE),
    "home": lambda model: model._move(-(2**31)),
    "end": lambda model: model._move(2**31),
    "tab": lambda model: model._toggle("in_list"),
    "backtab": lambda model: model._toggle("in_list"),
    "<": lambda model: model._sort(-1),
    ">": lambda model: model._sort(1),
    "s": lambda model: model._sort(1),
    "r": lambda model: model._reverse(),
    "p": lambda model: model._ask("pause"),
    "u": lambda model: model._ask("resume"),
    "d": lambda model: model._ask("drain"),
    "f": lambda model: model._toggle("only_selected"),
    "+": lambda model: model._change_interval(1),
    "-": lambda model: model._change_interval(-1),
    "?": lambda model: model._toggle("help"),
    "q": lambda model: model._toggle("over"),
}
