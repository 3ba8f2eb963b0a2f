"""What is measured: the cells of the grid, the rounds in turn, the medians."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from benchmarks import brokers, cpu
from benchmarks.load import Clients, Measured, Workers
from benchmarks.peers import PeerProcess
from benchmarks.round_trip import Answerer, Asker, RoundTrips

R = TypeVar("R")

NAMES = (brokers.BASELINE, "ThreadProxy", "monitored_queue", brokers.ZQUEUED)
"""The brokers of the grid, in the order in which they take turns."""

# Messages up to so many bytes: requests outstanding of all clients, of each at most.
_OUTSTANDING = ((1024, 1000, 500), (16 * 1024, 600, 200), (1 << 62, 32, 16))
_BUSY_BROKER = 0.9
_QUIET_MACHINE = 0.1
_ROUND_WITHIN = 90.0


@dataclass(frozen=True, order=True)
class Cell:
    """One kind of load: bytes a message, how many clients, how many workers."""

    body_bytes: int
    clients: int
    workers: int

    @property
    def window(self) -> int:
        """Requests that a client has outstanding: few enough for libzmq's default high-water marks
        of 1000, since beyond it a ROUTER drops replies."""
        total, each = next(
            (total, each) for below, total, each in _OUTSTANDING if self.body_bytes <= below
        )
        return max(1, min(each, total // self.clients))

    @property
    def message(self) -> str:
        """``64 B``, ``4 KiB``."""
        return (
            f"{self.body_bytes // 1024} KiB" if self.body_bytes >= 1024 else f"{self.body_bytes} B"
        )

    def __str__(self) -> str:
        plurals = "" if self.clients == 1 else "s", "" if self.workers == 1 else "s"
        return (
            f"{self.message}, {self.clients} client{plurals[0]}, {self.workers} worker{plurals[1]}"
        )


GRID = tuple(
    Cell(body_bytes, clients, workers)
    for body_bytes in (64, 4 << 10, 256 << 10)
    for clients in (1, 10, 200)
    for workers in (1, 4)
)
QUICK = (Cell(64, 1, 1), Cell(64, 200, 4), Cell(4 << 10, 10, 4))


@dataclass(frozen=True)
class Effort:
    """How much to measure."""

    cells: tuple[Cell, ...]
    runs: int
    seconds: float
    warm_up: float
    round_trips: int


@dataclass(frozen=True)
class Throughput:
    """One broker in one cell. ``broker_cpu`` and ``other_cpu`` (what neither broker, clients nor
    workers used) are shares of one CPU; ``sent`` and ``answered`` are of all runs, whole."""

    requests_per_second: float
    cpu_us_per_request: float
    broker_cpu: float
    other_cpu: float
    sent: int
    answered: int

    @property
    def generator_bound(self) -> bool:
        """The broker had time to spare: what limited it was not itself."""
        return self.broker_cpu < _BUSY_BROKER

    @property
    def disturbed(self) -> bool:
        """Something else ran on the same CPUs."""
        return self.other_cpu > _QUIET_MACHINE

    @classmethod
    def of(cls, rounds: list[Measured]) -> Throughput:
        """The median of each figure."""
        return cls(
            statistics.median(one.answered / one.used.time * 1e9 for one in rounds),
            statistics.median(one.used.broker / one.answered / 1e3 for one in rounds),
            statistics.median(one.used.broker / one.used.time for one in rounds),
            statistics.median(one.used.by_others for one in rounds),
            sum(one.total_sent for one in rounds),
            sum(one.total_answered for one in rounds),
        )


@dataclass(frozen=True)
class RoundTrip:
    """One broker, one REQ, one REP: medians over the runs, in microseconds. ``other_cpu`` is as in
    :class:`Throughput`."""

    p50_us: float
    p99_us: float
    cpu_us_per_request: float
    other_cpu: float

    @property
    def disturbed(self) -> bool:
        """Something else ran on the same CPUs."""
        return self.other_cpu > _QUIET_MACHINE

    @classmethod
    def of(cls, rounds: list[RoundTrips]) -> RoundTrip:
        return cls(
            statistics.median(one.quantile(0.5) for one in rounds),
            statistics.median(one.quantile(0.99) for one in rounds),
            statistics.median(one.used.broker / len(one.nanoseconds) / 1e3 for one in rounds),
            statistics.median(one.used.by_others for one in rounds),
        )


@dataclass(frozen=True)
class Figures:
    """All that was measured, by cell and by the broker's name."""

    throughput: dict[Cell, dict[str, Throughput]]
    round_trip: dict[Cell, dict[str, RoundTrip]]

    def lost(self) -> Iterable[tuple[str, Cell, int]]:
        """Brokers that left requests unanswered, where, and how many."""
        for cell, by_broker in self.throughput.items():
            for name, figures in by_broker.items():
                if figures.sent != figures.answered:
                    yield name, cell, figures.sent - figures.answered


def measure(effort: Effort, placement: cpu.Placement, say: Callable[[str], None]) -> Figures:
    """Measure every broker in every cell; ``say`` is told what comes next.

    The brokers take turns within each cell, so that what the machine does meanwhile hits all
    alike, and each round has a fresh broker.

    Raises:
        BrokerError: a broker failed.
        PeerError: the clients or the workers did.
    """
    smallest: dict[int, Cell] = {}
    for cell in effort.cells:
        smallest.setdefault(cell.body_bytes, Cell(cell.body_bytes, 1, 1))
    figures = Figures({}, {})
    steps = len(effort.cells) + len(smallest)
    with (
        PeerProcess("clients", placement.clients) as clients,
        PeerProcess("workers", placement.workers) as workers,
    ):
        rounds = _Rounds(effort, placement, clients, workers)
        for step, cell in enumerate(effort.cells, 1):
            say(f"{step} of {steps}: throughput, {cell}")
            loads = rounds.in_turn(functools.partial(rounds.load, cell))
            figures.throughput[cell] = {
                name: Throughput.of(results) for name, results in loads.items()
            }
        for step, cell in enumerate(smallest.values(), len(effort.cells) + 1):
            say(f"{step} of {steps}: round trip, {cell.message}")
            trips = rounds.in_turn(functools.partial(rounds.round_trips, cell))
            figures.round_trip[cell] = {
                name: RoundTrip.of(results) for name, results in trips.items()
            }
    return figures


@dataclass(frozen=True)
class _Rounds:
    """Plays single rounds with the two peer processes."""

    effort: Effort
    placement: cpu.Placement
    clients: PeerProcess
    workers: PeerProcess

    def in_turn(self, play: Callable[[brokers.Broker], R]) -> dict[str, list[R]]:
        """A, B, C, D, A, B, …, each as a fresh process."""
        results: dict[str, list[R]] = {name: [] for name in NAMES}
        for _ in range(self.effort.runs):
            for name, of_broker in results.items():
                with brokers.running(name, {self.placement.broker}) as broker:
                    of_broker.append(play(broker))
        return results

    def load(self, cell: Cell, broker: brokers.Broker) -> Measured:
        workers = self.workers.begin(Workers(broker.backend, cell.workers))
        workers.wait_ready()
        clients = self.clients.begin(
            Clients(
                broker.frontend,
                broker.pid,
                self.workers.pid,
                self.placement.cpus,
                cell.body_bytes,
                cell.clients,
                cell.window,
                self.effort.warm_up,
                self.effort.seconds,
            )
        )
        measured = clients.result(self.effort.seconds + _ROUND_WITHIN)
        workers.stop()
        workers.result()
        return measured

    def round_trips(self, cell: Cell, broker: brokers.Broker) -> RoundTrips:
        worker = self.workers.begin(Answerer(broker.backend))
        worker.wait_ready()
        trips = self.clients.begin(
            Asker(
                broker.frontend,
                broker.pid,
                self.workers.pid,
                self.placement.cpus,
                cell.body_bytes,
                self.effort.round_trips,
            )
        ).result()
        worker.stop()
        worker.result()
        return trips
