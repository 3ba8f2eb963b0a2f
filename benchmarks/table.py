"""The tables that people read, and the JSON that scripts read."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import zmq

import zqueue
from benchmarks.brokers import BASELINE
from benchmarks.cpu import Placement
from benchmarks.grid import NAMES, Cell, Effort, Figures, RoundTrip, Throughput
from benchmarks.verdict import Bar

T = TypeVar("T")

_LEGEND = (
    "*  the broker was busy for less than 90 % of the time: the load generator (or with !, what",
    "   else ran) set the pace, and the throughput is no limit of the broker; its CPU figure holds",
    "!  something that is no part of the benchmark used more than 10 % of a CPU meanwhile",
)


_TRIP_FIGURES: dict[str, Callable[[RoundTrip], float]] = {
    "Round trip p50, µs: one REQ, one REP (less is better)": lambda one: one.p50_us,
    "Round trip p99, µs": lambda one: one.p99_us,
    "Broker CPU, µs a round trip": lambda one: one.cpu_us_per_request,
}


def processor() -> str:
    """The model, as /proc/cpuinfo has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions() -> dict[str, str]:
    """Of all that has a part in the figures."""
    return {
        "zqueued": zqueue.__version__,
        "libzmq": zmq.zmq_version(),
        "pyzmq": zmq.__version__,
        "python": platform.python_version(),
        "linux": platform.release(),
    }


def versions_line() -> str:
    """The same, for a report."""
    return ", ".join(f"{name} {version}" for name, version in versions().items())


def text_of(value: float) -> str:
    """A figure as a table shows it."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.2f}"


def lines(
    figures: Figures, bars: tuple[Bar, ...], effort: Effort, placement: Placement
) -> Iterator[str]:
    """The whole report, line by line."""
    yield (
        f"{processor()}; broker on CPU {placement.broker}, clients on {placement.clients}, "
        f"workers on {placement.workers}"
    )
    yield versions_line()
    yield (
        f"medians of {effort.runs} interleaved runs of {effort.seconds:g} s, "
        f"{effort.round_trips} round trips"
    )
    if len(placement.cpus) < 2:
        yield "there is only one CPU: broker and load share it, and no throughput means much"
    yield ""
    yield f"Absolute: {BASELINE}. The others: as a multiple of it."
    for title, figure, marks in (
        ("Throughput, requests/s (more is better)", _requests_per_second, _marks),
        ("Broker CPU, µs a request (less is better)", _cpu, _no_marks),
    ):
        yield from _table(title, figures.throughput, str, figure, marks)
    for title, trip_figure in _TRIP_FIGURES.items():
        yield from _table(title, figures.round_trip, _message, trip_figure, _trip_marks)
    marked = [
        *(_marks(one) for of_cell in figures.throughput.values() for one in of_cell.values()),
        *(_trip_marks(one) for of_cell in figures.round_trip.values() for one in of_cell.values()),
    ]
    if any(marked):
        yield from ("", *_LEGEND)
        disturbed = sum("!" in marks for marks in marked)
        if disturbed:
            yield f"   ({disturbed} of {len(marked)} figures: measure again on a quiet machine)"
    yield from ("", f"zqueued against {BASELINE}", *(f"  {bar}" for bar in bars))


def document(
    figures: Figures, bars: tuple[Bar, ...], effort: Effort, placement: Placement
) -> dict[str, Any]:
    """The same as a JSON-able object."""
    return {
        "machine": {
            "processor": processor(),
            "cpus": os.cpu_count(),
            "broker_cpu": placement.broker,
            "clients_cpu": placement.clients,
            "workers_cpu": placement.workers,
        },
        "versions": versions(),
        "runs": effort.runs,
        "seconds": effort.seconds,
        "throughput": [
            {
                **asdict(cell),
                "window": cell.window,
                "brokers": {
                    name: {
                        **asdict(one),
                        "generator_bound": one.generator_bound,
                        "disturbed": one.disturbed,
                    }
                    for name, one in of_cell.items()
                },
            }
            for cell, of_cell in figures.throughput.items()
        ],
        "round_trip": [
            {
                "body_bytes": cell.body_bytes,
                "brokers": {
                    name: {**asdict(one), "disturbed": one.disturbed}
                    for name, one in of_cell.items()
                },
            }
            for cell, of_cell in figures.round_trip.items()
        ],
        "bars": [
            {
                "name": bar.name,
                "limit": bar.limit.value,
                "met": bool(bar.ratios) and not bar.missed,
                "geometric_mean": bar.mean if bar.ratios else None,
                "worst": bar.worst[1] if bar.ratios else None,
                "worst_cell": bar.worst[0] if bar.ratios else None,
                "left_out": bar.left_out,
            }
            for bar in bars
        ],
    }


def _table(
    title: str,
    cells: dict[Cell, dict[str, T]],
    label: Callable[[Cell], str],
    figure: Callable[[T], float],
    marks: Callable[[T], str],
) -> Iterator[str]:
    yield from ("", title)
    yield " " * 34 + "".join(f"{name:>17}" for name in NAMES)
    for cell, of_cell in cells.items():
        baseline = figure(of_cell[BASELINE])
        columns = []
        for name in NAMES:
            value = figure(of_cell[name])
            text = text_of(value) if name == BASELINE else f"{value / baseline:.2f}"
            columns.append(f"{text:>15}{marks(of_cell[name]):<2}")
        yield f"  {label(cell):<32}" + "".join(columns).rstrip()


def _message(cell: Cell) -> str:
    return cell.message


def _requests_per_second(one: Throughput) -> float:
    return one.requests_per_second


def _cpu(one: Throughput) -> float:
    return one.cpu_us_per_request


def _marks(one: Throughput) -> str:
    return ("*" if one.generator_bound else "") + ("!" if one.disturbed else "")


def _trip_marks(one: RoundTrip) -> str:
    return "!" if one.disturbed else ""


def _no_marks(_: object) -> str:
    return ""
