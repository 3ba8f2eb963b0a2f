"""Taking up what a run before has left: by systemd's descriptor store, or from the old process.

Nothing of it is touched until all of it is in its place. Should this process die before, it is
still there: the old process goes on with it, or the next run finds it in the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import zqueue
from zqueue import handover
from zqueue.errors import HandoverRefused
from zqueue.event_history import EventHistory
from zqueue.handover import QueueState, State, Unreadable
from zqueue.inherited import Inherited
from zqueue.parcel import Parcel
from zqueue.queue import Emit
from zqueue.states import AT_WORK
from zqueue.states import State as QueueIs
from zqueue.steering import Steering, refusal
from zqueue.systemd import Notifier
from zqueue.upgrade import Predecessor


class Source(Protocol):
    """Where what was left comes from."""

    refusable: bool
    """Whether somebody goes on with it if it is refused; else it is lost."""

    async def parcel(self) -> Parcel | None:
        """What was left, if anything was."""

    async def ready(self, taken: Callable[[], dict[str, Any]]) -> None:
        """Make it this process's own: nobody else can take it up any more. Whoever left it is told
        what was ``taken``, as that is then.

        Raises:
            HandoverRefused: somebody else goes on with it.
        """

    async def gone(self) -> None:
        """Wait until nobody else serves the control socket."""


class Stored:
    """What a run before has put into systemd's store, under names that begin with ``name``."""

    refusable = False

    def __init__(self, descriptors: Sequence[int], name: str, notifier: Notifier) -> None:
        self._parcel = Parcel(descriptors)
        self._name = name
        self._notifier = notifier

    async def parcel(self) -> Parcel | None:
        return self._parcel if self._parcel.descriptors else None

    async def ready(self, taken: Callable[[], dict[str, Any]]) -> None:
        if self._parcel.descriptors:
            # That is what counts: systemd may be slow to forget it, but what it keeps is empty.
            self._parcel.empty()
            for place in range(len(self._parcel.descriptors)):
                self._notifier.unstore(f"{self._name}{place}")
            self._parcel.close()

    async def gone(self) -> None:
        """It has long been."""


class Sent:
    """What the process before sends."""

    refusable = True

    def __init__(self, predecessor: Predecessor) -> None:
        self._predecessor = predecessor
        self._parcel: Parcel | None = None

    async def parcel(self) -> Parcel | None:
        self._parcel = await self._predecessor.parcel()
        return self._parcel

    async def ready(self, taken: Callable[[], dict[str, Any]]) -> None:
        await self._predecessor.ready(taken)
        if self._parcel is not None:
            # What is in flight in it would keep connections open that are closed here.
            self._parcel.empty()
            self._parcel.close()

    async def gone(self) -> None:
        await self._predecessor.gone()


class Arrival:
    """What was left, from when it is found until it is this process's own."""

    def __init__(self, source: Source, emit: Emit, history: EventHistory) -> None:
        self._source = source
        self._emit = emit
        self._history = history
        self._state: State | None = None
        self._waiting: dict[str, QueueState] = {}
        self._lost = 0

    async def unpack(self, inherited: Inherited) -> None:
        """Look at what was left; ``inherited`` gets its listening sockets.

        Raises:
            HandoverRefused: it cannot be taken up, and somebody else goes on with it.
        """
        parcel = await self._source.parcel()
        if parcel is None:
            return
        descriptors = parcel.look()
        if parcel.has_pairs and not descriptors:
            return  # a run took it, and was killed before systemd had heard of that
        try:
            self._state = handover.read(parcel.read(), descriptors)
        except Unreadable as error:
            connections = handover.connections_among(descriptors)
            handover.close(descriptors)
            self._give_up(f"the state cannot be read: {error}", connections, error.requests)
            return
        inherited.add(self._state.sockets)
        if self._state.events is not None:
            self._history.take_up(self._state.events)
        self._waiting = {queue.name: queue for queue in self._state.queues}

    def of(self, name: str) -> QueueState | None:
        """What was left of a queue: it is the caller's from now on."""
        return self._waiting.pop(name, None)

    async def start(self, queue: Steering, before: QueueState | None) -> str:
        """Start a queue as it was ``before``: frozen, if there is anything of it to take up.

        Returns why it could not be started, or nothing.
        """
        if before is None:
            return refusal(await queue.ask("START", "config"))
        was = before.standing
        if was.state is QueueIs.STOPPED:
            queue.claims.release()
            return ""
        known = was.state in AT_WORK
        paused = was.state is QueueIs.PAUSED if known else queue.starts_paused
        answer = await queue.ask("START", was.by if known else "config", paused=paused)
        if answer["ok"] or before.snapshot is None:
            return refusal(answer)
        handover.close_connections(before)
        self._give_up(answer["detail"], before.connections, before.requests, queue.name)
        return refusal(await queue.ask("START", was.by, paused=paused))

    async def settle(self, queues: dict[str, Steering], inherited: Inherited) -> None:
        """All is in its place: have the queues go on with it.

        Raises:
            HandoverRefused: somebody else goes on with it.
        """
        state = self._state
        for name, left in list(self._waiting.items()):
            self._waiting.pop(name)
            if left.snapshot is not None:
                handover.close_connections(left)
                why = "the config has no such queue any more"
                self._give_up(why, left.connections, left.requests, name)
        connections = state.connections - self._lost if state is not None else 0

        def taken() -> dict[str, Any]:
            paused = round(time.monotonic() - state.frozen_at, 3) if state is not None else 0.0
            return {"version": zqueue.__version__, "connections": connections, "paused": paused}

        await self._source.ready(taken)
        inherited.settle()
        if state is None:
            await self._end_of_the_other(inherited)
            return
        await asyncio.gather(*(queue.ask("THAW", "hand-over") for queue in queues.values()))
        self._emit("handover.taken_up", **taken() | {"version": state.version})
        self._state = replace(state, queues=(), events=None)  # its bytes are of no use any more
        await self._end_of_the_other(inherited)

    async def _end_of_the_other(self, inherited: Inherited) -> None:
        await self._source.gone()
        inherited.close_the_rest()

    def _give_up(
        self, reason: str, connections: int, requests: int | None, queue: str | None = None
    ) -> None:
        if self._source.refusable:
            raise HandoverRefused(reason if queue is None else f"queues.{queue}: {reason}")
        self._lost += connections
        lost = {"connections": connections, "requests": requests}
        self._emit("handover.lost", queue=queue, reason=reason, **lost)
