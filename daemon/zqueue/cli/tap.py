"""``zqueuectl tap`` and ``zqueuectl replay``: what passes, and the same again."""

from __future__ import annotations

import re
import sys
import time
from typing import IO, TYPE_CHECKING, Any

import click

from zqueue.cli import completion
from zqueue.cli.calls import ANSWER_WITHIN, Options, Seconds, called, fail, takes_options
from zqueue.cli.output import private_file, say, say_json
from zqueue.plurals import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zqueue.control.client import ControlClient
    from zqueue.control.messages import TappedMessage, TapResult

    SizeType = click.ParamType[int]
    PatternType = click.ParamType[re.Pattern[bytes]]
    SpeedType = click.ParamType[float]
else:
    SizeType = PatternType = SpeedType = click.ParamType  # generic only in newer versions of click

_ALL = 1 << 30


class Bytes(SizeType):
    """``4096``, ``64KiB``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from zqueue.quantities import parse_size

        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Pattern(PatternType):
    """A regular expression of Python, for bytes."""

    name = "regex"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> re.Pattern[bytes]:
        if isinstance(value, re.Pattern):
            return value
        try:
            return re.compile(str(value).encode())
        except re.error as error:
            self.fail(f"{value!r} is no regular expression: {error}", param, ctx)


class Speed(SpeedType):
    """``1``, ``2.5``, ``max``."""

    name = "speed"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if value == "max":
            return 0.0
        try:
            speed = float(value)
        except ValueError:
            speed = 0.0
        if not 0.001 <= speed <= 1000:
            self.fail(f'{value!r} is no speed; write a number such as 2, or "max"', param, ctx)
        return speed


@click.command()
@takes_options
@click.argument("queue", required=False, metavar="[QUEUE]", shell_complete=completion.queues)
@click.option(
    "--client",
    metavar="WHO",
    help="Only this client's: its id, or its address or routing id, in which * and ? may stand.",
)
@click.option("--worker", metavar="WHO", help="Only what this worker has answered.")
@click.option("--smallest", type=Bytes(), metavar="SIZE", help="Only messages that are so large.")
@click.option("--largest", type=Bytes(), metavar="SIZE", help="Only messages that are no larger.")
@click.option(
    "--took",
    type=Seconds(),
    metavar="DURATION",
    help="Only requests whose reply took so long or longer, with that reply.",
)
@click.option(
    "--contains",
    metavar="TEXT",
    help="Only messages with this text in their first 64 KiB; the daemon looks for it.",
)
@click.option(
    "--match",
    type=Pattern(),
    metavar="REGEX",
    help="Only messages in which zqueuectl finds this, in as much as --bytes lets it have. "
    "Where much passes, --contains loses less.",
)
@click.option(
    "--bytes",
    "content",
    type=Bytes(),
    metavar="SIZE",
    help="How much of a message is shown. [256, with --write all of it]",
)
@click.option(
    "--render",
    type=click.Choice(["text", "hex", "json"]),
    default="text",
    help="How it is shown. [text]",
)
@click.option(
    "--write",
    "file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help='Record it there, for "replay"; what passes is then not shown.',
)
@click.option("--count", type=click.IntRange(1), metavar="COUNT", help="End after so many.")
@click.pass_obj
def tap(
    options: Options | None,
    /,
    queue: str | None,
    content: int | None,
    match: re.Pattern[bytes] | None,
    render: str,
    file: str | None,
    count: int | None,
    **wish: Any,
) -> None:
    """Show the messages that pass through a queue, until Ctrl-C.

    The queue's "tap" in the config has to allow it. -> is a request, <- a reply with the number of
    its request, how long that waited for a worker and how long it was there. A reply is shown if
    its request was. What comes too fast to be shown is left out, and told of: the queue waits for
    nobody.
    """
    with called(options, ANSWER_WITHIN) as (zqueued, how):
        most = content if content is not None else _ALL if file is not None else 256
        looks = zqueued.tap(*((queue,) if queue else ()), content=most, **wish)
        if file is not None:
            try:
                with private_file(file, "ascii") as out:
                    _record(zqueued, _some(looks, match, count), out)
            except OSError as error:
                if file == "-":
                    raise
                fail(how, "failed", f"{file}: {error.strerror}", 1)
            return
        from zqueue.cli import render_tap

        for found in _some(looks, match, count):
            if found.dropped:
                say(
                    f"{counted(found.dropped, 'message was', 'messages were')} left out here",
                    err=True,
                )
            for message in found.messages:
                if how.json:
                    say_json(message.model_dump(mode="json"), None)
                else:
                    say(render_tap.line(message, render))
            sys.stdout.flush()


def _some(
    looks: Iterator[TapResult], match: re.Pattern[bytes] | None, count: int | None
) -> Iterator[TapResult]:
    """Those that match, ``count`` of them."""
    left = count
    shown: set[int] = set()
    for found in looks:
        messages = tuple(each for each in found.messages if _matches(each, match, shown))
        if left is not None:
            messages = messages[:left]
            left -= len(messages)
        yield found.model_copy(update={"messages": messages})
        if left == 0:
            return


def _matches(message: TappedMessage, match: re.Pattern[bytes] | None, shown: set[int]) -> bool:
    """``shown`` are the requests that did: their replies do, too."""
    if match is None:
        return True
    from zqueue.control import recording

    if message.way == "reply" and message.id in shown:
        shown.discard(message.id)
        return True
    found = any(match.search(body) for body in recording.bodies(message))
    if found and message.way == "request" and message.id is not None:
        shown.add(message.id)
    return found


def _record(zqueued: ControlClient, looks: Iterator[TapResult], file: IO[str]) -> None:
    from zqueue.control import recording

    messages = dropped = 0
    began = False
    try:
        for found in looks:
            if not began:
                began = True
                head = recording.Head(
                    queue=found.queue, broker=zqueued.status().name, began=time.time()
                )
                recording.write_head(file, head)
                say(f"recording {found.queue} to {file.name}; Ctrl-C ends it", err=True)
            recording.write(file, found)
            file.flush()
            messages += len(found.messages)
            dropped += found.dropped
    except KeyboardInterrupt:
        pass
    say(f"{counted(messages, 'message')} recorded, {dropped} left out", err=True)


@click.command()
@takes_options
@click.argument("file", type=click.File("r", encoding="ascii"))
@click.argument("target", metavar="ENDPOINT")
@click.option(
    "--speed",
    type=Speed(),
    default=1.0,
    metavar="FACTOR",
    help='How fast, against the recording; "max": as fast as replies come. [1]',
)
@click.option(
    "--patience",
    type=Seconds(),
    default=5.0,
    metavar="DURATION",
    help="Give up when no reply has come for so long. [5s]",
)
@click.pass_obj
def replay(
    options: Options | None, file: IO[str], target: str, speed: float, patience: float
) -> None:
    """Ask again what "tap --write" has recorded, and compare the replies.

    ENDPOINT is any queue's frontend, or a ROUTER, or a REP: tcp://… or ipc://…. Exit code 1 if a
    reply differs or does not come.
    """
    import zmq

    from zqueue.cli import render_tap
    from zqueue.control import recording
    from zqueue.control.replay import replay as ask_again

    how = options or Options()
    try:
        found = recording.read(file)
    except (recording.NotARecording, UnicodeDecodeError) as error:
        fail(how, "malformed", f"{file.name}: {error}", 2)
    try:
        report = ask_again(found, target, speed=speed or None, timeout=patience)
    except zmq.ZMQError as error:
        fail(how, "unreachable", f"{target}: {error.strerror}", 69)
    except KeyboardInterrupt:
        sys.exit(130)
    if how.json:
        say_json(report.model_dump(mode="json"))
    else:
        say(render_tap.report(report))
    sys.exit(0 if report.ok else 1)
