"""The processes that play the clients and the workers, one each, for all rounds."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Generic, Protocol, Self, TypeVar

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

_ANSWER_WITHIN = 60.0


class PeerError(Exception):
    """Clients or workers could not do what they were told; the message says why."""


class Job(Protocol[R_co]):
    """What a peer process is told to do."""

    def run(self, ready: Callable[[], None], orders: Connection) -> R_co:
        """Do it.

        One that serves calls ``ready()`` once it does, and ends when ``orders`` is readable, taking
        what is there. One that measures does neither and returns its figures.
        """


class Running(Generic[R]):
    """A job under way."""

    def __init__(self, name: str, orders: Connection) -> None:
        self._name, self._orders = name, orders

    def wait_ready(self) -> None:
        """Wait until the job has called ``ready()``.

        Raises:
            PeerError: it failed before.
        """
        self._answer()

    def stop(self) -> None:
        """Tell it to end."""
        self._orders.send(None)

    def result(self, within: float = _ANSWER_WITHIN) -> R:
        """Wait for its result, for as many seconds.

        Raises:
            PeerError: it failed.
        """
        result: R = self._answer(within)
        return result

    def _answer(self, within: float = _ANSWER_WITHIN) -> Any:
        if not self._orders.poll(within):
            raise PeerError(f"the {self._name} said nothing for {within:g} s")
        try:
            answer = self._orders.recv()
        except EOFError:
            raise PeerError(f"the process of the {self._name} ended") from None
        if isinstance(answer, PeerError):
            raise answer
        return answer


class PeerProcess:
    """A process that does one job after the other, on the CPU it is given."""

    def __init__(self, name: str, cpu: int) -> None:
        self._name = name
        spawn = multiprocessing.get_context("spawn")
        self._orders, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=_obey, args=(name, theirs, cpu), name=name, daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    def begin(self, job: Job[R]) -> Running[R]:
        """Start a job. The one before it must have given its result."""
        self._orders.send(job)
        return Running(self._name, self._orders)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()


def _obey(name: str, orders: Connection, cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    # Ctrl-C reaches the whole group; the parent ends its peers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            job: Job[Any] = orders.recv()
        except EOFError:
            return
        try:
            answer = job.run(lambda: orders.send(None), orders)
        except Exception as error:
            answer = PeerError(f"the {name} failed: {type(error).__name__}: {error}")
        orders.send(answer)
