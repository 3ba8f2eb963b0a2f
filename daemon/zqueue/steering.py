"""The daemon's end of a queue's PAIR: ask for something, wait for what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from typing import Any

import zmq

from zqueue.config import QueueConfig
from zqueue.control.messages import QueueStatus
from zqueue.handover import QueueState
from zqueue.loop_socket import LoopSocket
from zqueue.plan import Claims
from zqueue.queue import Queue

_ANSWER_WITHIN = 15.0
_STATUS_WITHIN = 0.5
_LOOKED_AT_EVERY = 0.005
_ENDED = "the queue has ended"


class Steering:
    """Steers one :class:`~zqueue.queue.Queue`, whose thread it starts, from the event loop. A queue
    that is stuck costs its caller a wait with an end, and nobody else anything.

    Raises (the constructor):
        zmq.ZMQError, RuntimeError: there is no room for another socket or thread; nothing is left
            of the queue.
    """

    def __init__(self, queue: Queue, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._queue = queue
        self._numbers = itertools.count(1)
        self._asked: dict[bytes, asyncio.Future[dict[str, Any]]] = {}
        self._changed = asyncio.Event()
        with contextlib.ExitStack() as undone:
            undone.callback(queue.discard)
            pair = context.socket(zmq.PAIR)
            undone.callback(pair.close, 0)
            pair.set_hwm(0)
            pair.connect(queue.steer_address)
            self._pair = LoopSocket(pair, self._hear)
            undone.callback(self._pair.stop_reading)
            queue.begin()
            undone.pop_all()

    @property
    def name(self) -> str:
        return self._queue.name

    @property
    def status(self) -> QueueStatus:
        """What the queue last said of itself."""
        return self._queue.status

    @property
    def claims(self) -> Claims:
        return self._queue.claims

    @property
    def alive_at(self) -> float:
        """When the queue's thread last came round, on the monotonic clock."""
        return self._queue.alive_at

    @property
    def flush_until(self) -> float:
        """How long what a drain has handed out may take to get out, on the monotonic clock."""
        return self._queue.flush_until

    @property
    def starts_paused(self) -> bool:
        return self._queue.config.start == "paused"

    @property
    def left(self) -> QueueState:
        """What the queue leaves to whoever takes it up, after its ``FREEZE``."""
        assert self._queue.left is not None
        return self._queue.left

    def take_up(self, before: QueueState) -> None:
        """Have the queue, which was not started yet, go on as the one that left this."""
        self._queue.offered = before
        self.tell("TAKE_UP", "")

    def reconfigure(self, config: QueueConfig) -> None:
        self._queue.reconfigure(config)

    def hurry(self) -> None:
        self._queue.hurry()

    async def ended(self, deadline: float) -> bool:
        """Wait for the end of the queue's thread after ``END``; False if it has not ended by
        ``deadline`` on the monotonic clock. Takes no thread, of which there may be none to have."""
        while not self._queue.join(0):
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_LOOKED_AT_EVERY)
        return True

    def close(self) -> None:
        """Close this end, and the listening sockets that nobody took over. Who waits for an answer
        gets one."""
        self._pair.close(0)
        self._queue.claims.close()
        self._changed.set()
        for future in self._asked.values():
            if not future.done():
                future.set_result(self._unanswered(_ENDED))

    def tell(self, word: str, by: str, **arguments: Any) -> bytes:
        """Send a word without waiting for its answer; returns the word's number.

        Raises:
            zmq.ZMQError: the queue's thread has ended.
        """
        number = str(next(self._numbers)).encode()
        message = [word.encode(), number, by.encode(), json.dumps(arguments).encode()]
        self._pair.send(message)
        return number

    async def ask(
        self, word: str, by: str, *, within: float = _ANSWER_WITHIN, **arguments: Any
    ) -> dict[str, Any]:
        """Send a word and wait for ``{"ok": …, "changed": …, "state": …, "detail": …}``."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        try:
            number = self.tell(word, by, **arguments)
        except zmq.ZMQError:
            return self._unanswered(_ENDED)
        self._asked[number] = future
        try:
            return await asyncio.wait_for(future, within)
        except TimeoutError:
            return self._unanswered(f"the queue did not answer within {within:g} s")
        finally:
            self._asked.pop(number, None)

    def _unanswered(self, detail: str) -> dict[str, Any]:
        return {"ok": False, "changed": False, "state": self.status.state, "detail": detail}

    async def fresh(self) -> QueueStatus:
        """The queue's status with fresh counters, or its last one marked ``stale``."""
        answer = await self.ask("STATISTICS", "", within=_STATUS_WITHIN)
        return self.status if answer["ok"] else self.status.model_copy(update={"stale": True})

    async def drain(self, by: str, timeout: float, then: str) -> dict[str, Any]:
        """Drain to the end; the answer has an ``outcome`` and what was left at the end."""
        within = timeout + _ANSWER_WITHIN
        answer = await self.ask("DRAIN", by, within=within, timeout=timeout, then=then)
        return {"outcome": "failed", "detail": ""} | answer

    async def change(self, within: float | None = None) -> None:
        """Wait until the queue says that something has changed, or ``within`` seconds are up."""
        self._changed.clear()
        with_deadline = asyncio.wait_for(self._changed.wait(), within)
        try:
            await with_deadline
        except TimeoutError:
            return

    def _hear(self, frames: list[zmq.Frame]) -> None:
        number, answer = (frame.bytes for frame in frames)
        if number == b"":
            self._changed.set()
            return
        future = self._asked.get(number)
        if future is not None and not future.done():
            future.set_result(json.loads(answer))


def refusal(answer: dict[str, Any]) -> str:
    """Why a queue did not follow a word, from its answer; or nothing."""
    return "" if answer["ok"] else str(answer["detail"])
