"""Stops new connections before descriptors run out, and lets them in again when there is room."""

from __future__ import annotations

from collections.abc import Iterable

from zqueue.descriptors import Budget
from zqueue.listeners import Listener


class Gates:
    """The gates of some listeners, which close and open together. ``callers`` and ``many``
    are as for :class:`~zqueue.descriptors.Budget`."""

    def __init__(
        self, listeners: Iterable[Listener], *, callers: bool = False, many: bool = False
    ) -> None:
        self._listeners = tuple(listeners)
        self._budget = Budget(callers=callers, many=many)

    @property
    def limit(self) -> int:
        """How many descriptors there may be in all."""
        return self._budget.limit

    def accepted(self, descriptor: int) -> list[Listener]:
        """A connection was accepted; returns the listeners whose gates had to be closed for it."""
        shut = all(listener.gate_closed for listener in self._listeners)
        return self.close() if not shut and self._budget.nearly_spent(descriptor) else []

    def close(self) -> list[Listener]:
        """Let nobody in any more; returns the listeners whose gates were open."""
        closed = [
            listener
            for listener in self._listeners
            if not listener.gate_closed and listener.close_gate()
        ]
        # Those who had been queued would take what is left; sent away, they try again.
        for listener in self._listeners:
            listener.turn_away()
        self._budget.open_headroom()
        return closed

    def reopen(self) -> list[Listener]:
        """Let new connections in if there is room again; returns the listeners concerned."""
        shut = [listener for listener in self._listeners if listener.gate_closed]
        if not shut or not self._budget.has_room():
            return []
        self._budget.close_headroom()
        for listener in shut:
            listener.open_gate()
        return shut
