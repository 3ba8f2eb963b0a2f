"""The daemon itself: its clock, its version, its config, who may reach it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import zqueue
from zqueue import config as configs
from zqueue.control.messages import StatusResult
from zqueue.doctor import machine
from zqueue.errors import ConfigError, EndpointError
from zqueue.findings import Finding
from zqueue.listeners import listen
from zqueue.reach import Reach

_CLOCKS_MAY_DIFFER = 2.0


def clock(status: StatusResult) -> Iterator[Finding]:
    """The daemon's clock against this process's."""
    apart = status.started + status.uptime - time.time()
    if abs(apart) > _CLOCKS_MAY_DIFFER:
        what = f"its clock is {abs(apart):.0f} s {'ahead' if apart > 0 else 'behind'}"
        do = ("compare date with that of the log", "timedatectl")
        yield Finding("warn", "", what, "this machine", do)


def version(status: StatusResult, reach: Reach) -> Iterator[Finding]:
    """What runs against what is installed."""
    if status.version != zqueue.__version__:
        what = f"zqueued {status.version} runs, and this is zqueuectl {zqueue.__version__}"
        what += "; connections outlive a restart"
        yield Finding("warn", "", what, "operator", (reach.restart(status.config),))


def config_file(
    status: StatusResult, in_force: Mapping[str, Any], reach: Reach
) -> Iterator[Finding]:
    """What is in the file against what is in force."""
    path = Path(status.config) if status.config is not None else None
    if path is None:
        return
    if not os.access(path, os.R_OK):
        if not path.exists():
            what = f"its config {path} is gone; the next start fails"
            yield Finding("bad", "", what, "operator", (f"write {path} again",))
        return
    found = list(unreadable(path))
    if found:
        yield from found
        return
    loaded = configs.load(path)
    in_file = {key: value for key, value, _ in loaded.effective()}
    changed = [key for key in {**in_force, **in_file} if in_file.get(key) != in_force.get(key)]
    if changed:
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if changed[3:] else "")
        what = f"{path} has changed and is not in force: {shown}"
        restart = any(key in configs.APPLIED_BY_A_RESTART for key in changed)
        do = reach.restart(status.config) if restart else f"{reach.ctl} reload"
        yield Finding("warn", "", what, "operator", (do,))
    for warning in configs.check(loaded):
        yield Finding("warn", "", warning, "operator", (f"edit {path}, then {reach.ctl} reload",))


def unreadable(path: Path | None) -> Iterator[Finding]:
    """A config that the next start, or reload, would refuse."""
    where = path or configs.DEFAULT_PATH
    if path is None and not where.exists():
        return
    try:
        configs.load(where)
    except ConfigError as error:
        check = f"zqueued --check --config {where}"
        if len(error.problems) == 1:
            what = f"the config would be refused: {error}"
            yield Finding("bad", "", what, "operator", (check,))
        else:  # one finding all the same: none of them is to be taken for one of its own
            what = f"the config would be refused, for {len(error.problems)} mistakes"
            yield Finding("bad", "", what, "operator", (*error.problems, check))


def taken_ports(path: Path | None, reach: Reach) -> Iterator[Finding]:
    """Ports that a daemon with this config could not have, as another process has them. Those that
    systemd keeps for the unit, and those of the unit's own process, are no obstacle."""
    if machine.may_hold_ports(reach):
        return
    where = path or configs.DEFAULT_PATH
    try:
        config = configs.load(where if path is not None or where.exists() else None).config
    except ConfigError:
        return
    for name, queue in config.queues.items():
        for side in (queue.frontend, queue.backend):
            for endpoint in side.bind:
                if not endpoint.startswith("tcp://"):
                    continue
                try:
                    listen(endpoint, backlog=1, ipv6=side.ipv6).close()
                except EndpointError as error:
                    what = f"{endpoint} is not to be had: {error.reason}"
                    do = (error.hint,) if error.hint else ()
                    yield Finding("bad", name, what, "this machine", do)


def permissions(endpoint: str, in_force: Mapping[str, Any]) -> Iterator[Finding]:
    """Who may reach the control socket, and who is named that there is not."""
    path = endpoint.removeprefix("ipc://")
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        mode = 0
    if mode & 0o002 and in_force.get("control.may_steer") is None:
        what = f"everybody on this machine may steer: {path} has mode {mode:04o}"
        do = ('[control] mode = "0660"', "or name who may in [control] may_steer")
        yield Finding("warn", "", what, "operator", do)
    for key in ("may_look", "may_steer"):
        for name in in_force.get(f"control.{key}") or ():
            if not _is_known(name):
                what = f"control.{key} names {name}, and there is no such one here"
                yield Finding("warn", "", what, "operator", (f"getent {_database(name)}",))


def _is_known(name: str) -> bool:
    try:
        if name.startswith("@"):
            grp.getgrnam(name[1:])
        else:
            pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _database(name: str) -> str:
    return f"group {name[1:]}" if name.startswith("@") else f"passwd {name}"
