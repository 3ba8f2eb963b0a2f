"""``zqueuectl dead``: the verbs for dead letters."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from zqueue.cli import completion
from zqueue.cli.calls import (
    Command,
    Group,
    Options,
    Seconds,
    as_json,
    called,
    fail,
    takes_options,
)
from zqueue.cli.output import done, private_file, say, say_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zqueue.control.client import ControlClient
    from zqueue.control.messages import DeadLetter, DeadSteerResult

_REASONS = (
    *("max_attempts", "worker_lost", "service_timeout"),
    *("deadline", "max_waiting_time", "queue_full"),
)


def _filters(command: Command) -> Command:
    """Give ``command`` the options that choose dead letters by what happened."""
    for option in (
        click.option(
            "--since",
            type=Seconds(),
            metavar="DURATION",
            help="Only those that died within this time.",
        ),
        click.option(
            "--reason",
            "reasons",
            multiple=True,
            type=click.Choice(_REASONS),
            metavar="REASON",
            help="Only those that died of it: " + ", ".join(_REASONS) + ". May be repeated.",
        ),
    ):
        command = option(command)
    return command


def _takes_letters(command: Command) -> Command:
    """Give ``command`` the ids of dead letters, or what chooses among all."""
    for decorate in (
        click.option(
            "-q",
            "--queue",
            "queues",
            multiple=True,
            metavar="QUEUE",
            help="With --all, only this queue's. May be repeated.",
            shell_complete=completion.queues,
        ),
        _filters,
        click.option("--all", "every", is_flag=True, help="All of them, of every queue."),
        click.argument(
            "letters", nargs=-1, metavar="[ID]...", shell_complete=completion.dead_letters
        ),
    ):
        command = decorate(command)
    return command


@click.group(cls=Group)
@takes_options
def dead() -> None:
    """Look at requests that died, have them done after all, or throw them away."""


@dead.command("list")
@takes_options
@click.argument("queues", nargs=-1, metavar="[QUEUE]...", shell_complete=completion.queues)
@_filters
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=50,
    metavar="COUNT",
    help="The newest so many; 0: all. [50]",
)
@click.pass_obj
def dead_list(
    options: Options | None, queues: tuple[str, ...], reasons: Any, since: float | None, limit: int
) -> None:
    """List the dead letters of every queue, or of some, the newest last."""
    with called(options) as (zqueued, how):
        found = sorted(
            zqueued.dead_list(*queues, reasons=reasons, since=_begin(since), last=limit or None),
            key=lambda letter: letter.died_at,
        )
        shown = found[-limit:]
        if how.json:
            without = {"content"}
            letters = [letter.model_dump(mode="json", exclude=without) for letter in shown]
            say_json({"letters": letters})
        else:
            from zqueue.cli import render_dead

            render_dead.letters(shown)
            if limit and len(shown) == limit:
                say(f"These are the newest {limit}; --limit shows more.", err=True)


@dead.command("show")
@takes_options
@click.argument("letter", metavar="ID", shell_complete=completion.dead_letters)
@click.option("--hex", "in_hex", is_flag=True, help="Show every frame in hexadecimal.")
@click.pass_obj
def dead_show(options: Options | None, letter: str, in_hex: bool) -> None:
    """Show one dead letter: how it died, its envelope, its body.

    A long frame is shown to its first 4 KiB; --json shows all of it. Those who may look and not
    steer do not see the body.
    """
    with called(options) as (zqueued, how):
        found = _with_content_if_allowed(zqueued, letter)
        if how.json:
            from zqueue.control.letters import exported

            say_json(
                exported(found)
                if found.content is not None
                else found.model_dump(mode="json", exclude={"content"})
            )
        else:
            from zqueue.cli import render_dead

            render_dead.letter(found, in_hex)


@dead.command("retry")
@takes_options
@_takes_letters
@click.pass_obj
def dead_retry(options: Options | None, /, letters: tuple[str, ...], **chosen: Any) -> None:
    """Have requests done that died; they are dead letters no more.

    Each is asked again in its client's name, who gets the reply if it still is there. If it is not,
    the work is done all the same, and the reply is counted as unclaimed. So it is where the client
    was told of the death by an error_reply and sent nothing in the envelope by which it could tell
    a second reply from others, as a REQ does not.
    """
    with called(options) as (zqueued, how):
        _must_say_which(letters, chosen["every"])
        _report(how, zqueued.dead_retry(*letters, **_of(chosen)), "retried")


@dead.command("drop")
@takes_options
@_takes_letters
@click.pass_obj
def dead_drop(options: Options | None, /, letters: tuple[str, ...], **chosen: Any) -> None:
    """Throw dead letters away."""
    with called(options) as (zqueued, how):
        _must_say_which(letters, chosen["every"])
        _report(how, zqueued.dead_drop(*letters, **_of(chosen)), "dropped")


@dead.command("export")
@takes_options
@click.argument("queues", nargs=-1, metavar="[QUEUE]...", shell_complete=completion.queues)
@click.argument("file", type=click.Path(dir_okay=False))
@_filters
@click.pass_obj
def dead_export(
    options: Options | None,
    queues: tuple[str, ...],
    file: str,
    reasons: Any,
    since: float | None,
) -> None:
    """Write dead letters into a file, or with - to the standard output, one JSON object a line.

    They stay dead letters. A frame that is not UTF-8 is {"base64": "…"}; docs/dead_letters.md says
    all. A file that this makes is its user's alone.
    """
    import json

    with called(options) as (zqueued, how):
        letters = zqueued.dead_list(*queues, reasons=reasons, since=_begin(since), content=True)
        count = 0
        try:
            with private_file(file) as out:
                for letter in _exported(letters):
                    # To a terminal or a pipe it goes in whatever encoding that has.
                    out.write(json.dumps(letter, ensure_ascii=file == "-") + "\n")
                    count += 1
                out.flush()
        except OSError as error:
            if file == "-":
                raise
            fail(how, "failed", f"{file}: {error.strerror}; {count} were written", 1)
        if file != "-":
            if how.json:
                say_json({"exported": count, "file": file})
            else:
                say(f"{count} exported to {file}")


def _exported(letters: Iterator[DeadLetter]) -> Iterator[dict[str, Any]]:
    from zqueue.control.letters import exported

    return map(exported, letters)


def _begin(since: float | None) -> float | None:
    return None if since is None else time.time() - since


def _of(chosen: dict[str, Any]) -> dict[str, Any]:
    """The client's arguments."""
    return {
        "all": chosen["every"],
        "queues": chosen["queues"],
        "reasons": chosen["reasons"],
        "since": _begin(chosen["since"]),
    }


def _must_say_which(letters: tuple[str, ...], every: bool) -> None:
    if bool(letters) == every:
        raise click.UsageError("say the ids of dead letters, or --all")


def _with_content_if_allowed(zqueued: ControlClient, letter: str) -> DeadLetter:
    from zqueue.control.client import Refused

    try:
        return zqueued.dead_show(letter)
    except Refused as error:
        if error.code != "forbidden":
            raise
        return zqueued.dead_show(letter, content=False)


def _report(how: Options, result: DeadSteerResult, word: str) -> None:
    done(0 if result.ok else 1)
    if not as_json(how, result):
        for queue in result.queues:
            line = f"{queue.queue}: {queue.done} {word}"
            if queue.detail:
                left = f", {queue.left} left" if queue.left else ""
                line += f"{left}: {queue.detail}"
            say(line, err=bool(queue.detail))
    if not result.ok:
        sys.exit(1)
