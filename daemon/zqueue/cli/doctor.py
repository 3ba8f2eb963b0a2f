"""``zqueuectl doctor``: what is wrong, whose it is, what to do."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zqueue.cli.calls import ANSWER_WITHIN, Options, fail, takes_options
from zqueue.cli.output import say, say_json
from zqueue.printable import printable

if TYPE_CHECKING:
    from zqueue.findings import Finding


@click.command()
@takes_options
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The config to look at if no daemon answers. [/etc/zqueue.toml]",
)
@click.pass_obj
def doctor(options: Options | None, path: Path | None) -> None:
    """Look for all that may be wrong, and say whose it is and what to do.

    The daemon, its config, its limits, its clock, its unit; queues that stand still and why;
    workers that are missing, too few, slow or stuck; clients that do not read; peers at the wrong
    port. It runs where the daemon does. Exit code 1 if something is bad, which is marked with "!!".
    """
    from zqueue.control.client import ControlClient, Refused
    from zqueue.control.location import Unreachable
    from zqueue.doctor import examine, examine_absence
    from zqueue.reach import call

    how = options or Options()
    try:
        within = ANSWER_WITHIN if how.timeout is None else how.timeout
        with ControlClient(how.address, instance=how.instance, timeout=within) as zqueued:
            found = examine(zqueued, call(how.address, how.instance))
    except Unreachable as error:
        found = examine_absence(str(error), path, how.instance)
    except Refused as error:
        fail(how, error.code, str(error), error.exit_code)
    if how.json:
        say_json({"findings": [dataclasses.asdict(each) for each in found]})
    else:
        _show(found)
    sys.exit(1 if any(each.weight == "bad" for each in found) else 0)


def _show(found: list[Finding]) -> None:
    marks = {"bad": ("!!", "red"), "warn": ("! ", "yellow"), "note": ("- ", None)}
    for each in found:
        mark, colour = marks[each.weight]
        where = f"{each.queue}: " if each.queue else ""
        click.secho(printable(f"{mark} {where}{each.what}"), fg=colour)
        for line in each.do:
            say(f"     {line}")
    if not found:
        say("nothing is wrong that can be seen from here")
