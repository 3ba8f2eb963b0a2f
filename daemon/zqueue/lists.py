"""Lists of a queue's workers, clients, connections and requests: chosen from, sorted, cut short."""

from __future__ import annotations

import dataclasses
import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from zqueue.engine import Connection, Engine, OpenRequest, Side
from zqueue.quantities import parse_duration, parse_size

Row = dict[str, Any]

_CONDITION = re.compile(r"\s*([a-z_0-9]+)\s*(!=|>=|<=|=|>|<)\s*(.*?)\s*")
_DURATIONS = frozenset(
    ("connected_for", "silent_for", "closed_for", "service", "p50", "p99", "age", "state_for")
)
_SIZES = frozenset(("received_bytes", "sent_bytes", "unsent_bytes", "size"))
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


class UnknownColumn(ValueError):
    """A list has no such column, or it is not to be compared like this; the message says what
    is."""


def connections(engine: Engine, columns: Sequence[str]) -> tuple[list[Row], int]:
    """Every connection, and those that have ended of late; how many there are."""
    rows = [dataclasses.asdict(each) for each in engine.connections()]
    return rows, len(rows)


def of_side(side: Side) -> Callable[[Engine, Sequence[str]], tuple[list[Row], int]]:
    """Those peers of one side that are connected."""

    def open_ones(engine: Engine, columns: Sequence[str]) -> tuple[list[Row], int]:
        rows = [
            {column: getattr(each, column) for column in columns}
            for each in engine.connections()
            if each.side is side and each.state not in ("handshake", "closed")
        ]
        return rows, len(rows)

    return open_ones


def requests(engine: Engine, columns: Sequence[str]) -> tuple[list[Row], int]:
    """What waits and what is in flight; how many there are, if not all are listed."""
    found, in_all = engine.requests()
    return [dataclasses.asdict(each) for each in found], in_all


_ALL = tuple(each.name for each in dataclasses.fields(Connection))
_OF_A_CLIENT = tuple(
    name
    for name in _ALL
    if name not in ("side", "ahead", "service", "p50", "p99", "closed_for", "reason")
)
_OF_A_WORKER = tuple(
    name for name in _ALL if name not in ("side", "waiting", "closed_for", "reason")
)
_OF_A_REQUEST = tuple(each.name for each in dataclasses.fields(OpenRequest))

LISTS: Mapping[
    bytes, tuple[Callable[[Engine, Sequence[str]], tuple[list[Row], int]], tuple[str, ...]]
] = {
    b"WORKERS": (of_side(Side.BACKEND), _OF_A_WORKER),
    b"CLIENTS": (of_side(Side.FRONTEND), _OF_A_CLIENT),
    b"CONNECTIONS": (connections, _ALL),
    b"REQUESTS": (requests, _OF_A_REQUEST),
}
"""What each word lists, and by what columns."""


def listed(
    word: bytes,
    engine: Engine | None,
    *,
    filter: Iterable[str] = (),
    sort: str | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """``{"rows": […], "total": how many there are in all}``, the answer to one of :data:`LISTS`.

    ``filter``: conditions that all hold, ``COLUMN=VALUE`` or with ``!=``, ``<``, ``<=``, ``>``,
    ``>=``. Text may have ``*`` and ``?`` in it; durations and sizes are written as in the config. A
    value that is not known meets no condition. ``sort``: by this column, from the largest with a
    ``-`` before it; what is not known comes last. Without an ``engine`` there is nothing.

    Raises:
        UnknownColumn: what it says.
        LookupError, TimeoutError: as the engine's methods.
    """
    source, columns = LISTS[word]
    conditions = [_condition(text, columns) for text in filter]
    by = sort.removeprefix("-") if sort is not None else ""
    if by and by not in columns:
        raise _unknown(by, columns)
    if engine is None:
        return {"rows": [], "total": 0}
    rows, total = source(engine, columns)
    rows = [row for row in rows if all(holds(row) for holds in conditions)]
    if by:
        known = [row for row in rows if row[by] is not None]
        unknown = [row for row in rows if row[by] is None]
        known.sort(key=lambda row: row[by], reverse=str(sort).startswith("-"))
        rows = known + unknown
    return {"rows": rows if limit is None else rows[:limit], "total": total}


def _condition(text: str, columns: Sequence[str]) -> Callable[[Row], bool]:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise UnknownColumn(f'"{text}" is no condition; write COLUMN=VALUE, or with != < <= > >=')
    column, comparison, written = found.groups()
    if column not in columns:
        raise _unknown(column, columns)
    compare = _COMPARED[comparison]
    number = _number(column, written)

    def holds(row: Row) -> bool:
        value = row[column]
        if value is None:
            return False
        if isinstance(value, str):
            if comparison in ("=", "!="):
                return compare(fnmatch.fnmatchcase(value, written), True)
            return compare(value, written)
        return number is not None and compare(value, number)

    if number is None and _is_numeric(column):
        raise UnknownColumn(f'"{written}" is nothing that {column} can be compared with')
    return holds


def _number(column: str, written: str) -> float | None:
    try:
        if column in _DURATIONS:
            return parse_duration(written)
        return float(parse_size(written) if column in _SIZES else int(written))
    except ValueError:
        return None


def _is_numeric(column: str) -> bool:
    kinds = {each.name: str(each.type) for each in dataclasses.fields(Connection)}
    kinds |= {each.name: str(each.type) for each in dataclasses.fields(OpenRequest)}
    return kinds[column].startswith(("int", "float"))


def _unknown(column: str, columns: Sequence[str]) -> UnknownColumn:
    return UnknownColumn(f'there is no column "{column}"; there are: {", ".join(columns)}')
