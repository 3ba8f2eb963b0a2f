"""Clients and workers that notice everything: ``python crowd.py FRONTEND BACKEND [OPTION]…``.

Plain REQ and DEALER sockets ask without end, REP sockets answer, all in one process of its own that
needs nothing but pyzmq. It says ``ready`` once each client has had a reply. When its standard input
ends it asks no more, waits for what is due, and prints as JSON what it has noticed. A test runs it
by :class:`CrowdProcess`.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from typing import Any

import zmq

_OUTSTANDING = 4
_DUE_WITHIN = 30.0


class Client:
    """A REQ with one request at a time, or a DEALER with several. Each request is asked once."""

    def __init__(self, crowd: Crowd, number: int, endpoint: str, kind: int) -> None:
        self._crowd = crowd
        self._number = number
        self._asked = 0
        self._due: dict[bytes, float] = {}
        self._again_at = 0.0
        self._kind = kind
        self.socket = crowd.connected(kind, endpoint)
        self._most = 1 if kind == zmq.REQ else _OUTSTANDING

    @property
    def due(self) -> int:
        return len(self._due)

    @property
    def has_been_answered(self) -> bool:
        return self._asked > self.due

    def ask(self, now: float) -> None:
        if self.due >= self._most or now < self._again_at:
            return
        padding = b"x" * (self._asked % 300)
        question = b"%d %d %d %s" % (os.getpid(), self._number, self._asked, padding)
        self._asked += 1
        self._due[question] = now
        self.socket.send_multipart([question] if self._kind == zmq.REQ else [b"", question])

    def hear(self, now: float) -> None:
        frames = self.socket.recv_multipart(zmq.DONTWAIT)
        asked_at = self._due.pop(frames[-1], None)
        if asked_at is None:
            self._crowd.noticed["unexpected"] += 1
            return
        self._crowd.noticed["replies"] += 1
        self._crowd.longest = max(self._crowd.longest, now - asked_at)
        self._again_at = now + self._crowd.pause


class Workers:
    """REP sockets that answer what they are asked, each a while after, in a thread of their own.

    A REP has one request at a time. A turn of thousands of clients takes tens of milliseconds: if
    the workers had to wait for it, they would answer fewer than are asked.
    """

    def __init__(self, sockets: list[zmq.Socket[bytes]], work: float) -> None:
        self.served: Counter[bytes] = Counter()
        self._sockets = sockets
        self._work = work
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _serve(self) -> None:
        answers: deque[tuple[float, zmq.Socket[bytes], list[bytes]]] = deque()
        poller = zmq.Poller()
        for sock in self._sockets:
            poller.register(sock, zmq.POLLIN)
        while not self._stopping.is_set():
            now = time.monotonic()
            while answers and answers[0][0] <= now:
                _, worker, frames = answers.popleft()
                worker.send_multipart(frames)
            for worker, _ in poller.poll(1):
                frames = worker.recv_multipart(zmq.DONTWAIT)
                self.served[frames[-1]] += 1
                answers.append((time.monotonic() + self._work, worker, frames))


class Crowd:
    """All of them, turn by turn."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.pause: float = options.pause
        self.longest = 0.0
        self.noticed = Counter({"replies": 0, "unexpected": 0, "disconnects": 0, "doubled": 0})
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 60_000)
        self._poller = zmq.Poller()
        self._monitors: dict[Any, None] = {}
        kinds = (zmq.REQ, zmq.DEALER)
        self._clients: dict[Any, Client] = {}
        for number in range(options.clients):
            client = Client(self, number, options.frontend, kinds[number % 2])
            self._clients[client.socket] = client
            self._poller.register(client.socket, zmq.POLLIN)
        workers = [self.connected(zmq.REP, options.backend) for _ in range(options.workers)]
        self._workers = Workers(workers, options.work)

    def connected(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        """A socket whose every disconnect is noticed."""
        sock = self._context.socket(kind)
        sock.linger = 0
        monitor = sock.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._monitors[monitor] = None
        self._poller.register(monitor, zmq.POLLIN)
        sock.connect(endpoint)
        return sock

    def run(self) -> dict[str, Any]:
        told = False
        stdin = select.poll()
        stdin.register(sys.stdin, select.POLLIN | select.POLLHUP)
        while not stdin.poll(0):
            self._turn(asking=True)
            if not told and all(each.has_been_answered for each in self._clients.values()):
                told = True
                print("ready", flush=True)
        deadline = time.monotonic() + _DUE_WITHIN
        while self.due and time.monotonic() < deadline:
            self._turn(asking=False)
        self._workers.stop()
        self.noticed["doubled"] += sum(count - 1 for count in self._workers.served.values())
        return {**self.noticed, "lost": self.due, "longest": round(self.longest, 3)}

    @property
    def due(self) -> int:
        return sum(client.due for client in self._clients.values())

    def _turn(self, asking: bool) -> None:
        now = time.monotonic()
        if asking:
            for client in self._clients.values():
                client.ask(now)
        for sock, _ in self._poller.poll(1):
            if sock in self._monitors:
                sock.recv_multipart()
                self.noticed["disconnects"] += 1
            else:
                self._clients[sock].hear(time.monotonic())


class CrowdProcess:
    """The crowd as a test sees it."""

    def __init__(self, frontend: str, backend: str, **options: float) -> None:
        extra = [f"--{name}={value}" for name, value in options.items()]
        self._process = subprocess.Popen(
            [sys.executable, __file__, frontend, backend, *extra],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_ready(self) -> CrowdProcess:
        """Wait until each client has had a reply."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def finish(self) -> dict[str, Any]:
        """Have it end; what it has noticed."""
        printed, _ = self._process.communicate(timeout=60)
        noticed: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return noticed

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def assert_undisturbed(noticed: dict[str, Any]) -> None:
    """No peer was disconnected, and each request has had one reply, its own."""
    wrong = {name: noticed[name] for name in ("disconnects", "lost", "doubled", "unexpected")}
    assert not any(wrong.values()), noticed
    assert noticed["replies"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("frontend")
    parser.add_argument("backend")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.0, help="between a reply and a request")
    parser.add_argument("--work", type=float, default=0.0, help="how long a request takes")
    print(json.dumps(Crowd(parser.parse_args()).run()), flush=True)


if __name__ == "__main__":
    main()
