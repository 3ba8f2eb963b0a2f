"""Looks at the daemon again and again, also at one that is restarted meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zqueue.cli.top.lists import Listing
from zqueue.control.client import ControlClient, Refused
from zqueue.control.messages import StatusResult
from zqueue.errors import ZqueueError

_TRIES_EVERY = 1.0


@dataclass(frozen=True)
class Wanted:
    """What to look at: one list of one queue (``None``: of the first), every ``interval``
    seconds."""

    queue: str | None
    listing: Listing
    interval: float = 1.0


@dataclass(frozen=True)
class Look:
    """The daemon, and the list of ``queue``; where ``refusal`` says why there is none, ``rows`` is
    empty. ``due``: it is one of those at even intervals. ``at`` is on the monotonic clock."""

    status: StatusResult
    queue: str | None
    listing: Listing
    rows: tuple[Any, ...]
    refusal: str
    due: bool
    at: float


@dataclass(frozen=True)
class Lost:
    """The daemon does not answer."""

    reason: str


def look_at(zqueued: ControlClient, wanted: Wanted, due: bool = True) -> Look:
    """Look once. If the queue is not there, the first is looked at.

    Raises:
        ZqueueError: the daemon cannot be asked.
    """
    status = zqueued.status()
    queues = {queue.name: queue for queue in status.queues}
    name = wanted.queue if wanted.queue in queues else next(iter(queues), None)
    rows: tuple[Any, ...] = ()
    refusal = ""
    if name is None:
        refusal = "there is no queue"
    elif queues[name].stale:
        refusal = f"{name} does not answer"
    elif not queues[name].tells_peers_apart:
        refusal = f"{name}: the libzmq engine cannot tell connections apart"
    else:
        try:
            rows = tuple(wanted.listing.ask(zqueued, name))
        except Refused as error:  # it is not at work
            refusal = str(error)
    return Look(status, name, wanted.listing, rows, refusal, due, time.monotonic())


class Follower:
    """Looks from a thread of its own, so that nobody waits for a daemon that is slow.

    ``connect`` makes a connection, ``tell`` gets what each look has found; both are called in that
    thread.
    """

    def __init__(
        self,
        connect: Callable[[], ControlClient],
        tell: Callable[[Look | Lost], None],
        wanted: Wanted,
    ) -> None:
        self._connect = connect
        self._tell = tell
        self._changed = threading.Condition()
        self._wanted = self._seen = wanted
        self._next = time.monotonic()
        threading.Thread(target=self._run, daemon=True).start()

    def want(self, wanted: Wanted) -> None:
        """Look at this from now on, at once if it is something else."""
        with self._changed:
            if wanted.interval != self._wanted.interval:
                self._next = time.monotonic()
            self._wanted = wanted
            self._changed.notify()

    def _run(self) -> None:
        while True:
            try:
                with self._connect() as zqueued:
                    while True:
                        self._tell(look_at(zqueued, *self._wait()))
            except ZqueueError as error:
                self._tell(Lost(str(error)))
                time.sleep(min(_TRIES_EVERY, self._wanted.interval))
                self._next = time.monotonic()

    def _wait(self) -> tuple[Wanted, bool]:
        """Wait until the next look is due, or something else is wanted; which of them it was."""
        with self._changed:
            while True:
                left = self._next - time.monotonic()
                if left <= 0:
                    self._next = time.monotonic() + self._wanted.interval
                if left <= 0 or self._wanted != self._seen:
                    self._seen = self._wanted
                    return self._wanted, left <= 0
                self._changed.wait(left)
