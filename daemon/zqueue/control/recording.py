"""A recording of what a tap has shown, in the form of ``zqueuectl tap --write``.

Lines of JSON. The first says what it is: ``{"format": "zqueue tap", "version": 1, "queue": …,
"broker": …, "began": seconds since the epoch}``. Each other one is a message, with the fields of
:class:`~zqueue.control.messages.TappedMessage`, in the order in which they passed; ``{"dropped":
12}`` is where some are missing.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from zqueue.control.messages import TappedMessage, TapResult


class Head(BaseModel):
    """The first line."""

    model_config = ConfigDict(frozen=True)

    format: Literal["zqueue tap"] = "zqueue tap"
    version: Literal[1] = 1
    queue: str
    broker: str
    began: float


@dataclass(frozen=True)
class Recording:
    """A recording that was read: ``dropped`` messages are missing in it."""

    head: Head
    messages: tuple[TappedMessage, ...]
    dropped: int


class NotARecording(ValueError):
    """A line is not what a recording has there; the message says which, and what is wrong."""


def write_head(file: IO[str], head: Head) -> None:
    """Begin a recording."""
    file.write(head.model_dump_json() + "\n")


def write(file: IO[str], found: TapResult) -> None:
    """Add what a tap has found."""
    if found.dropped:
        file.write(json.dumps({"dropped": found.dropped}) + "\n")
    for message in found.messages:
        file.write(message.model_dump_json() + "\n")


def read(lines: Iterable[str]) -> Recording:
    """Read a recording. A last line that was cut off is passed over.

    Raises:
        NotARecording: what it says.
    """
    numbered = enumerate(lines, 1)
    try:
        head = Head.model_validate_json(next(numbered, (1, ""))[1])
    except ValidationError as error:
        raise NotARecording(f"line 1: not the head of a tap's recording: {_first(error)}") from None
    messages: list[TappedMessage] = []
    dropped = 0
    for number, line in numbered:
        try:
            told = json.loads(line)
            if isinstance(told, dict) and told.keys() == {"dropped"}:
                dropped += _count(told["dropped"])
            else:
                messages.append(_readable(TappedMessage.model_validate(told)))
        except RecursionError:
            raise NotARecording(f"line {number}: its JSON is too deep") from None
        except ValidationError as error:
            raise NotARecording(f"line {number}: not a message: {_first(error)}") from None
        except ValueError as error:
            if not line.endswith("\n"):
                break
            raise NotARecording(f"line {number}: {error}") from None
    return Recording(head, tuple(messages), dropped)


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("dropped is no number of messages")
    return value


def _readable(message: TappedMessage) -> TappedMessage:
    """The message, if what it says of its frames can be.

    Raises:
        ValueError: why it cannot.
    """
    if not math.isfinite(message.at):
        raise ValueError("at is no time")
    if len(message.bodies) != len(message.sizes) or len(message.sizes) > message.frames:
        raise ValueError("there are not as many bodies as sizes, or more than frames")
    for body, size in zip(message.bodies, message.sizes, strict=True):
        if len(base64.b64decode(body, validate=True)) > size:
            raise ValueError("a body is larger than its size")
    bytes.fromhex(message.client_identity)
    return message


def bodies(message: TappedMessage) -> list[bytes]:
    """The frames behind the client's routing id, as far as they were recorded."""
    return [base64.b64decode(body) for body in message.bodies]


def is_whole(message: TappedMessage) -> bool:
    """Whether all of it was recorded."""
    there = bodies(message)
    return len(there) == message.frames and all(
        len(body) == size for body, size in zip(there, message.sizes, strict=True)
    )


def requests(recording: Recording) -> Iterator[tuple[TappedMessage, TappedMessage | None]]:
    """Each request, with its first reply if there was one."""
    replies: dict[int, TappedMessage] = {}
    for message in recording.messages:
        if message.way == "reply" and message.id is not None:
            replies.setdefault(message.id, message)
    for message in recording.messages:
        if message.way == "request" and message.id is not None:
            yield message, replies.get(message.id)


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
