"""Who may look, and who may steer, among those who can reach the control socket at all."""

from __future__ import annotations

import os
from collections.abc import Sequence

from zqueue.control import messages
from zqueue.control.server import Caller, Refusal

_LOOKS = (
    messages.Status,
    messages.Workers,
    messages.Clients,
    messages.Connections,
    messages.Requests,
    messages.Events,
    messages.Cancel,
    messages.Config,
    messages.Version,
)


def check(
    request: messages.Request,
    caller: Caller,
    may_look: Sequence[str] | None,
    may_steer: Sequence[str] | None,
) -> None:
    """See that ``caller`` may make this request.

    The lists have names of users, and of groups as ``@name``; ``None`` is everybody. Root and the
    daemon's own user may do all, and whoever may steer may look.

    Raises:
        Refusal: ``forbidden``; the message says which setting forbids it.
    """
    if caller.uid in (0, os.geteuid()) or _is_in(caller, may_steer):
        return
    if not _only_looks(request):
        raise _forbidden(caller, "steer", "may_steer")
    if not _is_in(caller, may_look):
        raise _forbidden(caller, "look", "may_look")


def _only_looks(request: messages.Request) -> bool:
    if isinstance(request, messages.LogLevel):
        return request.level is None
    if isinstance(request, messages.DeadList):
        return not request.content  # what clients sent is for those who may send it again
    return isinstance(request, _LOOKS)


def _is_in(caller: Caller, names: Sequence[str] | None) -> bool:
    if names is None:
        return True
    if caller.uid is None:
        return False
    return caller.name in names or any(f"@{group}" in names for group in _groups(caller))


def _groups(caller: Caller) -> list[str]:
    import grp
    import pwd

    try:
        numbers = os.getgrouplist(caller.name, pwd.getpwnam(caller.name).pw_gid)
    except KeyError:
        return []
    known = {group.gr_gid: group.gr_name for group in grp.getgrall()}
    return [known[number] for number in numbers if number in known]


def _forbidden(caller: Caller, what: str, setting: str) -> Refusal:
    return Refusal("forbidden", f"{caller} may not {what}: control.{setting} does not name them")
