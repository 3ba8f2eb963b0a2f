"""What is wrong with a config, in the words that its writer knows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from zqueue.printable import printable
from zqueue.toml_positions import Path as KeyPath
from zqueue.toml_positions import Place

Problem = tuple[KeyPath, str]
"""The key, as much of it as the file has, and what is wrong there."""

_EXPECTED = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "model_type": "a table",
    "dict_type": "a table",
    "tuple_type": "an endpoint or a list of endpoints",
    "greater_than_equal": "{ge} or more",
    "less_than_equal": "at most {le}",
}


class Plain(ValueError):
    """What a validator raises to have its text told as it is, without what was found.

    ``key`` is where, below the place that was checked.
    """

    def __init__(self, text: str, key: str | None = None) -> None:
        super().__init__(text)
        self.key = key


def told(problems: list[Problem], path: Path, places: Mapping[KeyPath, Place]) -> list[str]:
    """The problems as people read them, in the order of the files: ``path`` is the first."""
    order: dict[str, tuple[bool, str, int]] = {}
    for key, text in problems:
        place = places.get(key, Place(path, 0))
        where = str(place) if place.line else str(path)
        line = f"{where}: {printable(f'{dotted(key)}: {text}' if key else text)}"
        order[line] = (place.path != path, str(place.path), place.line)
    return sorted(order, key=order.__getitem__)


def refusals(
    error: ValidationError, document: dict[str, Any], root: type[BaseModel]
) -> Iterator[Problem]:
    """What ``root``, the model of the whole file, refused about ``document``, in words."""
    for refusal in error.errors(include_url=False):
        kind, location, found = refusal["type"], refusal["loc"], refusal["input"]
        context = refusal.get("ctx", {})
        cause = context.get("error")
        if isinstance(cause, Plain) and cause.key:
            location += (cause.key,)
        key = _as_written(location, document)
        if kind == "missing":
            example = "tcp://*:5559" if location[-1] == "frontend" else "tcp://*:5560"
            yield key, f'{location[-1]} is missing; say {location[-1]} = "{example}"'
        elif kind == "extra_forbidden":
            yield key, _unknown(location, root)
        elif isinstance(cause, Plain):
            yield key, str(cause)
        elif cause is not None:
            text = str(cause)
            separator = "," if text.startswith("expected") else ":"
            yield key, f"found {show(found)}{separator} {text}"
        elif kind == "literal_error":
            yield key, f"found {show(found)}, {_choices(found, context['expected'])}"
        else:
            expected = _EXPECTED[kind].format_map(context) if kind in _EXPECTED else "another value"
            yield key, f"found {show(found)}, expected {expected}"


def _as_written(location: KeyPath, document: dict[str, Any]) -> KeyPath:
    """As much of ``location`` as the file has: a default, or what is missing, has no line."""
    inside: Any = document
    for depth, part in enumerate(location):
        is_there = (
            part in inside
            if isinstance(inside, dict)
            else (isinstance(inside, list) and isinstance(part, int) and part < len(inside))
        )
        if not is_there:
            return location[:depth]
        inside = inside[part]
    return location


def _unknown(location: KeyPath, root: type[BaseModel]) -> str:
    name = str(location[-1])
    known = list(_table_at(root, location[:-1]).model_fields)
    meant = _closest(name, known)
    if meant:
        return f'unknown key; did you mean "{meant}"?'
    places = [place for table, place in _tables(root) if name in table.model_fields]
    if places:
        return f"unknown here; it belongs in {' or '.join(places)}"
    return f"unknown key; known here are {', '.join(known)}"


def _tables(table: type[BaseModel], place: KeyPath = ()) -> Iterator[tuple[type[BaseModel], str]]:
    """Each kind of table inside of ``table``, and its header in a file."""
    for name, key in table.model_fields.items():
        path: KeyPath = (*place, name)
        kind: Any = key.annotation
        if get_origin(kind) is dict:
            path, kind = (*path, "NAME"), get_args(kind)[1]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind, f"[{dotted(path)}]"
            yield from _tables(kind, path)


def _table_at(root: type[BaseModel], location: KeyPath) -> type[BaseModel]:
    kind: Any = root
    for part in location:
        is_table = isinstance(kind, type) and issubclass(kind, BaseModel)
        kind = kind.model_fields[part].annotation if is_table else get_args(kind)[1]
    found: type[BaseModel] = kind
    return found


def _choices(found: object, expected: str) -> str:
    """The choices that pydantic lists as ``'a', 'b' or 'c'``."""
    meant = _closest(found, re.findall("'([^']*)'", expected)) if isinstance(found, str) else None
    hint = f'; did you mean "{meant}"?' if meant else ""
    return "expected " + expected.replace("'", '"') + hint


def _closest(word: str, known: list[str]) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(word.lower(), known, n=1)), None)


def show(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            text = json.dumps(value[:80], ensure_ascii=False)
            return text if len(value) <= 80 else text[:-1] + '…"'
        case int():
            return str(value) if value.bit_length() <= 64 else "a huge number"
        case float():
            return str(value)
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
    return "a date or time"


def dotted(key: KeyPath) -> str:
    """As TOML writes it, with quotes where a name needs them: ``queues."a.b".frontend.bind[0]``."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", part)
            text += ("." if text else "") + (part if bare else show(part))
    return text
