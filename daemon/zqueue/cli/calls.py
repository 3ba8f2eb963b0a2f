"""What the verbs of zqueuectl have in common: their options, and the call to the daemon."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from zqueue.cli import completion
from zqueue.cli.output import Printing, say, say_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zqueue.control.client import ControlClient
    from zqueue.control.messages import Message

    FloatType = click.ParamType[float]
else:
    FloatType = click.ParamType  # generic only in newer versions of click

Command = TypeVar("Command", bound=Callable[..., Any])

ANSWER_WITHIN = 5.0
ENVIRONMENT_ENDPOINT = "ZQUEUE_ENDPOINT"


@dataclass(frozen=True)
class Options:
    """What every verb takes, before it or after it. ``endpoint`` and ``instance`` are as given on
    the command line."""

    endpoint: str | None = None
    instance: str | None = None
    timeout: float | None = None
    json: bool = False

    @property
    def address(self) -> str | None:
        """The endpoint to connect to, unless it is to be looked for: the environment counts only
        where the command line names no daemon."""
        if self.endpoint is None and self.instance is None:
            return os.environ.get(ENVIRONMENT_ENDPOINT) or None
        return self.endpoint


class Seconds(FloatType):
    """``5``, ``250ms``, ``1m30s``."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        from zqueue.quantities import parse_duration

        if isinstance(value, float):
            return value
        try:
            return parse_duration(
                f"{value}s" if str(value).replace(".", "", 1).isdigit() else value
            )
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value is not None and value is not False:
            how = replace(ctx.obj or Options(), **{name: value})
            if how.endpoint is not None and how.instance is not None:
                raise click.UsageError(
                    "--endpoint and --instance each name a daemon; say one of them"
                )
            ctx.obj = how

    return keep


def _tell_utc(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        os.environ["TZ"] = "UTC"
        time.tzset()


def takes_options(command: Command) -> Command:
    """Give ``command`` the options that all verbs have."""
    for option in (
        click.option(
            "--json",
            is_flag=True,
            expose_value=False,
            callback=_keep("json"),
            help="Print JSON, in the form that docs/control.md describes.",
        ),
        click.option(
            "--utc",
            is_flag=True,
            expose_value=False,
            callback=_tell_utc,
            help="Tell times in UTC, not in the zone of this machine or of $TZ.",
        ),
        click.option(
            "--timeout",
            type=Seconds(),
            expose_value=False,
            callback=_keep("timeout"),
            metavar="DURATION",
            help="How long to wait for an answer [5s]; for drain, pause --wait and shutdown, for "
            "the end.",
        ),
        click.option(
            "--instance",
            metavar="NAME",
            expose_value=False,
            callback=_keep("instance"),
            shell_complete=completion.instances,
            help="The daemon started as zqueue@NAME.",
        ),
        click.option(
            "-e",
            "--endpoint",
            metavar="ENDPOINT",
            expose_value=False,
            callback=_keep("endpoint"),
            help="The control socket, ipc://…. [$ZQUEUE_ENDPOINT, else one of the usual places]",
        ),
    ):
        command = option(command)
    return command


def takes_queues(command: Command) -> Command:
    """Give ``command`` the names of queues, which may be left out where there is only one."""
    command = click.argument(
        "queues", nargs=-1, metavar="[QUEUE]...", shell_complete=completion.queues
    )(command)
    return click.option("--all", "every", is_flag=True, help="Every queue.")(command)


class Group(Printing, click.Group):
    """Lists the verbs in the order in which an operator meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@contextmanager
def called(
    options: Options | None, silence: float | None = None
) -> Iterator[tuple[ControlClient, Options]]:
    """A connection to the daemon; what goes wrong with it ends the command with its exit code.

    ``silence``: how long the daemon may be silent, where --timeout means something else.
    """
    from zqueue.control.client import ControlClient, Refused
    from zqueue.errors import ZqueueError

    how = options or Options()
    if silence is None:
        silence = ANSWER_WITHIN if how.timeout is None else how.timeout
    try:
        with ControlClient(how.address, instance=how.instance, timeout=silence) as zqueued:
            yield zqueued, how
    except ZqueueError as error:
        code = error.code if isinstance(error, Refused) else "unreachable"
        fail(how, code, str(error), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def fail(how: Options, code: str, message: str, exit_code: int) -> NoReturn:
    if how.json:
        say_json({"error": {"code": code, "message": message}})
    say(f"zqueuectl: {message}", err=True)
    sys.exit(exit_code)


def as_json(how: Options, result: Message) -> bool:
    if how.json:
        say_json(result.model_dump(mode="json"))
    return how.json
