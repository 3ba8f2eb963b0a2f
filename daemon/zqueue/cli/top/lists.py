"""What can be listed of a queue. To list something else, add it to ``LISTS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from zqueue.cli import render
from zqueue.cli.top.table import Column
from zqueue.control.client import ControlClient
from zqueue.control.messages import Worker


@dataclass(frozen=True)
class Listing:
    """One list: ``key`` shows it, ``ask`` gets its rows, each of which has an ``id``. ``drains``:
    what it lists can be drained one by one."""

    key: str
    name: str
    ask: Callable[[ControlClient, str], Sequence[Any]]
    columns: tuple[Column, ...]
    drains: bool = False


def _service(worker: Worker) -> str:
    return "-" if worker.service is None else render.short_time(worker.service)


def _draining(worker: Worker) -> Text:
    return Text("draining" if worker.draining else "", "yellow")


WORKERS = Listing(
    "w",
    "workers",
    lambda zqueued, queue: zqueued.workers(queue).workers,
    (
        Column("ID", lambda each: str(each.id), lambda each: each.id, least=4),
        Column("IN FLIGHT", lambda each: str(each.in_flight), lambda each: each.in_flight),
        Column(
            "ANSWERED", lambda each: str(each.answered), lambda each: each.answered, rank=1, least=9
        ),
        Column("SERVICE", _service, lambda each: each.service, rank=1),
        Column(
            "AHEAD",
            lambda each: "-" if each.ahead is None else str(each.ahead),
            lambda each: each.ahead,
            rank=4,
        ),
        Column(
            "CONNECTED",
            lambda each: render.duration(each.connected_for),
            lambda each: each.connected_for,
            rank=3,
        ),
        Column("TYPE", lambda each: each.type, lambda each: each.type, rank=5, least=6, left=True),
        Column("ADDRESS", lambda each: each.peer, lambda each: each.peer, rank=2, left=True),
        Column("", _draining, lambda each: each.draining, rank=2, left=True),
    ),
    drains=True,
)

LISTS = (WORKERS,)
