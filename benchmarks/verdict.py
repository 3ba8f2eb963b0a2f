"""The bars that zqueued is to clear, and whether it did."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.brokers import BASELINE, ZQUEUED
from benchmarks.grid import Cell, Figures, Throughput


@dataclass(frozen=True)
class Limit:
    """What a ratio, or a figure, is to reach."""

    value: float
    more_is_better: bool

    def cleared(self, value: float) -> bool:
        """Whether ``value`` is good enough."""
        return value >= self.value if self.more_is_better else value <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.more_is_better else '≤'} {self.value:.2f}"


@dataclass(frozen=True)
class Bar:
    """One figure of zqueued divided by that of ``zmq.proxy``, in each cell that can tell."""

    name: str
    limit: Limit
    ratios: dict[str, float]
    left_out: int = 0

    @property
    def mean(self) -> float:
        """The geometric mean."""
        return math.exp(sum(map(math.log, self.ratios.values())) / len(self.ratios))

    @property
    def worst(self) -> tuple[str, float]:
        """The worst cell and its ratio."""
        pick = min if self.limit.more_is_better else max
        return pick(self.ratios.items(), key=lambda item: item[1])

    @property
    def missed(self) -> int:
        """In how many cells."""
        return sum(not self.limit.cleared(ratio) for ratio in self.ratios.values())

    def __str__(self) -> str:
        title = f"{self.name} {self.limit}"
        if not self.ratios:
            return f"{title}: not known, in no cell did the brokers themselves set the pace"
        cell, worst = self.worst
        if not self.missed:
            outcome = "met"
        elif self.limit.cleared(self.mean):
            outcome = f"met on average, missed in {self.missed} of {len(self.ratios)} cells"
        else:
            outcome = f"missed, in {self.missed} of {len(self.ratios)} cells"
        line = f"{title}: {outcome}; geometric mean {self.mean:.3f}, worst {worst:.3f} ({cell})"
        if self.left_out:
            line += f"; {self.left_out} cells left out (* or *!)"
        return line


def judge(figures: Figures) -> tuple[Bar, ...]:
    """The bars in the order of the tables.

    A cell where ``zmq.proxy`` was not busy says nothing about throughput and is left out there. One
    where only zqueued was not busy counts, since it idled with work at hand, unless other processes
    kept the work from it.
    """
    telling = {
        cell: by_broker
        for cell, by_broker in figures.throughput.items()
        if not by_broker[BASELINE].generator_bound
        and not (by_broker[ZQUEUED].generator_bound and by_broker[ZQUEUED].disturbed)
    }
    return (
        Bar(
            "throughput",
            Limit(0.95, more_is_better=True),
            _ratios(telling, lambda of_broker: of_broker.requests_per_second),
            left_out=len(figures.throughput) - len(telling),
        ),
        Bar(
            "CPU a request",
            Limit(1.10, more_is_better=False),
            _ratios(figures.throughput, lambda of_broker: of_broker.cpu_us_per_request),
        ),
        Bar(
            "round trip p50",
            Limit(1.05, more_is_better=False),
            {
                cell.message: by_broker[ZQUEUED].p50_us / by_broker[BASELINE].p50_us
                for cell, by_broker in figures.round_trip.items()
            },
        ),
    )


def _ratios(
    cells: dict[Cell, dict[str, Throughput]], figure: Callable[[Throughput], float]
) -> dict[str, float]:
    return {
        str(cell): figure(by_broker[ZQUEUED]) / figure(by_broker[BASELINE])
        for cell, by_broker in cells.items()
    }
