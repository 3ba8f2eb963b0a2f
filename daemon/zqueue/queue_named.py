"""The queue that a request names."""

from __future__ import annotations

from collections.abc import Mapping

from zqueue.control.server import Refusal
from zqueue.steering import Steering


def queue_named(queues: Mapping[str, Steering], name: str) -> Steering:
    """The queue with this name.

    Raises:
        Refusal: there is none.
    """
    if name not in queues:
        there = ", ".join(queues) or "none"
        raise Refusal("unknown_queue", f'there is no queue "{name}"; there are: {there}')
    return queues[name]
