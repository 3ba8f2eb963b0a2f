"""A queue on the wire engine under everything at once, for as long as wanted.

``python -m tests.wire.soak --minutes 30`` starts a real zqueued, hundreds of clients and some
workers that come and go, some of the workers killed, and steers at random. Every reply must be to a
request of the client that gets it, and come once; the counters must add up whenever they are read;
the daemon may not grow, and has to have as few descriptors at the end as at the start. It ends by
itself, prints figures, and exits 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from urllib.parse import urlsplit

import zmq

from tests.waiting import wait_for
from tests.wire.fuzz import handshake, message, mutated
from tests.zqueued import Zqueued
from zqueue.control.client import ControlClient
from zqueue.control.messages import Ends, QueueStatus

CLIENT_PROCESSES = 4
LOOKED_AT_EVERY = 2.0
FINISHES_WITHIN = 60.0
GROWS_AT_MOST = 4 << 20
LONGEST_BODY = 20_000
QUEUE = """
[queues.default]
engine = "wire"
frontend = { bind = "tcp://127.0.0.1:*", heartbeat = "2s", heartbeat_timeout = "30s" }
backend = { bind = "tcp://127.0.0.1:*", heartbeat = "2s", heartbeat_timeout = "30s" }
max_waiting = 2000
max_attempts = 10
"""
ANOTHER_QUEUE = """
[queues.another]
engine = "wire"
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
"""
processes = multiprocessing.get_context("forkserver")


# -- clients -------------------------------------------------------------------------------------


class SoakClient:
    """One REQ, or a DEALER with several requests outstanding, that checks its replies."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, name: str) -> None:
        self.rng = random.Random(name)
        self.name = name
        self.is_req = self.rng.random() < 0.5
        self.socket = context.socket(zmq.REQ if self.is_req else zmq.DEALER)
        self.socket.linger = 0
        if self.rng.random() < 0.3:
            self.socket.routing_id = name.encode()
        self.socket.connect(endpoint)
        self.most = 1 if self.is_req else self.rng.choice((2, 8, 30))
        self.leaves_after = self.rng.choice((1, 20, 200, 2000))
        self.asked = 0
        self.outstanding: dict[bytes, bytes] = {}
        self.never_answered: set[bytes] = set()

    def ask(self, counted: Counter[str]) -> None:
        if len(self.outstanding) >= self.most:
            return
        self.asked += 1
        token = f"{self.name}/{self.asked}".encode()
        body = token + b" " + bytes(self.rng.choice((0, 10, 500, 1500, LONGEST_BODY)))
        frames = [body] if self.is_req else [token, b"", body]
        if not self.is_req and self.rng.random() < 0.005:
            # REPs would not answer it: it ends as malformed, or unanswered by a DEALER that left.
            frames = [body]
            self.never_answered.add(token)
        else:
            self.outstanding[token] = body
        try:
            self.socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            self.outstanding.pop(token, None)
            return
        counted["asked"] += 1

    def hear(self, counted: Counter[str]) -> str:
        """Take a reply; what is wrong with it, if anything is."""
        frames = self.socket.recv_multipart(zmq.DONTWAIT)
        body = frames[-1].removeprefix(b"re:")
        token = body.partition(b" ")[0]
        counted["answered"] += 1
        if token in self.never_answered:
            self.never_answered.remove(token)
            return ""
        asked = self.outstanding.pop(token, None)
        if asked is None:
            return f"{self.name} got a reply to {token!r}, which was answered or is not its own"
        if asked != body or (not self.is_req and frames[:-1] != [token, b""]):
            return f"{self.name} got another reply to {token!r} than was sent"
        return ""


def ask_for_long(endpoint: str, many: int, name: str, parent: Connection) -> None:
    """A process of clients; they come and go until the parent says that it is enough."""
    rng = random.Random(name)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    poller = zmq.Poller()
    clients: dict[zmq.Socket[bytes], SoakClient] = {}
    counted: Counter[str] = Counter()
    wrong: list[str] = []
    made = 0
    deadline = 0.0
    while not deadline or (
        time.monotonic() < deadline and any(client.outstanding for client in clients.values())
    ):
        if not deadline and parent.poll():
            parent.recv()
            deadline = time.monotonic() + FINISHES_WITHIN
        if not deadline and len(clients) < many:
            made += 1
            client = SoakClient(context, endpoint, f"{name}-{made}")
            clients[client.socket] = client
            poller.register(client.socket, zmq.POLLIN)
            counted["clients"] += 1
        if not deadline and rng.random() < 0.05:
            visit(endpoint, rng)
            counted["visits"] += 1
        for ready, _ in poller.poll(20):
            with contextlib.suppress(zmq.Again):
                fault = clients[ready].hear(counted)
                if fault:
                    wrong.append(fault)
        if deadline:
            continue
        for client in list(clients.values()):
            if client.asked >= client.leaves_after or rng.random() < 0.0005:
                counted["left with requests outstanding"] += bool(client.outstanding)
                poller.unregister(client.socket)
                client.socket.close()
                del clients[client.socket]
            elif rng.random() < 0.2:
                client.ask(counted)
    unanswered = [token for client in clients.values() for token in client.outstanding]
    counted["unanswered at the end"] = len(unanswered)
    parent.send((dict(counted), wrong))
    parent.recv()
    context.destroy(linger=0)


def visit(endpoint: str, rng: random.Random) -> None:
    """Come by, say something whole, half or wrong, and leave."""
    where = urlsplit(endpoint)
    said = handshake(b"DEALER") + message([b"", b"visit"]) + message([b"", bytes(5000)])
    if rng.random() < 0.5:
        said = mutated(rng, said)
    said = said[: rng.randrange(len(said) + 1)]
    with contextlib.suppress(OSError), socket.socket() as visitor:
        visitor.settimeout(1)
        visitor.connect((where.hostname, where.port))
        visitor.sendall(said)
        if rng.random() < 0.5:
            visitor.shutdown(socket.SHUT_WR)
            visitor.recv(1000)


# -- workers -------------------------------------------------------------------------------------


def work_for_a_while(endpoint: str, kind: int, seed: int, leaves: Connection) -> None:
    """A process of one worker, until it is killed or told to leave, in peace or at once."""
    rng = random.Random(seed)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    worker = context.socket(kind)
    worker.linger = 0
    worker.connect(endpoint)
    slow = rng.choice((0.0, 0.0, 0.001, 0.01))
    gathered: list[list[bytes]] = []
    while not leaves.poll():
        if worker.poll(5 if gathered else 50):
            with contextlib.suppress(zmq.Again):
                gathered.append(worker.recv_multipart(zmq.DONTWAIT))
        elif not gathered:
            continue
        if kind != zmq.REP and len(gathered) < 5 and worker.poll(0):
            continue
        rng.shuffle(gathered)
        for frames in gathered:
            time.sleep(slow)
            worker.send_multipart([*frames[:-1], b"re:" + frames[-1]])
        gathered.clear()
    if leaves.recv() == "in peace":
        worker.linger = 1000
    context.destroy()


class Workers:
    """Those that are there now, each a process and what tells it to leave."""

    def __init__(self, endpoint: str, most: int, rng: random.Random) -> None:
        self._endpoint, self._most, self._rng = endpoint, most, rng
        self._now: list[tuple[ForkServerProcess, Connection]] = []
        self._leaving: list[ForkServerProcess] = []
        self.counted: Counter[str] = Counter()

    def change(self) -> None:
        """Somebody comes, or leaves, or is killed."""
        rng = self._rng
        for process in [process for process in self._leaving if process.exitcode is not None]:
            self._leaving.remove(process)
        if len(self._now) < 3 or (len(self._now) < self._most and rng.random() < 0.65):
            self.come(rng.choice((zmq.REP, zmq.REP, zmq.REP, zmq.DEALER, zmq.ROUTER)))
            return
        process, leaves = self._now.pop(rng.randrange(len(self._now)))
        self._leaving.append(process)
        how = rng.choice(("in peace", "at once", "killed"))
        self.counted[f"workers that left {how}"] += 1
        if how == "killed":
            process.kill()
        else:
            leaves.send(how)

    def come(self, kind: int) -> None:
        leaves, told = processes.Pipe(duplex=False)
        process = processes.Process(
            target=work_for_a_while,
            args=(self._endpoint, kind, self._rng.randrange(1 << 30), leaves),
            daemon=True,
        )
        process.start()
        leaves.close()
        self._now.append((process, told))
        self.counted["workers that came"] += 1

    def end(self) -> None:
        for process, _ in self._now:
            process.kill()
        for process in [*self._leaving, *(process for process, _ in self._now)]:
            process.join()
        self._now.clear()


# -- the daemon ----------------------------------------------------------------------------------


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def sum_of(queue: QueueStatus) -> int:
    ended: int = sum((queue.ends or Ends()).model_dump().values())
    return (queue.waiting or 0) + (queue.in_flight or 0) + queue.kept + ended


class Soak:
    def __init__(self, daemon: Zqueued, arguments: argparse.Namespace) -> None:
        self.daemon = daemon
        self.rng = random.Random(arguments.seed)
        self.minutes: float = arguments.minutes
        self.wrong: list[str] = []
        self.counted: Counter[str] = Counter()
        self.resident: list[int] = []
        self.control = daemon.client(timeout=30)
        self.workers = Workers(daemon.backend(), arguments.workers, self.rng)
        self.each = max(1, arguments.clients // CLIENT_PROCESSES)

    def run(self) -> None:
        open_at_first = descriptors(self.daemon.process.pid)
        clients = [self._clients(number) for number in range(CLIENT_PROCESSES)]
        began = time.monotonic()
        looked_at = 0.0
        while time.monotonic() < began + self.minutes * 60 and len(self.wrong) < 20:
            self.workers.change()
            self._steer(self.control)
            if time.monotonic() >= looked_at + LOOKED_AT_EVERY:
                looked_at = time.monotonic()
                self._look()
            time.sleep(self.rng.random())
        for _ in range(2):
            self.workers.come(zmq.REP)
        self.daemon.write(QUEUE)
        self.control.reload()
        self._finish(clients)
        self.workers.end()
        pid = self.daemon.process.pid
        self._expect(
            lambda: not self._queue().workers.connected and not self._queue().clients.connected,
            "everybody to have left",
        )
        last = self._queue()
        self.counted["descriptors at the start"] = open_at_first
        self.counted["descriptors at the end"] = descriptors(pid)
        if descriptors(pid) > open_at_first:
            self.wrong.append(f"{descriptors(pid)} descriptors are open, {open_at_first} at first")
        if last.waiting or last.in_flight or sum_of(last) != last.requests.messages:
            self.wrong.append(f"at the end the counters do not add up: {last!r}")
        self._compare_memory()
        self._judge(last)

    def _clients(self, number: int) -> tuple[ForkServerProcess, Connection]:
        here, there = processes.Pipe()
        name = f"c{self.rng.randrange(1 << 30):x}-{number}"
        process = processes.Process(
            target=ask_for_long,
            args=(self.daemon.frontend(), self.each, name, there),
            daemon=True,
        )
        process.start()
        there.close()
        return process, here

    def _finish(self, clients: list[tuple[ForkServerProcess, Connection]]) -> None:
        """Let every request that is still outstanding be answered."""
        for _, connection in clients:
            connection.send("enough")
        for _, connection in clients:
            if not connection.poll(FINISHES_WITHIN * 2):
                self.wrong.append("a process of clients did not come to its end")
                continue
            counted, wrong = connection.recv()
            self.counted.update(counted)
            self.wrong += wrong
        self._look()
        for process, connection in clients:
            connection.send("go")
            process.join(FINISHES_WITHIN)
            process.kill()

    def _steer(self, control: ControlClient) -> None:
        what = self.rng.choices(
            ("nothing", "pause", "drain", "reload", "status"), weights=(60, 10, 10, 10, 10)
        )[0]
        if what != "nothing":
            self.counted[f"steered: {what}"] += 1
        if what == "pause":
            control.pause("default")
            before = self._queue()
            time.sleep(self.rng.random())
            after = self._queue()
            known = not before.stale and not after.stale
            if known and (after.in_flight or 0) > (before.in_flight or 0):
                self.wrong.append("requests were given out while it was paused")
            control.resume("default")
        elif what == "drain":
            control.drain("default", timeout=self.rng.random() * 3)
            control.resume("default")
        elif what == "reload":
            more = ANOTHER_QUEUE if self.rng.random() < 0.5 else ""
            self.daemon.write(QUEUE + more)
            if "default" not in control.reload().unchanged:
                self.wrong.append("a reload changed a queue whose config is the same")
        elif what == "status":
            control.status()

    def _queue(self) -> QueueStatus:
        return next(queue for queue in self.control.status().queues if queue.name == "default")

    def _look(self) -> None:
        queue = self._queue()
        self.counted["times looked at the counters"] += 1
        self.resident.append(resident_bytes(self.daemon.process.pid))
        if sum_of(queue) != queue.requests.messages:
            self.wrong.append(f"the counters do not add up: {queue!r}")
        if queue.engine != "wire" or queue.restarts or queue.state == "failed":
            self.wrong.append(f"the queue failed: {queue!r}")

    def _compare_memory(self) -> None:
        """The last quarter against the second one; the first is when everybody comes."""
        quarter = len(self.resident) // 4
        if quarter < 3:
            return
        before = int(statistics.median(self.resident[quarter : 2 * quarter]))
        after = int(statistics.median(self.resident[-quarter:]))
        self.counted["KiB resident in the second quarter"] = before >> 10
        self.counted["KiB resident in the last quarter"] = after >> 10
        if after > before + GROWS_AT_MOST:
            self.wrong.append(f"the daemon grew from {before} to {after} bytes")

    def _judge(self, last: QueueStatus) -> None:
        ends = last.ends or Ends()
        self.counted["received"] = last.requests.messages
        self.counted.update(ends.model_dump())
        lost = ends.dead + ends.malformed + ends.unanswered
        if self.counted["unanswered at the end"] > lost:
            self.wrong.append("requests of clients that stayed were never answered")
        if self.counted["answered"] > ends.replied:
            self.wrong.append("clients got more replies than were counted")
        self.counted.update(self.workers.counted)

    def _expect(self, what: Callable[[], bool], about: str) -> None:
        try:
            wait_for(what, about)
        except AssertionError as error:
            self.wrong.append(str(error))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.wire.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    arguments = parser.parse_args()
    processes.set_forkserver_preload(["zmq", "tests.wire.fuzz", "tests.zqueued"])
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        daemon = Zqueued(Path(folder), QUEUE, engine="wire")
        try:
            soak = Soak(daemon.wait_ready(), arguments)
            soak.run()
            soak.control.close()
            if (code := daemon.stop(signal.SIGTERM)) != 0:
                soak.wrong.append(f"zqueued ended with {code}")
            soak.wrong += [str(event) for event in daemon.events(level="error")]
        finally:
            daemon.kill()
    print(f"{(time.monotonic() - began) / 60:.1f} minutes, seed {arguments.seed}")
    for name, count in soak.counted.items():
        print(f"{count:>12} {name}")
    for fault in soak.wrong[:20]:
        print("WRONG:", fault)
    print("nothing wrong" if not soak.wrong else f"{len(soak.wrong)} things wrong")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
