"""Whether zqueued serves, for those who decide by it: a load balancer, a container's supervisor."""

from __future__ import annotations

from zqueue.control.messages import QueueStatus, StatusResult


def not_alive(status: StatusResult) -> list[str]:
    """Why it is not alive, a line for each reason: every queue has to answer."""
    return [f"{queue.name}: does not answer" for queue in status.queues if queue.stale]


def not_ready(status: StatusResult) -> list[str]:
    """Why it is not ready, a line for each reason: every queue has to run."""
    daemon = [] if status.state == "running" else [f"zqueued is {status.state}"]
    return daemon + [reason for queue in status.queues if (reason := _not_running(queue))]


def _not_running(queue: QueueStatus) -> str:
    if queue.stale:
        return f"{queue.name}: does not answer; it was {queue.state}"
    if queue.state == "running":
        return ""
    why = f": {queue.reason}" if queue.reason else ""
    return f"{queue.name}: {queue.state} by {queue.by}{why}"
