"""A real zqueued as a process on free ports, for behaviour tests."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.waiting import wait_for
from zqueue.control.client import ControlClient, Unreachable
from zqueue.control.messages import QueueStatus, StatusResult

ONE_QUEUE = """
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
"""
TWO_QUEUES = """
[queues.orders]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
[queues.other]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
"""


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


def _ports() -> Iterator[int]:
    """Ports that neither the kernel gives to anybody nor another process of these tests takes."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = range(10_000 + worker % 20 * 1_000, 11_000 + worker % 20 * 1_000)
    # Another run of the tests may be under way.
    begin = os.getpid() % len(ports)
    return itertools.cycle((*ports[begin:], *ports[:begin]))


_PORTS = _ports()


def free_port() -> int:
    """A tcp port of the loopback that nobody has just now."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable: the ports come round")


class Zqueued:
    """One daemon: its config file, its process, its log, a client of its control socket."""

    def __init__(
        self,
        folder: Path,
        config: str = ONE_QUEUE,
        *,
        engine: str = "auto",
        program: Path | None = None,
        **how: Any,
    ) -> None:
        """``program`` is a zqueued to run in place of this tree's."""
        self.folder = folder
        self._program = [str(program)] if program else [sys.executable, "-m", "zqueue.cli.zqueued"]
        self.engine = engine
        self.path = folder / "zqueue.toml"
        self.control = f"ipc://{folder}/control.sock"
        self.log_path = folder / "zqueued.log"
        self.write(config)
        self.process = self.spawn(**how)

    def write(self, config: str) -> None:
        """Write the config; the control endpoint, a verbose log, and this daemon's engine for every
        queue are put in if missing."""
        if "engine" not in config:
            config = re.sub(
                r"(?m)^(\[queues\.[^.\]]+\])$", rf'\1\nengine = "{self.engine}"', config
            )
        if "[control]" not in config:
            config = f'[control]\nendpoint = "{self.control}"\n' + config
        if "[log]" not in config:
            config = '[log]\nlevel = "debug"\nformat = "json"\n' + config
        self.path.write_text(config)

    def spawn(self, *, prefix: tuple[str, ...] = (), **how: Any) -> subprocess.Popen[bytes]:
        command = [*prefix, *self._program, "--config", str(self.path)]
        with self.log_path.open("ab") as log:
            how.setdefault("stderr", log)
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, **how)

    def wait_ready(self) -> Zqueued:
        def ready() -> bool:
            assert self.process.poll() is None, f"zqueued ended:\n{self.log_path.read_text()}"
            try:
                with self.client(timeout=2.0) as client:
                    return client.status().state == "running"
            except Unreachable:
                return False

        wait_for(ready, "zqueued to be ready")
        return self

    def client(self, timeout: float = 10.0) -> ControlClient:
        return ControlClient(self.control, timeout=timeout)

    def status(self) -> StatusResult:
        with self.client() as client:
            return client.status()

    def queue(self, name: str = "default") -> QueueStatus:
        return next(queue for queue in self.status().queues if queue.name == name)

    def frontend(self, name: str = "default") -> str:
        return self.queue(name).frontend[0]

    def backend(self, name: str = "default") -> str:
        return self.queue(name).backend[0]

    def ctl(self, *arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run zqueuectl against this daemon."""
        command = [sys.executable, "-m", "zqueue.cli.zqueuectl", "-e", self.control, *arguments]
        how.setdefault("timeout", 60)
        return subprocess.run(command, capture_output=True, text=True, **how)

    def events(self, name: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """The events in the log so far, of one name and with these fields."""
        found = []
        for line in self.log_path.read_text().splitlines(keepends=True):
            # The last one may be half written.
            if not (line.startswith("{") and line.endswith("\n")):
                continue
            event = json.loads(line)
            if name is not None and event.get("event") != name:
                continue
            if all(event.get(key) == value for key, value in fields.items()):
                found.append(event)
        return found

    def wait_event(self, name: str, **fields: Any) -> dict[str, Any]:
        return wait_for(lambda: self.events(name, **fields), f"event {name} {fields}")[-1]

    def wait_events(self, name: str, count: int) -> None:
        """Wait until an event has happened so many times."""
        wait_for(lambda: len(self.events(name)) >= count, f"{count} times event {name}")

    def upgrade(self) -> subprocess.CompletedProcess[str]:
        """``zqueued --upgrade`` for this daemon."""
        command = [*self._program, "--config", str(self.path), "--upgrade"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def pids(self) -> list[int]:
        """Of every process that runs this daemon's config: two during a hand-over."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().decode().split("\0")
                if str(self.path) in words and "--upgrade" not in words:
                    found.append(int(process.name))
        return found

    def cpu_seconds(self) -> float:
        """CPU time that the daemon's process has used so far."""
        columns = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(columns[11]) + int(columns[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, number: int = signal.SIGTERM, within: float = 20) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(within)

    def kill(self) -> None:
        """Kill it, and whatever it has handed over to."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.pids(), "zqueued to be gone")
