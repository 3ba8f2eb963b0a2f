"""What a shell is offered after ``zqueuectl``: the queues of the running daemon, the instances.

Nothing is ever said here: without a daemon, or where it may not be asked, there is no completion.
What talks to the daemon is imported only when a name of a queue is to be completed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem

ANSWER_WITHIN = 0.3
"""Seconds that somebody who has pressed TAB is kept waiting by a daemon that does not answer."""

_INSTANCE_CONFIGS = Path("/etc/zqueue")
_SENSIBLE_STATES = {
    "pause": {"starting", "running", "draining"},
    "resume": {"starting", "paused", "draining"},
    "drain": {"starting", "running", "paused"},
    "terminate": {"starting", "running", "paused", "draining", "failed"},
    "start": {"stopped", "failed"},
}


def queues(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """The running daemon's queues that are not on the line yet, each with its state.

    A verb that steers is offered only those that it would change. The daemon is the one that
    ``--endpoint`` and ``--instance`` on the line point to.
    """
    if ctx.params.get("every"):
        return []
    given = ctx.params.get(param.name or "")
    named: set[str] = set(given) if isinstance(given, tuple) else set()
    sensible = _SENSIBLE_STATES.get(ctx.info_name or "")
    return [
        CompletionItem(name, help=state)
        for name, state in _ask(ctx)
        if name.startswith(incomplete)
        and name not in named
        and (sensible is None or state in sensible)
    ]


def instances(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """The names that ``zqueue@NAME`` may have: those of the configs in /etc/zqueue."""
    return [
        CompletionItem(name)
        for name in instance_names(_INSTANCE_CONFIGS)
        if name.startswith(incomplete)
    ]


def instance_names(folder: Path) -> list[str]:
    """The instances that have a config in ``folder``; none if it is not there or is private."""
    try:
        return sorted(path.stem for path in folder.glob("*.toml"))
    except OSError:
        return []


def _ask(ctx: click.Context) -> Iterator[tuple[str, str]]:
    from zqueue.control.client import ControlClient
    from zqueue.errors import ZqueueError

    # zqueuectl's Options, unless neither was given; looked at like this, as it imports this file.
    endpoint = getattr(ctx.obj, "endpoint", None)
    instance = getattr(ctx.obj, "instance", None)
    try:
        with ControlClient(endpoint, instance=instance, timeout=ANSWER_WITHIN) as zqueued:
            for queue in zqueued.status().queues:
                yield queue.name, queue.state
    except (ZqueueError, OSError):
        return
