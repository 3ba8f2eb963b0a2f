"""A drain under way: until when, for whom, and whether it is over."""

from __future__ import annotations

import time
from dataclasses import dataclass

from zqueue.figures import Figures

_QUIET_FOR = 0.1


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

    def is_over(self, held: bool, figures: Figures) -> bool:
        now = time.monotonic()
        if figures.moved != self._moved or not held:
            self._moved, self._quiet_since = figures.moved, now
        nothing_left = not figures.in_flight and not figures.waiting
        if not figures.estimated:
            return held and nothing_left
        return nothing_left and now - self._quiet_since >= _QUIET_FOR
