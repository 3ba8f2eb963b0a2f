"""Lists of workers, clients, connections and requests as a person reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from zqueue.cli.lists import Found
from zqueue.cli.output import say
from zqueue.cli.render import duration, new_console, short_number, short_time
from zqueue.cli.tables import Table, harmless

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


def show(looks: Iterable[Found], *, live: bool) -> None:
    """Each look as a table, drawn anew in its place if ``live``."""
    console = new_console()
    if not live or not console.is_terminal:
        for found in looks:
            console.print(_table(found))
            for short in _left_out(found):
                say(short, err=True)
        return
    with Live(console=console, auto_refresh=False, screen=True) as screen:
        for found in looks:
            screen.update(Group(_table(found), *map(harmless, _left_out(found))), refresh=True)


def _table(found: Found) -> Table:
    """With the queue of each row, unless there is but one."""
    columns, several = _COLUMNS[found.what], len(found.results) > 1
    names = (("queue",) if several else ()) + columns
    table = Table(*(name.upper().replace("_", " ") for name in names))
    for queue, row in found.rows:
        style = _STYLES.get(row.state, "")
        cells = [_cell(name, getattr(row, name)) for name in columns]
        table.add_row(*(Text(cell, style) for cell in ((queue, *cells) if several else cells)))
    return table


def _cell(name: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    return _SHOWN_BY[name](value) if name in _SHOWN_BY else str(value)


def _left_out(found: Found) -> Iterator[str]:
    shown = len(found.rows)
    if shown < found.total:
        yield f"{shown} of {found.total} {found.what}"
    yield from found.without.values()


def _identity(value: str) -> str:
    """As text, if it is."""
    text = bytes.fromhex(value).decode(errors="replace")
    return text if text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text else value
