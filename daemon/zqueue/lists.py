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
_KINDS = {
    each.name: str(each.type)
    for each in (*dataclasses.fields(Connection), *dataclasses.fields(OpenRequest))
}
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


def _columns(row: type, *without: str) -> tuple[str, ...]:
    return tuple(each.name for each in dataclasses.fields(row) if each.name not in without)


def _connections(engine: Engine) -> tuple[Sequence[Any], int]:
    found = engine.connections()
    return found, len(found)


def _peers_at(side: Side) -> Callable[[Engine], tuple[Sequence[Any], int]]:
    def there(engine: Engine) -> tuple[Sequence[Any], int]:
        found = [each for each in engine.connections(side) if each.state != "handshake"]
        return found, len(found)

    return there


_OF_CLOSED = ("closed_for", "reason")
_OF_WORKERS = ("ahead", "service", "p50", "p99", "unasked")

LISTS: Mapping[bytes, tuple[Callable[[Engine], tuple[Sequence[Any], int]], tuple[str, ...]]] = {
    b"WORKERS": (_peers_at(Side.BACKEND), _columns(Connection, "side", "waiting", *_OF_CLOSED)),
    b"CLIENTS": (_peers_at(Side.FRONTEND), _columns(Connection, "side", *_OF_WORKERS, *_OF_CLOSED)),
    b"CONNECTIONS": (_connections, _columns(Connection)),
    b"REQUESTS": (lambda engine: engine.requests(), _columns(OpenRequest)),
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
    found, total = source(engine)
    rows = [{column: getattr(each, column) for column in columns} for each in found]
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
    except (ValueError, OverflowError):
        return None


def _is_numeric(column: str) -> bool:
    return _KINDS[column].startswith(("int", "float"))


def _unknown(column: str, columns: Sequence[str]) -> UnknownColumn:
    return UnknownColumn(f'there is no column "{column}"; there are: {", ".join(columns)}')
