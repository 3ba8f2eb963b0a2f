"""Endpoints of a config that are in each other's way.

They are looked for in the document, not in the models, so that they are told even if something else
is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zqueue import endpoints
from zqueue.config_problems import Problem, dotted, show
from zqueue.toml_positions import Path as KeyPath
from zqueue.toml_positions import Place

_SIDES = ("frontend", "backend")
_Use = Literal["bind", "connect"]


def endpoints_written(document: dict[str, Any]) -> Iterator[tuple[KeyPath, _Use, str]]:
    """Each endpoint of a document that may be wrong elsewhere: its key, its use and its text."""
    control = _table(document.get("control"))
    yield from _texts(("control", "endpoint"), "bind", control.get("endpoint"))
    events = _table(document.get("events"))
    yield from _texts(("events", "publish"), "bind", events.get("publish"))
    listen = _table(document.get("metrics")).get("listen")
    if isinstance(listen, str):
        yield ("metrics", "listen"), "bind", listening_endpoint(listen)
    for name, queue in _table(document.get("queues")).items():
        queue = _table(queue)
        for side_name in _SIDES:
            key: KeyPath = ("queues", name, side_name)
            side = queue.get(side_name)
            yield from _texts(key, "bind", side if isinstance(side, str) else None)
            yield from _texts((*key, "bind"), "bind", _table(side).get("bind"))
            yield from _texts((*key, "connect"), "connect", _table(side).get("connect"))
        for word in ("capture", "control"):
            yield from _texts(("queues", name, word), "bind", queue.get(word))


def listening_endpoint(listen: str) -> str:
    """``[metrics] listen`` as an endpoint: it is a path, or HOST:PORT."""
    return f"ipc://{listen}" if listen.startswith("/") else f"tcp://{listen}"


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(key: KeyPath, use: _Use, value: object) -> Iterator[tuple[KeyPath, _Use, str]]:
    if isinstance(value, str):
        yield key, use, value
    elif isinstance(value, list):
        for index, text in enumerate(value):
            if isinstance(text, str):
                yield (*key, index), use, text


@dataclass(frozen=True)
class _Claim:
    key: KeyPath
    text: str
    endpoint: endpoints.Endpoint


def conflicts(document: dict[str, Any], places: Mapping[KeyPath, Place]) -> Iterator[Problem]:
    """Endpoints that two sockets bind to, and queues that connect to themselves."""
    bound: dict[object, list[_Claim]] = {}
    connecting = []
    for key, use, text in endpoints_written(document):
        try:
            claim = _Claim(key, text, endpoints.parse(text, use))
        except ValueError:
            continue  # the models say so
        if use == "connect":
            connecting.append(claim)
            continue
        others = bound.setdefault(_slot(claim.endpoint), [])
        for other in others:
            if endpoints.overlaps(claim.endpoint, other.endpoint):
                yield key, f"{show(text)} is taken by {_other(other, claim, places)}"
                break
        others.append(claim)
    for claim in connecting:
        for other in bound.get(_slot(claim.endpoint), []):
            if other.key[:2] == claim.key[:2] and endpoints.reaches(claim.endpoint, other.endpoint):
                yield (
                    claim.key,
                    f"{show(claim.text)} is this queue itself, "
                    f"bound by {_other(other, claim, places)}; connect to something else",
                )
                break


def _slot(endpoint: endpoints.Endpoint) -> object:
    """Only endpoints of one slot can be in each other's way."""
    return endpoint.port if endpoint.transport == "tcp" else endpoints.normal_path(endpoint)


def _other(other: _Claim, claim: _Claim, places: Mapping[KeyPath, Place]) -> str:
    place = places[other.key]
    same_file = place.path == places[claim.key].path
    where = f"{dotted(other.key)} ({f'line {place.line}' if same_file else place})"
    return where if other.text == claim.text else f"{where}, {show(other.text)}"
