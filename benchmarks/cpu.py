"""Which CPUs there are to use, and how much of them is used."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_WHOLE_PROCESS = 2


@dataclass(frozen=True)
class Placement:
    """The CPU of each process. The broker has one to itself where there are two or more."""

    broker: int
    clients: int
    workers: int

    @property
    def cpus(self) -> frozenset[int]:
        """All that are used."""
        return frozenset((self.broker, self.clients, self.workers))


def place() -> Placement:
    """The last CPU that this process may use is the broker's; clients and workers share one only
    if there are less than three."""
    *others, broker = sorted(os.sched_getaffinity(0))
    others = others or [broker]
    return Placement(broker, clients=others[0], workers=others[-1])


@dataclass(frozen=True)
class Sample:
    """What had been used at one moment, in nanoseconds; two of them make a window."""

    time: int
    broker: int
    peers: int
    busy: int

    @classmethod
    def take(cls, broker: int, peers: Iterable[int], cpus: Iterable[int]) -> Sample:
        """``broker`` and ``peers`` are process ids, ``cpus`` the CPUs that they are on."""
        return cls(
            time.monotonic_ns(), used_by(broker), sum(map(used_by, peers)), _busy(frozenset(cpus))
        )

    def until(self, end: Sample) -> Sample:
        """What was used from this sample to ``end``."""
        return Sample(
            end.time - self.time,
            end.broker - self.broker,
            end.peers - self.peers,
            end.busy - self.busy,
        )

    @property
    def by_others(self) -> float:
        """In a window: what neither broker nor peers used of their CPUs, as a share of one CPU."""
        return (self.busy - self.broker - self.peers) / self.time


def used_by(pid: int) -> int:
    """Nanoseconds of CPU, user and system, that all threads of a process have used.

    The clock is that of ``clock_getcpuclockid(3)``, which Python lacks: exact, where
    ``/proc/PID/stat`` counts in ticks of 10 ms.
    """
    return time.clock_gettime_ns((~pid << 3) | _WHOLE_PROCESS)


def _busy(cpus: frozenset[int]) -> int:
    """Nanoseconds that these CPUs were not idle, stolen ones included; proc_stat(5)."""
    names = {f"cpu{number}" for number in cpus}
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *columns = line.split()
        if name in names:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, columns[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
