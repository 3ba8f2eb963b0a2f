"""The brokers that are compared, each started as a process on a CPU of its own."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bare import DEVICES
from zqueue.control.client import ControlClient, Refused, Unreachable

BASELINE = "zmq.proxy"
ZQUEUED = "zqueued"
NAMES = (*DEVICES, ZQUEUED)
"""All brokers in the order in which they take turns."""

_START_WITHIN = 20.0

_CONFIG = """\
[control]
endpoint = "ipc://{folder}/control.sock"

[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
"""


class BrokerError(Exception):
    """A broker did not start, or ended by itself; the message has what it last said."""


@dataclass(frozen=True)
class Broker:
    """A running broker."""

    name: str
    pid: int
    frontend: str
    backend: str


@contextlib.contextmanager
def running(name: str, cpu: int) -> Iterator[Broker]:
    """Run one broker, all its threads on ``cpu``; kill it at the end.

    Raises:
        BrokerError: it did not start, or has ended before it was told to.
    """
    with tempfile.TemporaryDirectory(prefix="zq-bench-") as folder:
        log_path = Path(folder) / "log"
        command = _zqueued(Path(folder)) if name == ZQUEUED else _bare(name)
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
            )
        try:
            try:
                if name == ZQUEUED:
                    endpoints = _ask_zqueued(process, f"ipc://{folder}/control.sock")
                else:
                    endpoints = _read_endpoints(process)
                yield Broker(name, process.pid, *endpoints)
            finally:
                ended = process.poll()
            if ended is not None:
                raise BrokerError(f"it ended with exit code {ended} while it was measured")
        except Exception as error:
            said = log_path.read_text(errors="replace").strip()
            raise BrokerError(f"{name}: {error}" + (f"\n{said[-2000:]}" if said else "")) from error
        finally:
            process.kill()
            process.communicate()


def _bare(name: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.bare", name]


def _zqueued(folder: Path) -> list[str]:
    config = folder / "zqueue.toml"
    config.write_text(_CONFIG.format(folder=folder))
    return [sys.executable, "-m", "zqueue.cli.zqueued", "--config", str(config)]


def _read_endpoints(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(_START_WITHIN):
            raise BrokerError(f"it was not ready within {_START_WITHIN:g} s")
    endpoints = process.stdout.readline().decode().split()
    if len(endpoints) != 2:
        raise BrokerError("it did not start")
    return endpoints[0], endpoints[1]


def _ask_zqueued(process: subprocess.Popen[bytes], control: str) -> tuple[str, str]:
    deadline = time.monotonic() + _START_WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(Unreachable, Refused), ControlClient(control) as client:
            status = client.status()
            if status.state == "running":
                return status.queues[0].frontend[0], status.queues[0].backend[0]
        time.sleep(0.02)
    raise BrokerError("it did not start")
