"""Looks at all queues, shared by those who want one at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from zqueue.control import messages
from zqueue.control.messages import StatusResult, Worker
from zqueue.control.server import Refusal

_APART = 0.1

Ask = Callable[[messages.Request], Awaitable[messages.Message]]
"""Has the daemon carry out what a request of the control socket asks for."""


@dataclass(frozen=True)
class Look:
    """What was found, what was made of it so far, and how long it took in seconds.

    ``workers`` has those of each queue that can tell them apart, if they were asked for.
    """

    status: StatusResult
    workers: dict[str, tuple[Worker, ...]]
    seconds: float
    made: dict[str, bytes] = field(default_factory=dict)

    def once(self, what: str, make: Callable[[Look], bytes]) -> bytes:
        """What ``make`` makes of it, made only once however many ask."""
        if what not in self.made:
            self.made[what] = make(self)
        return self.made[what]


class Looks:
    """Each look begins after it was asked for, and they are a little apart: a flood of requests
    costs the queues no more than ten looks a second."""

    def __init__(self, ask: Ask, with_workers: Callable[[], bool]) -> None:
        self._ask = ask
        self._with_workers = with_workers
        self._next: asyncio.Task[Look] | None = None
        self._last_began = -_APART

    async def look(self) -> Look:
        """Find out how all queues are; one that hangs costs half a second, and says so."""
        if self._next is None:
            self._next = asyncio.create_task(self._look())
        return await asyncio.shield(self._next)

    async def _look(self) -> Look:
        await asyncio.sleep(max(0.0, self._last_began + _APART - time.monotonic()))
        self._next = None
        self._last_began = began = time.monotonic()
        status = await self._ask(messages.Status(id="http"))
        assert isinstance(status, StatusResult)
        workers: dict[str, tuple[Worker, ...]] = {}
        if self._with_workers():
            # A queue that did not answer just now would not answer this in time either.
            names = [queue.name for queue in status.queues if not queue.stale]
            found = await asyncio.gather(*map(self._workers, names))
            workers = {name: each for name, each in zip(names, found, strict=True) if each}
        return Look(status, workers, time.monotonic() - began)

    async def _workers(self, name: str) -> tuple[Worker, ...]:
        try:
            found = await self._ask(messages.Workers(id="http", queues=(name,)))
        except Refusal:  # its engine cannot tell them apart
            return ()
        assert isinstance(found, messages.WorkersResult)
        return found.workers
