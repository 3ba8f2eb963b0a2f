"""A drain under way: until when, for whom, and whether it is over."""

from __future__ import annotations

import time
from dataclasses import dataclass

from zqueue.figures import Figures

_QUIET_FOR = 0.1
_DOUBTED_FOR = 0.1


@dataclass(frozen=True)
class DrainState:
    """A drain under way: who asked for it, the seconds left, and what is to follow."""

    by: str
    timeout: float
    then: str


class Drain:
    """A drain under way: it is over when nothing is in flight, and where that is an estimate when
    nothing has moved for a while, too."""

    def __init__(self, numbers: list[bytes], by: str, timeout: float, then: str) -> None:
        self.numbers = numbers
        self.by = by
        self.timeout = timeout
        self.then = then
        self.began = time.monotonic()
        self.deadline = self.began + timeout
        self._moved = -1
        self._quiet_since = self.began

    def join(self, number: bytes, timeout: float, then: str) -> None:
        """Somebody else asks for the same drain; the latest timeout counts, and a wish to stop."""
        self.numbers.append(number)
        self.timeout = timeout
        if then == "terminate":
            self.then = then
        self.deadline = time.monotonic() + timeout

    def left(self) -> DrainState:
        """What is left of it, for whoever takes the queue up."""
        return DrainState(self.by, max(0.0, self.deadline - time.monotonic()), self.then)

    def is_over(self, held: bool, figures: Figures, orphans: int) -> bool:
        """``held``: all that the drain is to hand out has been. ``orphans`` of those in flight may
        have gone with their workers: for these it waits a tenth of its timeout."""
        now = time.monotonic()
        if figures.moved != self._moved or not held:
            self._moved, self._quiet_since = figures.moved, now
        in_flight = figures.in_flight or 0
        if not figures.estimated:
            return held and not in_flight and not figures.waiting
        quiet_for = now - self._quiet_since
        if in_flight:
            enough = max(_QUIET_FOR, _DOUBTED_FOR * self.timeout)
            return in_flight <= orphans and quiet_for >= enough
        return quiet_for >= _QUIET_FOR
