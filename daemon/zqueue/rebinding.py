"""A queue whose sockets are made anew by a reload, and what becomes of who is connected to it.

On the wire engine they stay connected: the new queue takes up what the old one leaves, as another
process would. Else the old queue is drained first, and they connect again.
"""

from __future__ import annotations

from collections.abc import Iterable

from zqueue import handover
from zqueue.config import QueueConfig
from zqueue.engine.choice import engine_for
from zqueue.errors import EndpointError
from zqueue.handover import QueueState
from zqueue.plan import Claims
from zqueue.queue import Emit
from zqueue.states import AT_WORK
from zqueue.steering import Steering, refusal


def keeps_connections(queue: Steering, new: QueueConfig) -> bool:
    """Whether a queue can go on with its connections as the new config wants it."""
    engine, _ = engine_for(new.engine, new.type, new.frontend.reply_high_water_mark)
    return queue.status.state in AT_WORK and engine == queue.status.engine == "wire"


def claim(arriving: Iterable[Claims], leaving: Iterable[Steering]) -> None:
    """Claim what those that arrive want and nobody that leaves holds.

    Raises:
        EndpointError: something cannot be had; nothing is claimed.
    """
    arriving, held = list(arriving), [queue.claims for queue in leaving]
    try:
        for claims in arriving:
            try:
                claims.claim_free(held)
            except EndpointError as error:
                where = f"queues.{claims.name}"
                raise EndpointError(error.endpoint, error.reason, error.hint, where) from error
    except BaseException:
        for each in arriving:
            each.close()
        raise


async def freeze(queues: Iterable[Steering], by: str) -> dict[str, QueueState]:
    """Freeze these queues; what each leaves to the one that takes its place. Those that cannot be
    frozen are not in it, and go on."""
    left = {}
    for queue in queues:
        answer = await queue.ask("FREEZE", by, connections=True)
        if answer["ok"]:
            try:
                left[queue.name] = handover.duplicated(queue.left)
            except OSError:  # out of descriptors
                await queue.ask("THAW", by)
    return left


async def start(
    queue: Steering, by: str, before: str | None, left: QueueState | None, emit: Emit
) -> str:
    """Start a queue with what was ``left`` to it; what an operator made of it ``before`` stays so.

    Returns why it could not be started, or nothing.
    """
    if left is not None:
        queue.take_up(left)
    if before == "stopped":
        queue.claims.release()
        return ""
    paused = before == "paused" if before in AT_WORK else queue.starts_paused
    answer = await queue.ask("START", by, paused=paused)
    if left is not None:
        if answer["ok"]:
            answer = await queue.ask("THAW", by)
        else:
            handover.close_connections(left)
            lost = {"connections": left.connections, "requests": left.requests}
            emit("handover.lost", queue=queue.name, reason=answer["detail"], **lost)
    return refusal(answer)
