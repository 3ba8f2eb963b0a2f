"""How zqueuectl shows dead letters to a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from zqueue.cli.render import duration, new_console, short_time
from zqueue.cli.tables import Table
from zqueue.control.letters import frames
from zqueue.control.messages import DeadLetter
from zqueue.plurals import counted
from zqueue.printable import printable

_SHOWN_OF_A_FRAME = 4096
_SHOWN_FRAMES = 100
_A_ROW = 16


def letters(found: Sequence[DeadLetter]) -> None:
    """A line for each."""
    table = Table("ID", "DIED", "REASON", "ATTEMPTS", "AGE", "SIZE", "CLIENT")
    for each in found:
        table.add_row(
            each.id,
            _clock(each.died_at),
            each.reason,
            str(each.attempts),
            _lasted(each.received_at, each.died_at),
            str(each.size),
            each.peer or each.client,
        )
    new_console().print(table)


def letter(found: DeadLetter, in_hex: bool) -> None:
    """All there is to know of one."""
    console = new_console()
    told = "it was told" if found.told else "it was not told"
    where = f", from {found.peer}" if found.peer else ", which had left"
    console.print(
        f"{found.id}\n"
        f"died      {_clock(found.died_at)} of {found.reason}, "
        f"{_lasted(found.received_at, found.died_at)} after it was received\n"
        f"client    {_routing_id(found)}{where}; {told}\n"
        f"attempts  {found.attempts}{_unfinished(found)}"
    )
    if found.history:
        console.print(_history(found))
    if found.content is None:
        sizes = ", ".join(map(str, found.sizes[found.envelope : found.envelope + _SHOWN_FRAMES]))
        console.print(f"body      frames of {sizes} bytes; they are for those who may steer")
        return
    for number, frame in enumerate(frames(found)[: found.envelope + _SHOWN_FRAMES]):
        part = "envelope" if number < found.envelope else "body"
        console.print(
            f"{part:<9} frame {number + 1} of {len(found.sizes)}, {counted(len(frame), 'byte')}"
        )
        for line in _shown(frame, in_hex):
            console.print(f"  {line}", soft_wrap=True)
    if len(found.sizes) > found.envelope + _SHOWN_FRAMES:
        console.print("and more frames; --json shows all")


def _routing_id(found: DeadLetter) -> str:
    """One that the client gave itself is mostly text."""
    text = bytes.fromhex(found.client).decode(errors="replace")
    readable = found.named and text.isprintable() and "\ufffd" not in text
    return f'"{text}"' if readable else found.client


def _unfinished(found: DeadLetter) -> str:
    with_one_more = found.attempts > len(found.history)
    return ", the last of which had not failed yet" if with_one_more else ""


def _history(found: DeadLetter) -> Table:
    table = Table("WORKER", "ADDRESS", "GIVEN", "FOR", "THEN")
    for attempt in found.history:
        table.add_row(
            str(attempt.worker),
            attempt.peer,
            _clock(attempt.given_at),
            _lasted(attempt.given_at, attempt.ended_at),
            attempt.reason,
        )
    return table


def _shown(frame: bytes, in_hex: bool) -> Iterator[str]:
    text = None if in_hex else _text(frame)
    if text is None:
        yield from _hexadecimal(frame[:_SHOWN_OF_A_FRAME])
    else:
        # What a client sent must not steer this terminal.
        for line in text[:_SHOWN_OF_A_FRAME].splitlines():
            yield printable(line)
    left = len(frame if text is None else text) - _SHOWN_OF_A_FRAME
    if left > 0:
        yield f"… {left} more {'bytes' if text is None else 'characters'}; --json shows all"


def _text(frame: bytes) -> str | None:
    try:
        return frame.decode()
    except UnicodeDecodeError:
        return None


def _hexadecimal(data: bytes) -> Iterator[str]:
    for begin in range(0, len(data), _A_ROW):
        row = data[begin : begin + _A_ROW]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{begin:08x}  {row.hex(' '):<{3 * _A_ROW}} {text}"


def _clock(moment: float) -> str:
    return datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _lasted(begin: float, end: float) -> str:
    seconds = max(0.0, end - begin)
    return duration(seconds) if seconds >= 60 else short_time(seconds)
