"""What a shell is offered after ``zqueuectl``: the running daemon's queues and dead letters, the
instances.

Nothing is ever said here: without a daemon, or where it may not be asked, there is no completion.
What talks to the daemon is imported only when a name of a queue is to be completed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from zqueue.control.client import ControlClient

T = TypeVar("T")

ANSWER_WITHIN = 0.3
"""Seconds that somebody who has pressed TAB is kept waiting by a daemon that does not answer."""

_LETTERS_OFFERED = 50
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
        for name, state in _ask(ctx, _names_and_states)
        if name.startswith(incomplete)
        and name not in named
        and (sensible is None or state in sensible)
    ]


def events(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """The names of all kinds of events, each with its level."""
    from zqueue.events import CATALOGUE

    return [
        CompletionItem(name, help=kind.level)
        for name, kind in CATALOGUE.items()
        if name.startswith(incomplete)
    ]


def dead_letters(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """The newest dead letters of each queue, as ``QUEUE/NUMBER``, each with what it died of."""
    given = ctx.params.get(param.name or "")
    named: set[str] = set(given) if isinstance(given, tuple) else set()
    found = _ask(ctx, lambda zqueued: zqueued.dead_list(last=_LETTERS_OFFERED))
    offered = {"/".join(letter.id.rsplit("/", 2)[1:]): letter.reason for letter in found}
    return [
        CompletionItem(short, help=reason)
        for short, reason in offered.items()
        if short.startswith(incomplete) and short not in named
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


def _names_and_states(zqueued: ControlClient) -> list[tuple[str, str]]:
    return [(queue.name, queue.state) for queue in zqueued.status().queues]


def _ask(ctx: click.Context, question: Callable[[ControlClient], Iterable[T]]) -> list[T]:
    """What the daemon answers; nothing, if there is none or it may not be asked."""
    from zqueue.cli.calls import Options  # which imports this file
    from zqueue.control.client import ControlClient
    from zqueue.errors import ZqueueError

    how = ctx.obj if isinstance(ctx.obj, Options) else Options()
    try:
        with ControlClient(how.address, instance=how.instance, timeout=ANSWER_WITHIN) as zqueued:
            return list(question(zqueued))
    except (ZqueueError, OSError):
        return []
