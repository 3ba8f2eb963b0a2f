"""The rounds in turn, and the medians."""

from __future__ import annotations

import contextlib
import resource
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import brokers, memory, native
from benchmarks.peers import PeerError
from benchmarks.wire.peers import Peers, Window, idle_clients, libzmq_peers, raw_peers
from benchmarks.wire.rows import MIB, Metric, Row
from benchmarks.wire.watchers import watchers

SUBJECT = brokers.ZQUEUED_WIRE
EXTRA = "pyomq"
NAMES = (brokers.BASELINE, brokers.ZQUEUED_LIBZMQ, SUBJECT, EXTRA)
"""The brokers, in the order in which they take turns."""

# What the broker and this process have open besides, with all that zqueued keeps back.
_DESCRIPTORS_BESIDES = 2000

# So long it takes top to start.
_WATCHED_FOR = 2.0

Round = dict[Metric, float]


@dataclass(frozen=True)
class Effort:
    """How much to measure."""

    rows: tuple[Row, ...]
    runs: int
    seconds: float
    warm_up: float


@dataclass
class Figures:
    """All that was measured, by row and by the broker's name, and what was not, and why."""

    rounds: dict[Row, dict[str, list[Round]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Rows, by key."""
    failed: list[tuple[str, str, str]] = field(default_factory=list)
    """Name of the broker, key of the row, what was wrong."""

    @property
    def names(self) -> tuple[str, ...]:
        """The brokers that are here."""
        return tuple(name for name in NAMES if name not in self.absent)

    def median(self, row: Row, name: str, metric: Metric) -> float | None:
        """``None`` if there is no such figure."""
        rounds = self.rounds.get(row, {}).get(name)
        return statistics.median(one[metric] for one in rounds) if rounds else None

    def ratio(self, row: Row, name: str, metric: Metric) -> float | None:
        """The same as a multiple of the baseline's."""
        mine = self.median(row, name, metric)
        baseline = self.median(row, brokers.BASELINE, metric)
        return mine / baseline if mine is not None and baseline else None


def measure(effort: Effort, cpu: int, cpus: Iterable[int], say: Callable[[str], None]) -> Figures:
    """Measure every broker that is here in every row; ``say`` is told what comes next.

    Rows with raw peers are on ``cpu`` alone, broker and all; those with libzmq's peers on ``cpus``.

    Raises:
        CannotBuild: there is no C compiler.
        BrokerError: the baseline does not start.
    """
    with tempfile.TemporaryDirectory(prefix="zq-bench-") as folder:
        rounds = _Rounds(effort, cpu, frozenset(cpus), native.build_raw_peers(Path(folder)))
        figures = Figures(absent=_absent(frozenset(cpus)))
        if brokers.BASELINE in figures.absent:
            raise brokers.BrokerError(figures.absent[brokers.BASELINE])
        for step, row in enumerate(effort.rows, 1):
            say(f"{step} of {len(effort.rows)}: {row.key}, {row.title}")
            try:
                rounds.prepare(row)
            except (native.CannotBuild, _NotEnough) as error:
                figures.left_out[row.key] = str(error)
            else:
                figures.rounds[row] = _in_turn(rounds, row, figures)
    return figures


def _absent(cpus: frozenset[int]) -> dict[str, str]:
    """Brokers that do not start here, and the last line of what they said."""
    absent = {}
    for name in NAMES:
        try:
            with brokers.running(name, cpus):
                pass
        except brokers.BrokerError as error:
            absent[name] = str(error).splitlines()[-1]
    return absent


def _in_turn(rounds: _Rounds, row: Row, figures: Figures) -> dict[str, list[Round]]:
    """A, B, C, A, B, …, each as a fresh process. One that fails is left out from there on."""
    results: dict[str, list[Round]] = {name: [] for name in figures.names}
    for _ in range(rounds.effort.runs):
        for name in list(results):
            try:
                results[name].append(rounds.play(row, name))
            except (brokers.BrokerError, PeerError) as error:
                figures.failed.append((name, row.key, str(error)))
                del results[name]
    return results


class _NotEnough(Exception):
    """This machine does not allow what a row needs."""


@dataclass
class _Rounds:
    """Plays single rounds."""

    effort: Effort
    cpu: int
    cpus: frozenset[int]
    raw_program: Path
    libzmq_program: Path | None = None

    def prepare(self, row: Row) -> None:
        """Have ready what the rounds of ``row`` need."""
        if row.libzmq_peers and self.libzmq_program is None:
            self.libzmq_program = native.build_libzmq_peers(self.raw_program.parent)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = row.clients + row.idle + _DESCRIPTORS_BESIDES
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise _NotEnough(f"it needs {needed} file descriptors (ulimit -Hn says {hard})")
        # The brokers inherit it.
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))

    def play(self, row: Row, name: str) -> Round:
        """One round of one broker.

        Raises:
            BrokerError: the broker failed.
            PeerError: the peers did, or requests were left unanswered.
        """
        cpus = self.cpus if row.libzmq_peers else frozenset({self.cpu})
        with brokers.running(name, cpus, watched=row.watched) as broker:
            before = memory.resident(broker.pid)
            with self._peers(row, broker) as peers:
                window = peers.run(self.effort.warm_up, self.effort.seconds)
                figures = _figures(row, window)
                figures[Metric.PEAK] = (memory.peak(broker.pid) - before) / MIB
                if row.idle:
                    before = memory.resident(broker.pid)
                    with idle_clients(broker, row.idle):
                        window = peers.run(self.effort.warm_up, self.effort.seconds)
                        grown = memory.resident(broker.pid) - before
                    with_them = _figures(row, window)
                    figures |= {
                        Metric.IDLE_MEMORY: grown / row.idle,
                        Metric.WITH_IDLE: (
                            with_them[Metric.THROUGHPUT] / figures[Metric.THROUGHPUT]
                        ),
                        Metric.CPU_WITH_IDLE: with_them[Metric.CPU] / figures[Metric.CPU],
                    }
                if row.watched:
                    with watchers(broker):
                        window = peers.run(_WATCHED_FOR, self.effort.seconds)
                    watched = _figures(row, window)[Metric.THROUGHPUT]
                    figures[Metric.WATCHED] = watched / figures[Metric.THROUGHPUT]
        if window.sent != window.total_answered:
            raise PeerError(f"{window.sent - window.total_answered} requests left unanswered")
        return figures

    @contextlib.contextmanager
    def _peers(self, row: Row, broker: brokers.Broker) -> Iterator[Peers]:
        try:
            if row.libzmq_peers:
                assert self.libzmq_program is not None
                with libzmq_peers(self.libzmq_program, row, broker) as peers:
                    yield peers
            else:
                with raw_peers(self.raw_program, row, broker, self.cpu) as peers:
                    yield peers
        except (OSError, ValueError) as error:
            raise PeerError(f"{type(error).__name__}: {error}") from error


def _figures(row: Row, window: Window) -> Round:
    used = window.used
    figures = {
        Metric.THROUGHPUT: window.answered / used.time * 1e9,
        Metric.CPU: used.broker / window.answered / 1e3,
        Metric.BROKER_SHARE: used.broker / used.time,
        Metric.PEERS_SHARE: used.peers / used.time,
        Metric.OTHER_SHARE: used.by_others,
    }
    if window.p50 is not None and window.p99 is not None:
        figures[Metric.P50], figures[Metric.P99] = window.p50 / 1e3, window.p99 / 1e3
    if row.service_us:
        figures[Metric.OF_IDEAL] = figures[Metric.THROUGHPUT] / row.ideal
    return figures
