"""``zqueuectl health``: for the health check of a container, and other supervisors."""

from __future__ import annotations

import sys

import click

from zqueue.cli.calls import Options, called, takes_options
from zqueue.cli.output import say, say_json


@click.command()
@takes_options
@click.option(
    "--ready", is_flag=True, help="Say whether every queue runs, too: requests may be sent here."
)
@click.pass_obj
def health(options: Options | None, ready: bool) -> None:
    """Say whether zqueued and every queue answer, as /healthz and /readyz do over HTTP.

    Exit code 1 if not, with a line for each reason; 69 if no daemon answers.
    """
    from zqueue.health import not_alive, not_ready

    with called(options) as (zqueued, how):
        status = zqueued.status()
        reasons = not_ready(status) if ready else not_alive(status)
        if how.json:
            say_json({"ok": not reasons, "reasons": reasons})
        else:
            say("\n".join(reasons) or "ok")
    sys.exit(1 if reasons else 0)
