"""The original scene: a server, a client, and a play with both, a broker, a pause and a resume."""

from __future__ import annotations

import itertools
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click
import zmq

from zqueue.plurals import counted

_NO_ANSWER_AFTER = 5.0
_PLAY_WITHIN = 20.0
_CONFIG = """\
[control]
endpoint = "ipc://{folder}/control.sock"
[log]
level = "warning"
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
"""


# -- the two programs ----------------------------------------------------------------------------


def server(endpoint: str, work: float, requests: int | None, identity: str | None) -> int:
    """Answer ``World from server ID``, each after ``work`` seconds; returns the exit code."""
    name = identity or str(os.getpid())
    with _Plain(zmq.REP, endpoint) as socket:
        _say(f"server {name} connected to {endpoint}")
        served: itertools.count[int] | range = itertools.count()
        if requests is not None:
            served = range(requests)
        for _ in served:
            request = socket.recv()
            _say(f"server {name} received {request.decode(errors='replace')}")
            time.sleep(work)
            socket.send_string(f"World from server {name}")
        socket.linger = 1000
    return 0


def client(endpoint: str, requests: int, work: float, identity: str | None) -> int:
    """Say ``Hello from ID`` so many times and print each reply; returns the exit code."""
    name = identity or str(os.getpid())
    with _Plain(zmq.REQ, endpoint) as socket:
        for number in range(requests):
            if number and work:
                time.sleep(work)
            socket.send_string(f"Hello from {name}")
            if not socket.poll(int(_NO_ANSWER_AFTER * 1000)):
                _say(f"client {name} has no reply yet; is the broker up, and a server connected?")
            reply = socket.recv()
            _say(f"client {name} received {reply.decode(errors='replace')}")
    return 0


class _Plain:
    """A socket as in any ZeroMQ program; SIGTERM and Ctrl-C end it without a traceback."""

    def __init__(self, kind: int, endpoint: str) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _leave)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(kind)
        self._socket.linger = 0
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise click.BadParameter(
                f"{endpoint}: {error.strerror}; it looks like tcp://127.0.0.1:5559",
                param_hint="--endpoint",
            ) from error

    def __enter__(self) -> zmq.Socket[bytes]:
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._context.term()


def _leave(number: int, _frame: object) -> NoReturn:
    os._exit(0 if number == signal.SIGTERM else 130)


def _say(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


# -- the play --------------------------------------------------------------------------------------


class _Broken(Exception):
    """The play did not go as it is told."""


def scene() -> int:
    """Play the whole scene with real processes; returns 0 if everything went as it is told."""
    with tempfile.TemporaryDirectory(prefix="zqueue-demo-") as folder:
        stage = _Stage(Path(folder))
        try:
            _play(stage)
        except _Broken as error:
            click.echo(f"the demo did not go as it should: {error}", err=True)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            stage.clear()
    return 0


def _play(stage: _Stage) -> None:
    from zqueue.control.client import ControlClient

    _tell("A broker: zqueued, with one queue on ports that the kernel chose.")
    with ControlClient(stage.start_broker()) as zqueued:
        status = zqueued.status().queues[0]
        frontend, backend = status.frontend[0], status.backend[0]
        _say(f"  clients connect to {frontend}, servers connect to {backend}")

        _tell("Two servers connect. Each needs 0.2 s for a request.")
        for name in ("A", "B"):
            stage.cast(f"server {name}", "server", "-e", backend, "--work", "200ms", "--id", name)
        stage.wait(lambda: zqueued.status().queues[0].workers.connected == 2, "two servers")

        _tell("A client says Hello four times: the servers take turns.")
        stage.cast("client 1", "client", "-e", frontend, "--requests", "4", "--id", "1")
        replies = stage.replies_to("1", 4)
        if any(one == other for one, other in itertools.pairwise(replies)):
            raise _Broken("the replies did not alternate between the servers")

        _tell("Two clients at once: each gets its own replies.")
        for name in ("2", "3"):
            stage.cast(f"client {name}", "client", "-e", frontend, "--requests", "3", "--id", name)
        stage.replies_to("2", 3)
        stage.replies_to("3", 3)

        _tell("zqueuectl pause: a request that comes now waits, nothing is lost.")
        zqueued.pause(wait=True, timeout=5)
        stage.cast("client 4", "client", "-e", frontend, "--requests", "1", "--id", "4")
        stage.wait(lambda: zqueued.status().queues[0].clients.connected == 1, "the client")
        stage.no_reply_to("4", 1.0)
        _say("  (a second later there is no reply)")

        _tell("zqueuectl resume: now it is answered.")
        zqueued.resume()
        stage.replies_to("4", 1)

        figures = zqueued.status().queues[0]
        _tell("The end: zqueuectl shutdown.")
        about = "~" if figures.estimated else ""
        asked, answered = figures.requests.messages, figures.replies.messages
        _say(
            f"  {about}{counted(asked, 'request')}, {about}{counted(answered, 'reply', 'replies')}"
        )
        zqueued.shutdown()
    _tell("Next: run zqueued, then zqueuectl demo server and zqueuectl demo client by yourself.")


def _tell(line: str) -> None:
    _say(f"\n* {line}")


class _Stage:
    """The processes of the play, and what they said."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._deadline = time.monotonic() + _PLAY_WITHIN
        self._processes: list[subprocess.Popen[str]] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._received: dict[str, list[str]] = {}

    def start_broker(self) -> str:
        """Start zqueued; returns its control endpoint once it is ready."""
        from zqueue.control.client import ControlClient, Unreachable

        config = self._folder / "zqueue.toml"
        config.write_text(_CONFIG.format(folder=self._folder))
        broker = subprocess.Popen(
            [sys.executable, "-m", "zqueue.cli.zqueued", "--config", str(config)],
            env=_environment(),
            text=True,
        )
        self._processes.append(broker)
        endpoint = f"ipc://{self._folder}/control.sock"

        def ready() -> bool:
            if broker.poll() is not None:
                raise _Broken("zqueued could not start")
            try:
                with ControlClient(endpoint) as zqueued:
                    return zqueued.status().state == "running"
            except Unreachable:
                return False

        self.wait(ready, "zqueued")
        return endpoint

    def cast(self, who: str, *program: str) -> None:
        """Start one of the two programs; its lines are shown as they come."""
        process = subprocess.Popen(
            [sys.executable, "-m", "zqueue.cli.zqueuectl", "demo", *program],
            stdout=subprocess.PIPE,
            env=_environment(),
            text=True,
        )
        self._processes.append(process)
        threading.Thread(target=self._listen, args=(process,), daemon=True, name=who).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(line.rstrip())

    def replies_to(self, client: str, count: int) -> list[str]:
        """Wait for so many replies to one client; returns the lines that it printed."""
        self.wait(lambda: len(self._hear(client)) >= count, f"client {client}'s replies")
        return self._received.get(client, [])

    def no_reply_to(self, client: str, seconds: float) -> None:
        """See that nothing comes for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._hear(client):
                raise _Broken(f"client {client} got a reply while the queue was paused")
            time.sleep(0.02)

    def _hear(self, client: str) -> list[str]:
        while not self._lines.empty():
            line = self._lines.get()
            _say(f"  {line}")
            who, _, what = line.partition(" received World ")
            if what and who.startswith("client "):
                self._received.setdefault(who.removeprefix("client "), []).append(what)
        return self._received.get(client, [])

    def wait(self, until: Callable[[], bool], about: str) -> None:
        """Wait until ``until()`` is true."""
        while not until():
            if time.monotonic() > self._deadline:
                raise _Broken(f"waited in vain for {about}")
            time.sleep(0.02)

    def clear(self) -> None:
        """End every process that still runs."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment() -> dict[str, str]:
    """That of this process, and where it found its modules: a package may keep them apart."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
