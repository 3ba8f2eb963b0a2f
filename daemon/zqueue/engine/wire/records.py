"""From the data path's rows to the records that every engine gives."""

from __future__ import annotations

from typing import Any, Literal

from zqueue.engine import Attempt, Connection, DeadRequest, OpenRequest, Side, Tapped

_SIDES = (Side.FRONTEND, Side.BACKEND)


def connection(row: dict[str, Any]) -> Connection:
    return Connection(
        id=row["number"],
        side=_SIDES[row["side"]],
        peer=row["name"],
        identity=row["id"].hex(),
        type=row["type"],
        zmtp=f"{row['major']}.{row['minor']}" if row["arrived"] else "",
        state=_state(row),
        connected_for=_seconds(row["age"]),
        silent_for=_seconds(row["silent_for"]),
        requests=row["requests"],
        replies=row["replies"],
        unasked=row["unasked"],
        waiting=row["waiting"],
        in_flight=row["in_flight"],
        ahead=row["ahead"] or None,
        service=row["service"] / 1e9 or None,
        p50=row["p50"] / 1e9 or None,
        p99=row["p99"] / 1e9 or None,
        received_bytes=row["received_bytes"],
        sent_bytes=row["sent_bytes"],
        unsent_bytes=row["unsent_bytes"],
        closed_for=None if row["closed_for"] is None else _seconds(row["closed_for"]),
        reason=row["reason"],
        broker=row["broker"],
    )


def _state(
    row: dict[str, Any],
) -> Literal["handshake", "ready", "held", "draining", "aside", "closed"]:
    if row["closed_for"] is not None:
        return "closed"
    if not row["arrived"]:
        return "handshake"
    if row["aside"]:
        return "aside"
    if row["draining"]:
        return "draining"
    return "held" if row["held_back"] else "ready"


def open_request(row: dict[str, Any]) -> OpenRequest:
    return OpenRequest(
        id=row["number"],
        state="in_flight" if row["worker"] else "waiting",
        age=_seconds(row["age"]),
        state_for=_seconds(row["for"]),
        attempts=row["attempts"],
        size=row["size"],
        client=row["peer"] or None,
        client_peer=row["client_name"],
        client_identity=row["id"].hex(),
        worker=row["worker"] or None,
        worker_peer=row["worker_name"],
    )


def _seconds(nanoseconds: int) -> float:
    return round(nanoseconds / 1e9, 6)


def tapped(copied: dict[str, Any], since_the_epoch: float) -> Tapped:
    is_reply = bool(copied["way"])
    timed = is_reply and copied["number"]
    return Tapped(
        way="reply" if is_reply else "request",
        number=copied["number"],
        at=round(copied["at"] / 1e9 + since_the_epoch, 6),
        waited=copied["waited"] / 1e9 if timed else None,
        service=copied["service"] / 1e9 if timed else None,
        client=copied["client"] or None,
        client_peer=copied["client_name"],
        identity=copied["bodies"][0],
        identity_size=copied["sizes"][0],
        worker=copied["worker"] or None,
        worker_peer=copied["worker_name"],
        frames=copied["frames"] - 1,
        sizes=tuple(copied["sizes"][1:]),
        bodies=tuple(copied["bodies"][1:]),
        whole=bool(copied["whole"]),
    )


def dead_request(died: dict[str, Any], since_the_epoch: float) -> DeadRequest:
    def at(nanoseconds: int) -> float:
        return round(nanoseconds / 1e9 + since_the_epoch, 6)

    return DeadRequest(
        number=died["number"],
        cause=died["cause"],
        received_at=at(died["received_at"]),
        died_at=at(died["died_at"]),
        client=died["client"],
        named=died["named"],
        peer=died["peer"],
        attempts=died["attempts"],
        history=tuple(
            Attempt(
                worker=each["worker"],
                peer=each["peer"],
                given_at=at(each["given_at"]),
                ended_at=at(each["ended_at"]),
                cause=each["cause"],
            )
            for each in died["history"]
        ),
        frames=tuple(died["frames"]),
        envelope=died["frames"].index(b"") + 1 if died["envelope"] else 0,
    )
