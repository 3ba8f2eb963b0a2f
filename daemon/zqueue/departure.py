"""Leaving without letting anybody go: the queues are frozen, and all there is of them goes to the
next process, by systemd's descriptor store or straight from process to process. Whatever goes wrong
before that process has it all, the queues go on here as if nothing had been.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import zqueue
from zqueue import handover, systemd
from zqueue.clocks import monotonic_of
from zqueue.errors import HandoverRefused
from zqueue.event_history import EventHistory
from zqueue.handover import Offer, QueueState, SocketState, State
from zqueue.listeners import Listener
from zqueue.parcel import Parcel
from zqueue.queue import Emit
from zqueue.states import AT_WORK, Standing
from zqueue.states import State as QueueIs
from zqueue.steering import Steering
from zqueue.upgrade import Successor, ask_installed

_FREEZES_WITHIN = 15.0

STORED = "hand-over/"
"""Begins the names of a parcel's parts in systemd's store."""

Drain = Callable[[list[Steering], str], Awaitable[object]]


class Departure:
    """One attempt to hand over all queues, and the ``others`` that listen, by their names."""

    def __init__(
        self,
        queues: Sequence[Steering],
        others: Mapping[str, Listener],
        drain: Drain,
        emit: Emit,
        history: EventHistory,
        by: str,
    ) -> None:
        self._queues = list(queues)
        self._others = dict(others)
        self._drain = drain
        self._emit = emit
        self._history = history
        self._by = by
        self._with_connections: list[Steering] = []
        self._before = {queue.name: _standing(queue) for queue in queues}
        self._drained: list[Steering] = []
        self._drained_since: float | None = None

    async def to_next_run(self, notifier: systemd.Notifier) -> bool:
        """Put all into systemd's store, if it is about to start this daemon again; False, and the
        queues are at work, if it is not, or if that fails."""
        if not notifier.listens:
            return False
        unit = await systemd.unit()
        if unit is None:
            self._refused("systemd does not say whether this is a restart", "drain")
            return False
        if unit.job != "restart":
            return False
        parcel = Parcel(())
        try:
            await self._prepare(await ask_installed(), "the next run")
            state = await self._freeze(lambda each: each.ours and not each.is_tcp)
            parcel = await self._pack(state)
            await self._store(notifier, unit, parcel)
        except BaseException as error:
            for place in range(len(parcel.descriptors)):
                notifier.unstore(f"{STORED}{place}")
            await self._undo()
            if not isinstance(error, HandoverRefused):
                raise
            self._refused(str(error), "drain")
            return False
        finally:
            parcel.close()
        self._handed_over(state, "the next run")
        return True

    async def to_successor(self) -> dict[str, Any]:
        """Start what is installed now and hand over to it; returns what it says of it.

        Raises:
            HandoverRefused: it will not have it, and the queues are at work.
        """
        successor: Successor | None = None
        parcel = Parcel(())
        try:
            successor = await Successor.start()
            await self._prepare(await successor.offer(), f"pid {successor.pid}")
            state = await self._freeze(lambda each: True)
            parcel = await self._pack(state)
            taken = await successor.take(parcel)
        except BaseException as error:
            if successor is not None:
                await successor.end()
            await self._undo()
            if isinstance(error, HandoverRefused):
                self._refused(str(error), "go on")
            raise
        finally:
            parcel.close()
        self._handed_over(state, f"pid {successor.pid}")
        return {"pid": successor.pid} | taken

    # -- there ---------------------------------------------------------------------------------

    async def _prepare(self, offer: Offer, to: str) -> None:
        """Drain the queues that cannot be handed over at work."""
        refusal = offer.refusal()
        if refusal:
            raise HandoverRefused(refusal)
        at_work = [queue for queue in self._queues if queue.status.state in AT_WORK]
        self._with_connections = [
            queue
            for queue in at_work
            if queue.status.engine == "wire" and queue.name in offer.queues
        ]
        self._emit(
            "handover.begins",
            by=self._by,
            to=to,
            version=offer.version,
            queues=[queue.name for queue in self._with_connections],
        )
        self._drained = [queue for queue in at_work if queue not in self._with_connections]
        if self._drained:
            self._drained_since = time.monotonic()
        await self._drain(self._drained, "hand-over")

    async def _freeze(self, wanted: Callable[[SocketState], bool]) -> State:
        # What was drained has taken no request since.
        frozen_at = time.monotonic() if self._drained_since is None else self._drained_since
        answers = await asyncio.gather(
            *(
                queue.ask(
                    "FREEZE",
                    self._by,
                    within=_FREEZES_WITHIN + max(0.0, queue.flush_until - time.monotonic()),
                    connections=queue in self._with_connections,
                )
                for queue in self._queues
            )
        )
        for queue, answer in zip(self._queues, answers, strict=True):
            if not answer["ok"]:
                raise HandoverRefused(f"queues.{queue.name}: {answer['detail']}")
        sockets = [handover.socket_state(name, each) for name, each in self._others.items()]
        for queue in self._queues:
            sockets += queue.claims.sockets()
        return State(
            version=zqueue.__version__,
            frozen_at=frozen_at,
            sockets=tuple(each for each in sockets if wanted(each)),
            queues=tuple(self._as_before(queue) for queue in self._queues),
            events=self._history.leave(),
        )

    def _as_before(self, queue: Steering) -> QueueState:
        """A queue that was drained for this was at work before, unless it was steered since."""
        left = queue.left
        if queue in self._drained and self._was_paused_by_this(queue):
            return replace(left, standing=self._before[queue.name])
        return left

    def _was_paused_by_this(self, queue: Steering) -> bool:
        was_running = self._before[queue.name].state is QueueIs.RUNNING
        return was_running and queue.status.state == "paused"

    async def _pack(self, state: State) -> Parcel:
        def pack() -> Parcel:
            return Parcel.pack(handover.write(state), list(state.descriptors()))

        try:
            return await asyncio.to_thread(pack)
        except OSError as error:
            raise HandoverRefused(f"connections cannot be packed up: {error.strerror}") from error

    async def _store(
        self, notifier: systemd.Notifier, before: systemd.Unit, parcel: Parcel
    ) -> None:
        count = len(parcel.descriptors)
        stored = await asyncio.to_thread(notifier.store_parcel, STORED, parcel.descriptors)
        now = await systemd.unit()
        if not stored or now is None or now.stored < before.stored + count:
            raise HandoverRefused(
                f"systemd's descriptor store has no room for {count} more "
                f"(FileDescriptorStoreMax= of {before.name})"
            )
        if now.job != "restart":
            raise HandoverRefused("the restart was called off")

    # -- and back ------------------------------------------------------------------------------

    async def _undo(self) -> None:
        await asyncio.gather(*(queue.ask("THAW", self._by) for queue in self._queues))
        await asyncio.gather(
            *(
                queue.ask("RESUME", "hand-over")
                for queue in self._drained
                if self._was_paused_by_this(queue)
            )
        )

    def _refused(self, reason: str, then: str) -> None:
        self._emit("handover.refused", by=self._by, reason=reason, then=then)

    def _handed_over(self, state: State, to: str) -> None:
        self._emit(
            "handover.done",
            to=to,
            connections=state.connections,
            seconds=round(time.monotonic() - state.frozen_at, 3),
        )


def _standing(queue: Steering) -> Standing:
    status = queue.status
    at = monotonic_of(status.since)
    return Standing(QueueIs(status.state), status.since, status.by, status.reason, at)
