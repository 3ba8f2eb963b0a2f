"""Lists of workers, clients, connections and requests as a person reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from zqueue.cli.output import say
from zqueue.cli.render import duration, new_console, short_number, short_time
from zqueue.cli.tables import Table
from zqueue.control.messages import ListResult

_COLUMNS = {
    "workers": (
        *("id", "peer", "identity", "type", "connected_for", "silent_for", "in_flight", "ahead"),
        *("requests", "replies", "p50", "p99", "service", "state"),
    ),
    "clients": (
        *("id", "peer", "identity", "type", "connected_for", "silent_for", "requests", "waiting"),
        *("in_flight", "replies", "received_bytes", "sent_bytes", "unsent_bytes", "state"),
    ),
    "connections": (
        *("id", "side", "peer", "identity", "type", "zmtp", "connected_for", "silent_for"),
        *("in_flight", "received_bytes", "sent_bytes", "state", "closed_for", "reason"),
    ),
    "requests": (
        *("id", "state", "age", "state_for", "attempts", "size", "client", "client_peer"),
        *("client_identity", "worker", "worker_peer"),
    ),
}
_SHOWN_BY: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("identity", "client_identity"), lambda value: _identity(value)),
    **dict.fromkeys(("received_bytes", "sent_bytes", "unsent_bytes", "size"), short_number),
    **dict.fromkeys(
        (
            *("connected_for", "silent_for", "closed_for", "age", "state_for"),
            *("p50", "p99", "service"),
        ),
        lambda seconds: short_time(seconds) if seconds < 60 else duration(seconds),
    ),
}
_STYLES = {"held": "yellow", "draining": "yellow", "aside": "red", "closed": "dim"}


def show(what: str, looks: Iterable[ListResult], *, live: bool) -> None:
    """Each look as a table, drawn anew in its place if ``live``."""
    console = new_console()
    if not live or not console.is_terminal:
        for result in looks:
            console.print(_table(what, result))
            if short := _left_out(what, result):
                say(short, err=True)
        return
    with Live(console=console, auto_refresh=False, screen=True) as screen:
        for result in looks:
            screen.update(Group(_table(what, result), _left_out(what, result)), refresh=True)


def _table(what: str, result: ListResult) -> Table:
    columns = _COLUMNS[what]
    table = Table(*(name.upper().replace("_", " ") for name in columns))
    for row in getattr(result, what):
        style = _STYLES.get(row.state, "")
        table.add_row(*(Text(_cell(name, getattr(row, name)), style) for name in columns))
    return table


def _cell(name: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    return _SHOWN_BY[name](value) if name in _SHOWN_BY else str(value)


def _left_out(what: str, result: ListResult) -> str:
    shown = len(getattr(result, what))
    return f"{shown} of {result.total} {what}" if shown < result.total else ""


def _identity(value: str) -> str:
    """As text, if it is."""
    text = bytes.fromhex(value).decode(errors="replace")
    return text if text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text else value
