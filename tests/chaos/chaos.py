"""The chaos: a daemon, its clients and workers, and what befalls them, by a seed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.clients import FINISHES_WITHIN
from tests.chaos.relay import Relay
from tests.waiting import wait_for
from tests.wire.soak import resident_bytes, sum_of
from tests.zqueued import Zqueued, free_port
from zqueue.control.messages import QueueStatus

# One that kills nobody may be beside what does, or at a worker that a fault hits, several times
# in a row: a few workers a second are lost here, each with dozens of requests.
CONFIG = """
[queues.default]
max_attempts = 8
max_frames = {max_frames}
service_timeout = "3s"
client_grace = "10s"
error_reply = "error: {{reason}}"
drain_timeout = "{drain_timeout}s"

[queues.default.frontend]
bind = "{frontend}"
heartbeat = "500ms"

[queues.default.backend]
bind = "{backend}"
heartbeat = "500ms"
"""
WORKERS = 6
STAND_STILL = (0.1, 2.0)
PAUSE_BETWEEN = (0.05, 0.6)
LOOKED_AT_EVERY = 5.0
WORKER_TYPES = ("REP", "REP", "REP", "DEALER", "ROUTER")


class Workers:
    """Worker processes, some of them behind a relay."""

    def __init__(self, direct: str, relayed: str, rng: random.Random) -> None:
        self._endpoints = (direct, relayed)
        self._rng = rng
        self.processes: list[subprocess.Popen[bytes]] = []

    def come(self) -> None:
        type, endpoint = self._rng.choice(WORKER_TYPES), self._rng.choice(self._endpoints)
        command = [sys.executable, "-m", "tests.chaos.worker", type, endpoint]
        self.processes.append(subprocess.Popen(command))

    def replace_the_dead(self) -> int:
        """Those that poison has killed, or a fault."""
        dead = [process for process in self.processes if process.poll() is not None]
        for process in dead:
            self.processes.remove(process)
            self.come()
        return len(dead)

    def one(self) -> subprocess.Popen[bytes]:
        return self._rng.choice(self.processes)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


class Chaos:
    """One run. ``counted`` tells of it, ``wrong`` is what must not be."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.counted: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest = 0.0
        self._max_frames = 1000
        self._folder = folder
        self.faults: dict[str, Callable[[], None]] = {
            "worker killed": self._kill_worker,
            "worker stopped": self._stop_worker,
            "worker cut off": self._cut_worker,
            "worker silenced": self._silence_worker,
            "client cut off": self._cut_client,
            "paused": self._pause,
            "drained": self._drain,
            "reloaded": self._reload,
            "sockets made anew": self._rebind,
            "upgraded": self._upgrade,
        }

    def run(self, seconds: float) -> None:
        self._ports = {side: f"tcp://127.0.0.1:{free_port()}" for side in ("frontend", "backend")}
        self.daemon = Zqueued(self._folder, self._config(), engine="wire").wait_ready()
        self._before_workers = Relay(self._ports["backend"])
        self._before_clients = Relay(self._ports["frontend"])
        self.workers = Workers(self._ports["backend"], self._before_workers.endpoint, self.rng)
        for _ in range(WORKERS):
            self.workers.come()
        asking = [
            self._clients("stays", self._ports["frontend"]),
            self._clients("cut", self._before_clients.endpoint, "--named"),
        ]
        try:
            self._go_on_for(seconds)
            self._finish(asking)
        finally:
            for process in asking:
                process.kill()
                process.wait()
            self.workers.end()
            self._before_workers.close()
            self._before_clients.close()
            self._end_daemon()

    def _config(self) -> str:
        # The one is applied as it is, the other one needs another engine.
        seconds, frames = self.rng.randrange(5, 30), self._max_frames
        return CONFIG.format(drain_timeout=seconds, max_frames=frames, **self._ports)

    def _clients(self, name: str, endpoint: str, *options: str) -> subprocess.Popen[bytes]:
        seed = str(self.rng.randrange(1 << 30))
        command = [sys.executable, "-m", "tests.chaos.clients", name, endpoint, "--seed", seed]
        return subprocess.Popen([*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _go_on_for(self, seconds: float) -> None:
        began = time.monotonic()
        looked_at = 0.0
        while time.monotonic() < began + seconds and not self.wrong:
            time.sleep(self.rng.uniform(*PAUSE_BETWEEN))
            self.counted["worker killed by poison or a fault"] += self.workers.replace_the_dead()
            what = self.rng.choice(list(self.faults))
            self.faults[what]()
            self.counted[what] += 1
            if time.monotonic() >= looked_at + LOOKED_AT_EVERY:
                looked_at = time.monotonic()
                self._look()

    # -- faults ------------------------------------------------------------------------------

    def _kill_worker(self) -> None:
        self.workers.one().kill()

    def _stop_worker(self) -> None:
        """It stands still for longer than its heartbeat allows, or not quite."""
        process = self.workers.one()
        if process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            time.sleep(self.rng.uniform(*STAND_STILL))
            process.send_signal(signal.SIGCONT)

    def _cut_worker(self) -> None:
        self._before_workers.cut(self.rng)

    def _silence_worker(self) -> None:
        self._before_workers.silence(self.rng)

    def _cut_client(self) -> None:
        self._before_clients.cut(self.rng)

    def _pause(self) -> None:
        with self.daemon.client(timeout=30) as control:
            control.pause("default")
            time.sleep(self.rng.random() / 2)
            control.resume("default")

    def _drain(self) -> None:
        with self.daemon.client(timeout=30) as control:
            control.drain("default", timeout=self.rng.random())
            control.resume("default")

    def _reload(self) -> None:
        self.daemon.write(self._config())
        with self.daemon.client(timeout=30) as control:
            control.reload()

    def _rebind(self) -> None:
        self._max_frames += 1
        self._reload()

    def _upgrade(self) -> None:
        ran = self.daemon.upgrade()
        if ran.returncode:
            self.wrong.append(f"an upgrade failed: {ran.stderr}")

    # -- judging -----------------------------------------------------------------------------

    def _queue(self) -> QueueStatus:
        def fresh() -> list[QueueStatus]:
            return [queue for queue in self.daemon.status().queues if not queue.stale]

        return wait_for(fresh)[0]

    def _look(self) -> None:
        queue = self._queue()
        self.counted["times looked at the counters"] += 1
        if sum_of(queue) + (queue.lost or 0) != queue.requests.messages:
            self.wrong.append(f"the counters do not add up: {queue!r}")
        memory = self.daemon.status().pid
        self.counted["KiB resident at most"] = max(
            self.counted["KiB resident at most"], resident_bytes(memory) >> 10
        )

    def _finish(self, asking: list[subprocess.Popen[bytes]]) -> None:
        for _ in range(2):
            self.workers.come()
        for process in asking:
            assert process.stdin is not None
            process.stdin.write(b"enough\n")
            process.stdin.flush()
        deadline = time.monotonic() + FINISHES_WITHIN + 30
        while time.monotonic() < deadline and any(process.poll() is None for process in asking):
            self.workers.replace_the_dead()
            time.sleep(0.05)
        stays, cut = (self._told(process) for process in asking)
        self._judge("stays", stays)
        self._judge("cut", cut)
        lost = stays["counted"].get("never answered", 0)
        if lost:
            self.wrong.append(f"{lost} requests of clients that stayed were never answered")
        if stays["counted"].get("given up", 0):
            self.wrong.append(f"requests that kill nobody were given up: {stays['counted']}")
        if stays["counted"].get("disconnected", 0):
            self.wrong.append(f"clients that nobody cut off were disconnected: {stays['counted']}")
        self._look()

    def _told(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines() if process.poll() is not None else []
        if not lines:
            self.wrong.append("a process of clients did not come to its end")
            return {"counted": {}, "wrong": [], "longest": 0.0}
        told: dict[str, Any] = json.loads(lines[-1])
        return told

    def _judge(self, name: str, told: dict[str, Any]) -> None:
        for what, count in told["counted"].items():
            self.counted[f"{name}: {what}"] += count
        self.wrong += told["wrong"]
        if name == "stays":
            self.longest = told["longest"]

    def _end_daemon(self) -> None:
        os.kill(self.daemon.status().pid, signal.SIGTERM)
        wait_for(lambda: not self.daemon.pids(), "zqueued to end", within=60)
        if not self.daemon.events("daemon.stopped"):
            self.wrong.append("zqueued ended without saying so")
        self.wrong += [
            str(event)
            for event in self.daemon.events(level="error")
            if event["event"] != "request.dead"
        ]

    def report(self) -> str:
        lines = [f"{count:>12} {name}" for name, count in sorted(self.counted.items())]
        lines.append(f"{self.longest:>12.3f} seconds, the longest wait of a client that stayed")
        lines += [f"WRONG: {fault}" for fault in self.wrong[:20]]
        lines.append("nothing wrong" if not self.wrong else f"{len(self.wrong)} things wrong")
        return "\n".join(lines)
