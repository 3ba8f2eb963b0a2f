"""Endpoints that a queue connects to, and that do not come up: how often that failed, and why."""

from __future__ import annotations

from dataclasses import dataclass

from zqueue.engine import Report

WARNED_AFTER = 5
"""So many times in a row it may fail before that is a warning."""


@dataclass
class _Failing:
    tries: int = 0
    error: str = ""


class Connects:
    """Tells of each failed attempt: at level ``debug``, and once, after some in a row, as a
    warning; then again only once it was up."""

    def __init__(self) -> None:
        self._failing: dict[str, _Failing] = {}

    def failed(self, side: str, endpoint: str, error: str, again: str = "") -> Report:
        """It failed once more, for this reason; ``again``: when it is tried again."""
        failing = self._failing.setdefault(endpoint, _Failing())
        failing.tries += 1
        failing.error = error
        told = f"{error}; {again}" if again else error
        level = "warning" if failing.tries == WARNED_AFTER else None
        fields = {"side": side, "endpoint": endpoint, "error": told, "tries": failing.tries}
        return Report("peer.connect_retried", fields, level)

    def is_due(self, endpoint: str) -> bool:
        """Whether the next failure is the one that is warned of."""
        failing = self._failing.get(endpoint)
        return failing is not None and failing.tries == WARNED_AFTER - 1

    def last_error(self, endpoint: str) -> str:
        failing = self._failing.get(endpoint)
        return failing.error if failing is not None else ""

    def came_up(self, endpoint: str) -> None:
        self._failing.pop(endpoint, None)

    @property
    def down(self) -> dict[str, str]:
        """Those that were warned of, and why the last attempt failed."""
        return {
            endpoint: f"{failing.error} ({failing.tries} tries)"
            for endpoint, failing in self._failing.items()
            if failing.tries >= WARNED_AFTER
        }
