"""The processes that play clients and workers: see ``benchmarks/native``."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import zmtp
from benchmarks.brokers import Broker
from benchmarks.child import read_line
from benchmarks.cpu import Sample
from benchmarks.peers import PeerError
from benchmarks.wire.rows import Row

_RUN_WITHIN = 90.0


@dataclass(frozen=True)
class Window:
    """What one measured window gave. ``answered`` counts parts of requests, too; ``sent`` and
    ``total_answered`` are of all windows so far and what was around them. Nanoseconds."""

    used: Sample
    answered: float
    sent: int
    total_answered: int
    p50: int | None
    p99: int | None


class Peers:
    """Clients and workers of one broker, connected and ready to begin."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def run(self, warm_up: float, seconds: float) -> Window:
        """Keep the broker busy for so long, and measure after the warm-up.

        Raises:
            PeerError: the clients or the workers failed, or no request was answered.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # What it last said tells more.
            self._process.stdin.write(f"{warm_up} {seconds}\n".encode())
            self._process.stdin.flush()
        try:
            line = read_line(self._process, warm_up + seconds + _RUN_WITHIN)
        except TimeoutError as error:
            raise PeerError(f"clients and workers: {error}") from error
        if not line:
            _, said = self._process.communicate()
            raise PeerError(f"clients and workers: {said.decode(errors='replace').strip()}")
        result = json.loads(line)
        if not result["answered"]:
            raise PeerError(f"not one request was answered in {seconds:g} s")
        return Window(
            Sample(*(result[name] for name in ("time", "broker", "peers", "busy"))),
            result["answered"],
            result["sent"],
            result["total_answered"],
            result.get("p50"),
            result.get("p99"),
        )


@contextlib.contextmanager
def raw_peers(program: Path, row: Row, broker: Broker, cpu: int) -> Iterator[Peers]:
    """Peers without libzmq: one thread, on ``cpu``. The connections are opened here."""
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(zmtp.connect(broker.backend, "REP")).fileno()
            for _ in range(row.workers)
        ]
        clients = [
            stack.enter_context(zmtp.connect(broker.frontend, row.socket_type)).fileno()
            for _ in range(row.clients)
        ]
        served = [str(fd) for fd in workers]
        if row.service_us:
            served = [f"{fd}:{us}" for fd, us in zip(workers, row.service_us, strict=True)]
        command = [
            *(str(program), str(broker.pid), _request_file(program, zmtp.request(_body(row)))),
            *(str(row.outstanding), str(row.together)),
            *(",".join(map(str, clients)), ",".join(served)),
        ]
        yield stack.enter_context(
            _started(command, lambda: os.sched_setaffinity(0, {cpu}), (*clients, *workers))
        )


@contextlib.contextmanager
def libzmq_peers(program: Path, row: Row, broker: Broker) -> Iterator[Peers]:
    """Peers of libzmq, on any CPU."""
    command = [
        *(str(program), str(broker.pid), _request_file(program, _body(row)), str(row.outstanding)),
        *(broker.frontend, str(row.clients), broker.backend, str(row.workers)),
    ]
    with _started(command) as peers:
        yield peers


@contextlib.contextmanager
def idle_clients(broker: Broker, count: int) -> Iterator[None]:
    """So many more clients that are connected and say nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(zmtp.connect(broker.frontend, "DEALER"))
        yield


@contextlib.contextmanager
def _started(
    command: list[str], first: Callable[[], None] | None = None, descriptors: tuple[int, ...] = ()
) -> Iterator[Peers]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=first,
        pass_fds=descriptors,
    )
    try:
        yield Peers(process)
    finally:
        process.kill()
        process.communicate()


def _body(row: Row) -> bytes:
    return os.urandom(row.body_bytes)


def _request_file(program: Path, request: bytes) -> str:
    path = program.parent / "request"
    path.write_bytes(request)
    return str(path)
