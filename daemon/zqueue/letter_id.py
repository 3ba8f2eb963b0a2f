"""The id of a dead letter, which is good over restarts and among brokers."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WRITTEN = re.compile(r"(?:(?P<broker>.*)/)?(?P<queue>[^/]+)/(?P<number>[0-9a-f]{1,15})", re.DOTALL)


class NoSuchLetter(Exception):
    """There is no dead letter with this id."""

    code = "unknown_letter"


@dataclass(frozen=True)
class LetterId:
    """``BROKER/QUEUE/NUMBER``. Numbers are those of one queue, and grow with time, also over
    restarts. ``broker`` is the one at which the request died; empty, it may be any."""

    broker: str
    queue: str
    number: int

    def __str__(self) -> str:
        return f"{self.broker}/{self.queue}/{self.number:x}"

    @classmethod
    def parse(cls, text: str) -> LetterId:
        """``BROKER/QUEUE/NUMBER`` or ``QUEUE/NUMBER``.

        Raises:
            NoSuchLetter: it is neither.
        """
        found = _WRITTEN.fullmatch(text)
        if found is None:
            raise NoSuchLetter(f'"{text}" is no id of a dead letter: BROKER/QUEUE/NUMBER')
        return cls(found["broker"] or "", found["queue"], int(found["number"], 16))
