"""A dead letter as its frames, and as a line of JSON: the form of ``zqueuectl dead export``.

A line has all of the letter but its sizes, with its frames in two lists, ``envelope`` and ``body``.
A frame that is UTF-8 is text; any other is ``{"base64": "…"}``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any

from zqueue.control.messages import DeadLetter

_INSTEAD = {"sizes", "content", "envelope"}


def split(content: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """The frames of a letter, from what is in it and the size of each."""
    begin = 0
    for size in sizes:
        yield content[begin : begin + size]
        begin += size


def frames(letter: DeadLetter) -> list[bytes]:
    """The message as its client sent it. The letter must have its content."""
    return list(split(base64.b64decode(letter.content or ""), letter.sizes))


def exported(letter: DeadLetter) -> dict[str, Any]:
    """A letter, which must have its content, as JSON can hold and people can read it."""
    written = [_written(frame) for frame in frames(letter)]
    parts = {"envelope": written[: letter.envelope], "body": written[letter.envelope :]}
    return letter.model_dump(mode="json", exclude=_INSTEAD) | parts


def imported(line: str | bytes) -> DeadLetter:
    """The letter that such a line is about.

    Raises:
        ValueError: the line is no dead letter.
    """
    try:
        written = json.loads(line)
    except RecursionError:
        raise ValueError("its JSON is too deep") from None
    if not isinstance(written, dict) or not all(
        isinstance(written.get(part), list) for part in ("envelope", "body")
    ):
        raise ValueError("not a line of zqueuectl dead export")
    envelope, body = (
        [_read(frame) for frame in written.pop(part)] for part in ("envelope", "body")
    )
    content = b"".join((*envelope, *body))
    parts = {
        "envelope": len(envelope),
        "sizes": [len(frame) for frame in (*envelope, *body)],
        "content": base64.b64encode(content).decode(),
    }
    return DeadLetter.model_validate(written | parts)


def _written(frame: bytes) -> str | dict[str, str]:
    try:
        return frame.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(frame).decode()}


def _read(frame: object) -> bytes:
    if isinstance(frame, str):
        return frame.encode()
    if isinstance(frame, dict) and isinstance(frame.get("base64"), str):
        return base64.b64decode(frame["base64"], validate=True)
    raise ValueError('a frame is text, or {"base64": "…"}')
