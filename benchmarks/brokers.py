"""The brokers that are compared, each started as a process of its own, in turn."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import read_line
from zqueue.control.client import ControlClient, Refused, Unreachable

BASELINE = "zmq.proxy"
ZQUEUED = "zqueued"
ZQUEUED_LIBZMQ, ZQUEUED_WIRE = "zqueued libzmq", "zqueued wire"

_START_WITHIN = 20.0
_ENGINE_LINES = {
    ZQUEUED: "",
    ZQUEUED_LIBZMQ: 'engine = "libzmq"',
    ZQUEUED_WIRE: 'engine = "wire"',
}

_CONFIG = """\
[control]
endpoint = "ipc://{folder}/control.sock"
{watched}
[queues.default]
{engine}
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
{tapped}
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
    control: str = ""
    http: str = ""
    """Where zqueued can be watched, if it was started for that."""


@contextlib.contextmanager
def running(name: str, cpus: Collection[int], *, watched: bool = False) -> Iterator[Broker]:
    """Run one broker, all its threads on ``cpus``; kill it at the end. With ``watched``
    :data:`ZQUEUED_WIRE` serves metrics and may be tapped.

    The names are those of :data:`benchmarks.bare.DEVICES`, and the ``ZQUEUED`` ones of this module.

    Raises:
        BrokerError: it did not start, or has ended before it was told to.
    """
    with tempfile.TemporaryDirectory(prefix="zq-bench-") as folder:
        log_path = Path(folder) / "log"
        watched = watched and name == ZQUEUED_WIRE
        command = _zqueued(name, Path(folder), watched) if name in _ENGINE_LINES else _bare(name)
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            )
        try:
            try:
                if name in _ENGINE_LINES:
                    endpoints = _ask_zqueued(process, f"ipc://{folder}/control.sock")
                else:
                    endpoints = _read_endpoints(process)
                where = (f"ipc://{folder}/control.sock", f"{folder}/http.sock") if watched else ()
                yield Broker(name, process.pid, *endpoints, *where)
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


def _zqueued(name: str, folder: Path, watched: bool) -> list[str]:
    config = folder / "zqueue.toml"
    text = _CONFIG.format(
        folder=folder,
        engine=_ENGINE_LINES[name],
        watched=f'[metrics]\nlisten = "{folder}/http.sock"\n' if watched else "",
        tapped="tap = true" if watched else "",
    )
    config.write_text(text)
    return [sys.executable, "-m", "zqueue.cli.zqueued", "--config", str(config)]


def _read_endpoints(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    endpoints = read_line(process, _START_WITHIN).split()
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
