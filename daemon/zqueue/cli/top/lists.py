"""What can be listed of a queue. To list something else, add it to ``LISTS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from zqueue.cli import render
from zqueue.cli.top.table import Column
from zqueue.control.client import ControlClient
from zqueue.control.messages import Client, Worker


@dataclass(frozen=True)
class Listing:
    """One list: ``key`` shows it, ``ask`` gets its rows, each of which has an ``id``. ``drains``:
    what it lists can be drained one by one."""

    key: str
    name: str
    ask: Callable[[ControlClient, str], Sequence[Any]]
    columns: tuple[Column, ...]
    drains: bool = False


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else render.short_time(seconds)


def _state(peer: Worker | Client) -> Text:
    return Text("" if peer.state == "ready" else peer.state, "yellow")


_ID = Column("ID", lambda each: str(each.id), lambda each: each.id, least=4)
_IN_FLIGHT = Column("IN FLIGHT", lambda each: str(each.in_flight), lambda each: each.in_flight)
_CONNECTED = Column(
    "CONNECTED",
    lambda each: render.duration(each.connected_for),
    lambda each: each.connected_for,
    rank=4,
)
_SILENT = Column(
    "SILENT",
    lambda each: render.duration(each.silent_for),
    lambda each: each.silent_for,
    rank=6,
)
_TYPE = Column("TYPE", lambda each: each.type, lambda each: each.type, rank=5, least=6, left=True)
_ADDRESS = Column("ADDRESS", lambda each: each.peer, lambda each: each.peer, rank=2, left=True)
_STATE = Column("", _state, lambda each: each.state, rank=2, left=True)

WORKERS = Listing(
    "w",
    "workers",
    lambda zqueued, queue: zqueued.workers(queue).workers,
    (
        _ID,
        _IN_FLIGHT,
        Column(
            "ANSWERED", lambda each: str(each.replies), lambda each: each.replies, rank=1, least=9
        ),
        Column("P50", lambda each: _time(each.p50), lambda each: each.p50, rank=1),
        Column("P99", lambda each: _time(each.p99), lambda each: each.p99, rank=1),
        Column(
            "AHEAD",
            lambda each: "-" if each.ahead is None else str(each.ahead),
            lambda each: each.ahead,
            rank=4,
        ),
        _CONNECTED,
        _SILENT,
        _TYPE,
        _ADDRESS,
        _STATE,
    ),
    drains=True,
)

CLIENTS = Listing(
    "c",
    "clients",
    lambda zqueued, queue: zqueued.clients(queue).clients,
    (
        _ID,
        Column("WAITING", lambda each: str(each.waiting), lambda each: each.waiting),
        _IN_FLIGHT,
        Column(
            "ASKED", lambda each: str(each.requests), lambda each: each.requests, rank=1, least=9
        ),
        Column("REPLIES", lambda each: str(each.replies), lambda each: each.replies, rank=3),
        Column(
            "UNREAD",
            lambda each: render.short_number(each.unsent_bytes),
            lambda each: each.unsent_bytes,
            rank=3,
        ),
        _CONNECTED,
        _SILENT,
        _TYPE,
        _ADDRESS,
        _STATE,
    ),
)

LISTS = (WORKERS, CLIENTS)
