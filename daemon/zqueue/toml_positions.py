"""The lines on which the keys of a TOML document stand; :mod:`tomllib` does not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

Path = tuple[str | int, ...]
"""Where a value is: the keys, and the indices of arrays, that lead to it."""

# How a statement of several lines ends: with an array, an inline table or a string, and nothing
# after it. Only such lines are tried, or a long array would be parsed again for each of its lines.
_END = re.compile(r"""(\]|\}|\"{3}|'{3})[ \t]*(#.*)?$""")


@dataclass(frozen=True)
class Place:
    """A line of a file, counted from 1."""

    path: FilePath
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def positions(text: str) -> dict[Path, int]:
    """The line, counted from 1, of each key, table and array element in ``text``.

    What a statement holds inside (an inline table, an array of several lines) has the line on which
    the statement begins. A table has the line of its header, or of the first key that implies it.

    Args:
        text: a document that :func:`tomllib.loads` accepts.
    """
    lines: dict[Path, int] = {}
    lengths: dict[Path, int] = {}
    table: Path = ()
    for line, statement, content in _statements(text):
        if statement.lstrip().startswith("["):
            table = _header(content, line, lines, lengths)
        else:
            for path in _paths(content, table):
                lines.setdefault(path, line)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Each statement: its first line, its text, and what it says when it is alone.

    The shortest run of lines that tomllib accepts is a statement, since a line that ends inside of
    an array or a string cannot be accepted without the rest. So nothing here knows TOML's grammar.
    """
    pending: list[str] = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        pending.append(line)
        if len(pending) > 1 and not _END.search(line):
            continue
        statement = "\n".join(pending)
        try:
            content = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if content:
            yield number - len(pending) + 1, statement, content
        pending = []


def _header(
    content: dict[str, Any], line: int, lines: dict[Path, int], lengths: dict[Path, int]
) -> Path:
    """Enter the table that a ``[header]`` or ``[[header]]`` opens, and return its path.

    ``lengths`` has for each array of tables how many it has so far: a name in a header that is an
    array means its last table.
    """
    path: Path = ()
    inside: Any = content
    while isinstance(inside, dict) and inside:
        if path in lengths:
            path += (lengths[path] - 1,)
        [(key, inside)] = inside.items()
        path += (key,)
        lines.setdefault(path, line)
    if isinstance(inside, list):
        lengths[path] = lengths.get(path, 0) + 1
        path += (lengths[path] - 1,)
    lines[path] = line
    return path


def _paths(value: Any, path: Path) -> Iterator[Path]:
    """The path of everything inside of ``value``."""
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in members:
        yield (*path, key)
        if isinstance(member, dict | list):
            yield from _paths(member, (*path, key))
