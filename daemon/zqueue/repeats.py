"""What peers cause again and again: said once, then counted, and the count is told at times."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zqueue.engine import Report
from zqueue.events import CATALOGUE

FIRST_INTERVAL = 10.0
LONGEST_INTERVAL = 3600.0
MOST_KEPT = 1000
"""How many different ones are counted at once; the one that was told longest ago makes room."""

_SAID_AT_FIRST = {
    "peer.connected": 5,
    "peer.disconnected": 5,
    "peer.rejected": 1,
    "peer.protocol_error": 1,
    "peer.duplicate_id": 1,
    "request.malformed": 1,
    "request.returned": 5,
    "reply.dropped": 1,
    "client.returned": 5,
    "worker.set_aside": 5,
    "worker.answers_again": 5,
}
"""The events that a peer can cause as often as it likes, and how many of one kind are said."""

Key = tuple[str, str, str, str]


@dataclass
class _Repeat:
    level: str | None
    began: float
    interval: float = FIRST_INTERVAL
    said: int = 0
    times: int = 0


class Repeats:
    """Says what an engine reports by ``emit``. Of what comes again from the same address and for
    the same reason only the first few are said at their level; the others at level ``debug``, and
    counted: ``peer.repeated`` tells how many there were, at most once in an interval that doubles
    from ten seconds to an hour for as long as it goes on."""

    def __init__(self, emit: Callable[..., None]) -> None:
        self._emit = emit
        self._kept: OrderedDict[Key, _Repeat] = OrderedDict()

    def say(self, report: Report, now: float) -> None:
        """Say it, or count it. ``now`` is on the monotonic clock."""
        most = _SAID_AT_FIRST.get(report.event)
        if most is None or report.level == "debug":
            self._say(report, report.level)
            return
        key = _key(report)
        repeat = self._kept.get(key)
        if repeat is None:
            if len(self._kept) >= MOST_KEPT:
                self._tell(*self._kept.popitem(last=False), now)
            repeat = self._kept[key] = _Repeat(report.level, now)
        if repeat.said < most:
            repeat.said += 1
            self._say(report, report.level)
        else:
            repeat.times += 1 + int(report.fields.get("suppressed", 0))
            self._say(report, "debug")

    def tell(self, now: float) -> None:
        """Tell the counts that are due; what did not come again is as good as new."""
        for key, repeat in list(self._kept.items()):
            if now - repeat.began < repeat.interval:
                continue
            if not repeat.times:
                del self._kept[key]
                continue
            self._tell(key, repeat, now)
            repeat.began, repeat.times = now, 0
            repeat.interval = min(2 * repeat.interval, LONGEST_INTERVAL)
            self._kept.move_to_end(key)

    def tell_all(self, now: float) -> None:
        """Tell every count: nothing more comes."""
        while self._kept:
            self._tell(*self._kept.popitem(last=False), now)

    def _tell(self, key: Key, repeat: _Repeat, now: float) -> None:
        if repeat.times:
            event, side, address, reason = key
            counted = Report(
                "peer.repeated",
                {
                    "repeated": event,
                    "side": side,
                    "peer": address,
                    "reason": reason,
                    "times": repeat.times,
                    "seconds": round(now - repeat.began, 1),
                },
            )
            self._say(counted, repeat.level or CATALOGUE[event].level)

    def _say(self, report: Report, level: str | None) -> None:
        self._emit(report.event, level=level, **report.fields)


def _key(report: Report) -> Key:
    fields = report.fields
    reason = fields.get("reason") or fields.get("type") or ""
    return report.event, str(fields.get("side", "")), address_of(fields.get("peer")), str(reason)


def address_of(peer: Any) -> str:
    """The address of a peer without what differs from one connection to the next: its port, or the
    pid at a unix socket."""
    text = str(peer or "")
    if text.startswith("ipc:"):
        return "ipc:" + ",".join(
            each for each in text[4:].split(",") if not each.startswith("pid=")
        )
    return text.rpartition(":")[0] if text.startswith("tcp://") else text
