"""The states of a queue, what may follow what, and the one place that changes them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


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


class IllegalTransition(Exception):
    """A change of state that :data:`FOLLOWS` does not allow."""

    def __init__(self, old: State, new: State) -> None:
        super().__init__(f"a queue that is {old} cannot become {new}")
        self.old = old
        self.new = new


@dataclass(frozen=True)
class Standing:
    """A queue's state with its story: since when, by whom, why.

    ``since`` is seconds since the epoch. ``by`` is who asked (``uid/name``, ``config``, ``pair``,
    ``signal``, ``zqueued``), ``reason`` is free text, empty where the state speaks for itself.
    """

    state: State
    since: float
    by: str
    reason: str = ""


class StateMachine:
    """Holds one queue's :class:`Standing` and tells ``on_change(old, new)`` of each change."""

    def __init__(
        self, on_change: Callable[[Standing, Standing], None], begin: Standing | None = None
    ) -> None:
        self._on_change = on_change
        self._standing = begin or Standing(State.STOPPED, time.time(), "zqueued", "not started yet")

    @property
    def standing(self) -> Standing:
        return self._standing

    @property
    def state(self) -> State:
        return self._standing.state

    def change(self, state: State, by: str, reason: str = "", since: float | None = None) -> None:
        """Go to ``state``, ``since`` now if it is not said.

        Raises:
            IllegalTransition: if :data:`FOLLOWS` does not allow it; nothing has changed then.
        """
        old = self._standing
        if state not in FOLLOWS[old.state]:
            raise IllegalTransition(old.state, state)
        self._standing = Standing(state, time.time() if since is None else since, by, reason)
        self._on_change(old, self._standing)
