"""Round trip: a plain REQ and a plain REP of libzmq, one request outstanding."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import zmq

from benchmarks import cpu

_WARM_UP = 200
_REPLY_WITHIN_MS = 20_000


@dataclass(frozen=True)
class RoundTrips:
    """What one round gave: nanoseconds of each round trip, sorted."""

    nanoseconds: list[int]
    used: cpu.Sample

    def quantile(self, q: float) -> float:
        """The round trip, in microseconds, that the share ``q`` of all did not exceed."""
        return (
            self.nanoseconds[min(len(self.nanoseconds) - 1, int(q * len(self.nanoseconds)))] / 1e3
        )


@dataclass(frozen=True)
class Asker:
    """Job: one REQ that asks ``requests`` times, after a warm-up."""

    endpoint: str
    broker_pid: int
    workers_pid: int
    cpus: frozenset[int]
    body_bytes: int
    requests: int

    def run(self, ready: Callable[[], None], orders: Connection) -> RoundTrips:
        body = os.urandom(self.body_bytes)
        with zmq.Context() as context, context.socket(zmq.REQ) as req:
            req.linger = 0
            req.rcvtimeo = req.sndtimeo = _REPLY_WITHIN_MS
            req.connect(self.endpoint)
            for _ in range(_WARM_UP):
                req.send(body)
                if req.recv() != body:
                    raise ConnectionError("a reply is not what was asked")
            took = []
            before = self._sample()
            for _ in range(self.requests):
                begin = time.perf_counter_ns()
                req.send(body)
                req.recv()
                took.append(time.perf_counter_ns() - begin)
            used = before.until(self._sample())
        return RoundTrips(sorted(took), used)

    def _sample(self) -> cpu.Sample:
        return cpu.Sample.take(self.broker_pid, (os.getpid(), self.workers_pid), self.cpus)


@dataclass(frozen=True)
class Answerer:
    """Job: one REP that echoes until told to stop."""

    endpoint: str

    def run(self, ready: Callable[[], None], orders: Connection) -> None:
        with zmq.Context() as context, context.socket(zmq.REP) as rep:
            rep.linger = 0
            rep.connect(self.endpoint)
            ready()
            poller = zmq.Poller()
            poller.register(rep, zmq.POLLIN)
            poller.register(orders.fileno(), zmq.POLLIN)
            while True:
                readable = dict(poller.poll())
                if rep in readable:
                    rep.send(rep.recv())
                elif readable:
                    orders.recv()
                    return
