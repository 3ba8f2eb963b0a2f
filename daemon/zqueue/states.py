"""The states of a queue, what may follow what, and the one place that changes them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from zqueue.clocks import monotonic_of, told


class State(StrEnum):
    """What a queue is doing."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


FOLLOWS: dict[State, frozenset[State]] = {
    State.STARTING: frozenset({State.RUNNING, State.PAUSED, State.STOPPED, State.FAILED}),
    State.RUNNING: frozenset({State.PAUSED, State.DRAINING, State.STOPPED, State.FAILED}),
    State.PAUSED: frozenset({State.RUNNING, State.DRAINING, State.STOPPED, State.FAILED}),
    State.DRAINING: frozenset({State.PAUSED, State.RUNNING, State.STOPPED, State.FAILED}),
    State.STOPPED: frozenset({State.STARTING}),
    State.FAILED: frozenset({State.STARTING, State.STOPPED}),
}
"""For each state, the states that may come next."""

AT_WORK = frozenset({State.RUNNING, State.PAUSED, State.DRAINING})
"""The states of a queue that has an engine, and so may have connections."""


class IllegalTransition(Exception):
    """A change of state that :data:`FOLLOWS` does not allow."""

    def __init__(self, old: State, new: State) -> None:
        super().__init__(f"a queue that is {old} cannot become {new}")
        self.old = old
        self.new = new


@dataclass(frozen=True)
class Standing:
    """A queue's state with its story: since when, by whom, why.

    ``since`` is seconds since the epoch, ``at`` the same on the monotonic clock (``None``: another
    version left it without). ``by`` is who asked (``uid/name``, ``config``, ``pair``, ``signal``,
    ``zqueued``), ``reason`` is free text, empty where the state speaks for itself.
    """

    state: State
    since: float
    by: str
    reason: str = ""
    at: float | None = None

    @classmethod
    def now(cls, state: State, by: str, reason: str = "") -> Standing:
        return cls(state, time.time(), by, reason, time.monotonic())

    @property
    def began(self) -> float:
        """Where the monotonic clock stood when it came into this state."""
        return monotonic_of(self.since) if self.at is None else self.at

    @property
    def told_since(self) -> float:
        """Since when, as :func:`zqueue.clocks.told` has it."""
        return told(self.since, self.began)


class StateMachine:
    """Holds one queue's :class:`Standing` and tells ``on_change(old, new)`` of each change."""

    def __init__(
        self, on_change: Callable[[Standing, Standing], None], begin: Standing | None = None
    ) -> None:
        self._on_change = on_change
        self._standing = begin or Standing.now(State.STOPPED, "zqueued", "not started yet")

    @property
    def standing(self) -> Standing:
        return self._standing

    @property
    def state(self) -> State:
        return self._standing.state

    def change(self, state: State, by: str, reason: str = "") -> None:
        """Go to ``state``.

        Raises:
            IllegalTransition: if :data:`FOLLOWS` does not allow it; nothing has changed then.
        """
        self.become(Standing.now(state, by, reason))

    def become(self, new: Standing) -> None:
        """Go on as what has begun already, perhaps in another process.

        Raises:
            IllegalTransition: if :data:`FOLLOWS` does not allow it; nothing has changed then.
        """
        old = self._standing
        if new.state not in FOLLOWS[old.state]:
            raise IllegalTransition(old.state, new.state)
        self._standing = new
        self._on_change(old, new)
