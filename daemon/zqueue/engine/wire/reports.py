"""From the data path's notices to the reports that every engine makes."""

from __future__ import annotations

from typing import Any

from zqueue.engine import Report, Side
from zqueue.engine.reasons import reason_of, told

# The kinds, in the order of notices.pxd.
(
    CONNECTED,
    DISCONNECTED,
    REJECTED,
    BROKE,
    DUPLICATE,
    MALFORMED,
    RETURNED,
    STRAY,
    CONNECT_RETRIED,
    GATE_CLOSED,
    GATE_OPENED,
    ACCEPT_FAILED,
    NO_WORKERS,
    WORKER_DRAINED,
    CONGESTED,
    CLIENT_RETURNED,
    WORKER_SET_ASIDE,
    WORKER_ANSWERS_AGAIN,
    SLOW_REQUEST,
    SUPPRESSED,
    BROKER_LOOP,
) = range(21)

_LIMITED = {
    REJECTED: ("peer.rejected", "warning"),
    BROKE: ("peer.protocol_error", "warning"),
    DUPLICATE: ("peer.duplicate_id", "warning"),
    MALFORMED: ("request.malformed", "warning"),
    STRAY: ("reply.dropped", "debug"),
    CLIENT_RETURNED: ("client.returned", "info"),
    SLOW_REQUEST: ("request.slow", "warning"),
    BROKER_LOOP: ("queue.broker_loop", "warning"),
}
"""What the data path tells at most so often each second, as ``_limited`` of notices.pyx has it, and
how much it matters."""


def report(notice: dict[str, Any]) -> Report:
    """One notice as a report."""
    kind, detail = notice["kind"], notice["detail"]
    side = Side.BACKEND if notice["side"] else Side.FRONTEND
    peer = {"side": side, "peer": notice["name"]}
    more = {"suppressed": notice["suppressed"]} if notice["suppressed"] else {}
    if kind == CONNECTED:
        zmtp = f"{notice['one']}.{notice['other']}"
        return Report(
            "peer.connected", peer | {"id": notice["number"], "type": detail, "zmtp": zmtp}
        )
    if kind == DISCONNECTED:
        lasted = round(notice["one"] / 1e9, 3)
        fields = peer | {"id": notice["number"], "connected_for": lasted}
        return Report("peer.disconnected", fields | ({"reason": detail} if detail else {}))
    if kind == REJECTED:
        fields = peer | told(side, detail) | more
        return Report("peer.rejected", fields, reason_of(detail).level)
    if kind == BROKE:
        return Report("peer.protocol_error", peer | told(side, detail) | more)
    if kind == DUPLICATE:
        return Report("peer.duplicate_id", peer | {"holder": detail} | more)
    if kind == MALFORMED:
        return Report("request.malformed", {"peer": notice["name"], "reason": detail} | more)
    if kind == RETURNED:
        return Report("request.returned", {"peer": notice["name"], "requests": notice["one"]})
    if kind == STRAY:
        return Report("reply.dropped", {"peer": notice["name"], "reason": detail} | more)
    if kind == SUPPRESSED:
        event, level = _LIMITED[notice["one"]]
        return Report("peer.repeated", {"repeated": event, "times": notice["other"]}, level)
    if kind == SLOW_REQUEST:
        return Report("request.slow", _slowness(notice) | more)
    return _of_a_socket(kind, side, notice)


def _slowness(notice: dict[str, Any]) -> dict[str, Any]:
    waited, service = notice["one"] / 1e9, notice["other"] / 1e9
    attempts, size, reply_size, unsent = notice["more"]
    return {
        "id": notice["number"],
        "peer": notice["detail"],
        "worker": notice["name"],
        "took": round(waited + service, 6),
        "waited": round(waited, 6),
        "service": round(service, 6),
        "attempts": attempts,
        "size": size,
        "reply_size": reply_size,
        "unsent": unsent,
    }


def _of_a_socket(kind: int, side: Side, notice: dict[str, Any]) -> Report:
    endpoint = {"side": side, "endpoint": notice["name"]}
    detail = notice["detail"]
    if kind == GATE_CLOSED:
        what = "connections" if detail == "max_connections" else "descriptors"
        return Report(
            "listener.closed_gate", endpoint | {what: notice["one"], "limit": notice["other"]}
        )
    if kind == GATE_OPENED:
        return Report("listener.opened_gate", endpoint)
    if kind == ACCEPT_FAILED:
        return Report("listener.accept_failed", endpoint | {"error": detail})
    if kind == BROKER_LOOP:
        itself = {"itself": True} if notice["other"] else {}
        return Report("queue.broker_loop", {"peer": notice["name"], "also": detail} | itself)
    if kind == NO_WORKERS:
        return Report("queue.no_workers")
    if kind == CONGESTED:
        return Report("queue.congested", {"reason": detail, "peer": notice["name"]})
    if kind == CLIENT_RETURNED:
        away_for = round(notice["other"] / 1e9, 3)
        found = {"peer": notice["name"], "id": notice["number"], "away_for": away_for}
        return Report("client.returned", found | {"replies": notice["one"]})
    worker = {"peer": notice["name"], "id": notice["number"]}
    if kind == WORKER_DRAINED:
        return Report("worker.drained", worker)
    if kind == WORKER_SET_ASIDE:
        late = round(notice["other"] / 1e9, 3)
        return Report("worker.set_aside", worker | {"service_timeout": late})
    if kind == WORKER_ANSWERS_AGAIN:
        return Report("worker.answers_again", worker)
    raise ValueError(f"notice {kind} means nothing")
