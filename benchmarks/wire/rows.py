"""What is measured: the rows, the figures of each, and what the wire engine is to reach."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from benchmarks.verdict import Limit

KIB, MIB = 1 << 10, 1 << 20


class Metric(StrEnum):
    """A figure of one broker in one row."""

    THROUGHPUT = "throughput, requests/s"
    CPU = "broker's CPU, µs a request"
    P50 = "round trip p50, µs"
    P99 = "round trip p99, µs"
    PEAK = "broker's peak memory, MiB more"
    IDLE_MEMORY = "broker's memory, bytes an idle client"
    WITH_IDLE = "throughput with them, of without"
    CPU_WITH_IDLE = "CPU a request with them, of without"
    WATCHED = "throughput watched, of unwatched"
    OF_IDEAL = "throughput, of the ideal"
    BROKER_SHARE = "broker, of one CPU"
    PEERS_SHARE = "peers, of one CPU"
    OTHER_SHARE = "others, of one CPU"


ABSOLUTE = frozenset(
    {
        *(Metric.IDLE_MEMORY, Metric.WITH_IDLE, Metric.CPU_WITH_IDLE),
        *(Metric.WATCHED, Metric.OF_IDEAL),
    }
)
"""Shown and judged as they are, not as a multiple of the baseline's."""


@dataclass(frozen=True)
class Goal:
    """What the wire engine must reach, and what it should."""

    metric: Metric
    limit: Limit
    aim: float | None = None


@dataclass(frozen=True)
class Row:
    """One kind of load.

    Raw peers are on the broker's CPU, those of libzmq are where the kernel puts them. A raw client
    begins new requests once it may begin ``together`` of them, in one write. ``service_us`` is how
    long each worker takes for a request, where it does take time. ``idle`` more clients are
    connected for a second window, or with ``watched`` everything that looks at zqueued is.
    """

    key: str
    title: str
    body_bytes: int
    clients: int
    outstanding: int
    workers: int
    metrics: tuple[Metric, ...]
    goals: tuple[Goal, ...] = ()
    together: int = 1
    libzmq_peers: bool = False
    idle: int = 0
    service_us: tuple[int, ...] = ()
    watched: bool = False

    @property
    def socket_type(self) -> str:
        """Of the clients."""
        return "REQ" if self.clients == self.outstanding == 1 else "DEALER"

    @property
    def ideal(self) -> float:
        """Requests per second if no worker that takes time is ever idle."""
        return sum(1e6 / service for service in self.service_us)


def _at_least(metric: Metric, limit: float, aim: float | None = None) -> Goal:
    return Goal(metric, Limit(limit, more_is_better=True), aim)


def _at_most(metric: Metric, limit: float, aim: float | None = None) -> Goal:
    return Goal(metric, Limit(limit, more_is_better=False), aim)


_LOAD = (Metric.THROUGHPUT, Metric.CPU)
_TRIP = (Metric.P50, Metric.P99, Metric.CPU)


def rows(idle: int) -> tuple[Row, ...]:
    """All rows; ``idle`` is the number of idle clients in the row that has them."""
    return (
        Row(
            *("a", "64 B, 16 clients × 16, 2 workers", 64, 16, 16, 2, _LOAD),
            (_at_least(Metric.THROUGHPUT, 2.0, aim=2.3), _at_most(Metric.CPU, 0.35)),
            together=16,
        ),
        Row(
            *("b", "64 B, 1 REQ, 1 REP", 64, 1, 1, 1, _TRIP),
            (_at_most(Metric.P50, 0.5, aim=0.42), _at_most(Metric.P99, 0.7)),
        ),
        Row(
            *("c", "4 KiB, 16 clients × 4, 2 workers", 4 * KIB, 16, 4, 2, _LOAD),
            (_at_least(Metric.THROUGHPUT, 2.8, aim=3.5),),
            together=4,
        ),
        Row(
            *("d", "256 KiB, 4 clients × 2, 2 workers", 256 * KIB, 4, 2, 2, _LOAD),
            (_at_least(Metric.THROUGHPUT, 1.15),),
        ),
        Row(
            *("e", "4 MiB, 2 clients × 2, 2 workers", 4 * MIB, 2, 2, 2, (*_LOAD, Metric.PEAK)),
            (_at_least(Metric.THROUGHPUT, 1.2),),
        ),
        Row(
            *("f", "64 B, 1,000 clients × 1, 2 workers", 64, 1000, 1, 2, (*_LOAD, *_TRIP[:2])),
            (_at_least(Metric.THROUGHPUT, 1.5),),
        ),
        Row(
            *("g", "64 B, 10 clients × 50, 2 workers", 64, 10, 50, 2, _LOAD),
            (_at_least(Metric.THROUGHPUT, 1.6), _at_most(Metric.CPU, 0.2)),
            libzmq_peers=True,
        ),
        Row(
            *("h", "64 B, 1 REQ, 1 REP", 64, 1, 1, 1, _TRIP),
            (_at_most(Metric.P50, 0.65),),
            libzmq_peers=True,
        ),
        Row(
            *("i", f"as a, with {idle:,} idle clients", 64, 16, 16, 2),
            (Metric.IDLE_MEMORY, Metric.WITH_IDLE, Metric.CPU_WITH_IDLE),
            # Less than 3 % cannot be told from noise.
            (
                _at_most(Metric.IDLE_MEMORY, 1024),
                _at_least(Metric.WITH_IDLE, 0.97),
                _at_most(Metric.CPU_WITH_IDLE, 1.03),
            ),
            together=16,
            idle=idle,
        ),
        Row(
            *("j", "64 B, 8 clients × 1, workers of 1 ms and 100 ms", 64, 8, 1, 2),
            (Metric.OF_IDEAL, *_TRIP[:2]),
            (_at_least(Metric.OF_IDEAL, 0.9),),
            service_us=(1_000, 100_000),
        ),
        Row(
            *("k", "as a, scraped, with top and a tap open", 64, 16, 16, 2, (Metric.WATCHED,)),
            (_at_least(Metric.WATCHED, 0.97),),
            together=16,
            watched=True,
        ),
    )
