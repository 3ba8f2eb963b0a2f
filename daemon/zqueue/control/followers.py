"""Those who have asked for events: each is sent the past that it wants, then what happens."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from zqueue.control import messages
from zqueue.control.messages import Message
from zqueue.event_filter import EventFilter
from zqueue.event_history import EventHistory, Recalled
from zqueue.events import Event

_SENT_A_TURN = 100
_TRIED_EVERY = 0.01
_PATIENCE = 10.0
_MOST_HELD = 1000

Send = Callable[[Message], bool]
"""Sends a reply to who asked; False where that would have to be waited for."""


@dataclass(eq=False)
class _Follower:
    """``held`` is what happens while the past is still being sent."""

    request: messages.Events
    wanted: EventFilter
    send: Send
    after: int
    held: deque[Event] | None = field(default_factory=deque)
    dropped: int = 0


class Followers:
    """Lives in an event loop. A caller is known by its routing id, a request of it by its own."""

    def __init__(self, history: EventHistory) -> None:
        self._history = history
        self._followers: dict[tuple[bytes, str], _Follower] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def of(self, caller: bytes) -> int:
        """How many requests of this caller there are."""
        return sum(key[0] == caller for key in self._followers)

    def add(self, caller: bytes, request: messages.Events, wanted: EventFilter, send: Send) -> None:
        """Begin to answer ``request``."""
        none = request.since is None and request.recent is None
        past = self._history.recall(wanted, request.since, 0 if none else request.recent)
        follower = _Follower(request, wanted, send, past.number)
        key = caller, request.id
        self._followers[key] = follower
        task = asyncio.create_task(self._answer(key, follower, past))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self, caller: bytes, request: str) -> bool:
        """Send no more; whether there was something to send."""
        return self._followers.pop((caller, request), None) is not None

    def forget(self, caller: bytes) -> None:
        """It has left."""
        for key in [key for key in self._followers if key[0] == caller]:
            del self._followers[key]

    def tell(self, event: Event) -> None:
        """Send what has happened to all who want to know."""
        for follower in list(self._followers.values()):
            if event.number <= follower.after or not follower.wanted.wants(event):
                continue
            if follower.held is None:
                self._tell(follower, event)
            elif follower.request.follow:
                follower.held.append(event)
                if len(follower.held) > _MOST_HELD:
                    follower.held.popleft()
                    follower.dropped += 1

    async def close(self) -> None:
        """Send nothing any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, key: tuple[bytes, str], follower: _Follower, past: Recalled) -> None:
        request = follower.request
        for sent, event in enumerate(past.events):
            if not await self._wait_to_send(key, follower, _reply(request.id, event, 0)):
                follower.dropped += len(past.events) - sent
                break
            if sent % _SENT_A_TURN == _SENT_A_TURN - 1:
                await asyncio.sleep(0)
        remembered = messages.Remembered(begins=past.begins, forgotten=past.forgotten)
        if not request.follow:
            result = messages.EventsResult(remembered=remembered).model_dump(mode="json")
            await self._wait_to_send(key, follower, messages.Result(id=request.id, result=result))
            if self._followers.get(key) is follower:
                del self._followers[key]
            return
        if request.progress:
            progress = messages.Progress(id=request.id, remembered=remembered)
            await self._wait_to_send(key, follower, progress)
        held, follower.held = follower.held, None
        for event in held or ():
            if self._followers.get(key) is follower:
                self._tell(follower, event)

    async def _wait_to_send(
        self, key: tuple[bytes, str], follower: _Follower, reply: Message
    ) -> bool:
        """Send once the caller has read enough; False if it does not read, or wants no more."""
        until = time.monotonic() + _PATIENCE
        while self._followers.get(key) is follower:
            if follower.send(reply):
                return True
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(_TRIED_EVERY)
        return False

    def _tell(self, follower: _Follower, event: Event) -> None:
        if follower.send(_reply(follower.request.id, event, follower.dropped)):
            follower.dropped = 0
        else:
            follower.dropped += 1


def _reply(identity: str, event: Event, dropped: int) -> messages.EventReply:
    return messages.EventReply(
        id=identity,
        name=event.name,
        level=event.level,
        time=event.time,
        queue=event.queue,
        message=event.message,
        fields=event.fields,
        dropped=dropped,
    )
