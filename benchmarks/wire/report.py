"""The table that people read, what was reached and missed, and the JSON that scripts read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.brokers import BASELINE
from benchmarks.table import processor, text_of, versions, versions_line
from benchmarks.wire.measure import EXTRA, SUBJECT, Effort, Figures
from benchmarks.wire.rows import ABSOLUTE, Goal, Metric, Row

_SHARES = (Metric.BROKER_SHARE, Metric.PEERS_SHARE, Metric.OTHER_SHARE)
# The kernel's network thread has a sixth of it with large messages.
_QUIET_MACHINE = 0.25
_LEGEND = (
    "% of a CPU: used by the broker, by its peers, and by others (the kernel's own threads, too)",
    "*  the peers had more of the one CPU than the broker: they bound this throughput, and the",
    "   broker's CPU a request tells more",
    "!  others used more than a quarter of a CPU: measure again when the machine is quiet",
)


@dataclass(frozen=True)
class Outcome:
    """A goal, and how near to it the wire engine came; ``None`` if there is no such figure."""

    row: Row
    goal: Goal
    value: float | None
    bounded: str = ""

    @property
    def met(self) -> bool:
        return self.value is not None and self.goal.limit.cleared(self.value)

    def __str__(self) -> str:
        aim = f" (aim {self.goal.aim:.2f})" if self.goal.aim is not None else ""
        title = f"{self.row.key}  {self.goal.metric} {self.goal.limit}{aim}"
        if self.value is None:
            return f"{title}: not known"
        return f"{title}: {'met' if self.met else 'missed'}, {text_of(self.value)}{self.bounded}"


def judge(figures: Figures, rows: Iterable[Row]) -> tuple[Outcome, ...]:
    """All goals of the rows, in their order."""
    return tuple(
        Outcome(
            row,
            goal,
            _value(figures, row, SUBJECT, goal.metric),
            _bounded(figures, row, goal.metric),
        )
        for row in rows
        for goal in row.goals
    )


def lines(
    figures: Figures, outcomes: tuple[Outcome, ...], effort: Effort, cpu: int
) -> Iterator[str]:
    """The whole report, line by line."""
    yield processor()
    yield versions_line()
    yield f"medians of {effort.runs} interleaved runs of {effort.seconds:g} s"
    for name, reason in figures.absent.items():
        yield f"not here: {name}: {reason}"
    yield ""
    yield f"Absolute: {BASELINE}. The others: as a multiple of it, but for rows with a =."
    yield " " * 44 + "".join(f"{name:>17}" for name in figures.names)
    for row in effort.rows:
        where = "libzmq's peers, any CPU" if row.libzmq_peers else f"raw peers, all on CPU {cpu}"
        yield ""
        yield f"{row.key}  {row.title}; {where}"
        if row.key in figures.left_out:
            yield f"     left out: {figures.left_out[row.key]}"
        else:
            yield from _row(figures, row)
    yield from ("", *_LEGEND)
    if figures.failed:
        yield from ("", "Failed:")
        for name, key, reason in figures.failed:
            yield f"  {key}  {name}: {reason}"
    yield from ("", f"{SUBJECT} against {BASELINE}")
    yield from (f"  {outcome}" for outcome in outcomes)


def document(
    figures: Figures, outcomes: tuple[Outcome, ...], effort: Effort, cpu: int
) -> dict[str, Any]:
    """The same as a JSON-able object, with every single round."""
    return {
        "machine": {"processor": processor(), "cpus": os.cpu_count(), "one_cpu": cpu},
        "versions": versions(),
        "runs": effort.runs,
        "seconds": effort.seconds,
        "not_here": figures.absent,
        "left_out": figures.left_out,
        "failed": [
            {"broker": name, "row": key, "reason": reason} for name, key, reason in figures.failed
        ],
        "rows": [
            {
                **{name: value for name, value in asdict(row).items() if name != "goals"},
                "metrics": [metric.name.lower() for metric in row.metrics],
                "brokers": {
                    name: [
                        {metric.name.lower(): value for metric, value in one.items()}
                        for one in rounds
                    ]
                    for name, rounds in of_row.items()
                },
            }
            for row, of_row in figures.rounds.items()
        ],
        "goals": [
            {
                "row": outcome.row.key,
                "metric": outcome.goal.metric.name.lower(),
                "limit": outcome.goal.limit.value,
                "aim": outcome.goal.aim,
                "value": outcome.value,
                "met": outcome.met,
            }
            for outcome in outcomes
        ],
    }


def failures(figures: Figures) -> list[str]:
    """What makes a run worthless: a broker that failed, unless it is the extra."""
    absent = [
        f"{name} did not start: {reason}"
        for name, reason in figures.absent.items()
        if name not in (SUBJECT, EXTRA)
    ]
    return absent + [
        f"{name} failed in row {key}: {reason}"
        for name, key, reason in figures.failed
        if name != EXTRA
    ]


def _row(figures: Figures, row: Row) -> Iterator[str]:
    for metric in row.metrics:
        columns = []
        for name in figures.names:
            value = _value(figures, row, name, metric)
            if name == BASELINE:
                value = figures.median(row, name, metric)
            bound = metric == Metric.THROUGHPUT and _peers_had_more(figures, row, name)
            text = "-" if value is None else text_of(value)
            columns.append(f"{text:>15}{'*' if bound else '':<2}")
        sign = "=" if metric in ABSOLUTE else " "
        yield f"   {sign} {metric:<39}" + "".join(columns).rstrip()
    shares = "".join(f"{_shares(figures, row, name):>17}" for name in figures.names)
    yield f"     {'% of a CPU: broker/peers/others':<39}{shares.rstrip()}"


def _shares(figures: Figures, row: Row, name: str) -> str:
    of_all = [figures.median(row, name, share) for share in _SHARES]
    text = "/".join("-" if one is None else f"{max(0, 100 * one):.0f}" for one in of_all)
    disturbed = (of_all[-1] or 0) > _QUIET_MACHINE
    return text + ("! " if disturbed else "  ")


def _value(figures: Figures, row: Row, name: str, metric: Metric) -> float | None:
    if metric in ABSOLUTE:
        return figures.median(row, name, metric)
    return figures.ratio(row, name, metric)


def _peers_had_more(figures: Figures, row: Row, name: str) -> bool:
    broker, peers, _ = (figures.median(row, name, share) for share in _SHARES)
    return not row.libzmq_peers and broker is not None and peers is not None and peers > broker


def _bounded(figures: Figures, row: Row, metric: Metric) -> str:
    """What the peers' own cost allows at most, where all share one CPU."""
    peers = figures.median(row, BASELINE, Metric.PEERS_SHARE)
    if row.libzmq_peers or not peers or metric not in (Metric.THROUGHPUT, Metric.P50):
        return ""
    text = f"; with peers like these {1 / peers if metric == Metric.THROUGHPUT else peers:.2f}"
    text += " is what a broker that costs nothing would reach"
    if _peers_had_more(figures, row, SUBJECT):
        text += ", and they had more of the CPU than the broker: judge by its CPU a request"
    return text
