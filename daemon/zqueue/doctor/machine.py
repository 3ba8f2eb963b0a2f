"""The machine: descriptors, the kernel's limits, what systemd says."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zqueue import systemd
from zqueue.control import location
from zqueue.control.location import Unreachable
from zqueue.control.messages import StatusResult
from zqueue.findings import Finding
from zqueue.plurals import counted
from zqueue.reach import Reach

RAISE_LIMIT = ("LimitNOFILE= in the unit, or ulimit -n", "then restart; connections outlive it")
"""What to do where descriptors run out."""

_ANSWERS_WITHIN = 5.0


def descriptors(status: StatusResult, in_force: Mapping[str, Any]) -> Iterator[Finding]:
    """The limit of descriptors, against what the config lets connect."""
    limit = _limit_of(status.pid)
    if limit is None:
        return
    wanted = sum(
        in_force.get(f"queues.{queue.name}.max_connections") or 0 for queue in status.queues
    )
    if wanted > limit:
        what = f"max_connections allow {wanted}, and there are {limit} file descriptors"
        yield Finding("warn", "", what, "this machine", RAISE_LIMIT)


def backlog(in_force: Mapping[str, Any]) -> Iterator[Finding]:
    """How many may wait to be accepted, against what the kernel allows."""
    try:
        somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())
    except (OSError, ValueError):
        return
    wanted = [
        value
        for key, value in in_force.items()
        if key.startswith("queues.") and key.endswith(".backlog") and isinstance(value, int)
    ]
    if wanted and max(wanted) > somaxconn:
        what = f"a backlog of {max(wanted)} is wanted, and the kernel allows {somaxconn}"
        do = (f"sysctl net.core.somaxconn={max(wanted)}", "and in /etc/sysctl.d; then restart")
        yield Finding("warn", "", what, "this machine", do)


def unit(reach: Reach) -> Iterator[Finding]:
    """What systemd says of the unit."""
    name, told = reach.unit, _show(reach)
    log = f"{reach.journal} -n 50"
    if told.get("ActiveState") == "failed":
        what = f"{name} has failed: {told.get('Result', '')}"
        dumped = (f"coredumpctl list {name}",) if told.get("Result") == "core-dump" else ()
        do = (log, *dumped, reach.systemctl("start"))
        yield Finding("bad", "", what, "this machine", do)
    restarts = told.get("NRestarts", "0")
    if restarts.isdecimal() and restarts != "0":
        times = counted(int(restarts), "time")
        what = f"systemd had to start {name} again {times}: it had ended by itself"
        yield Finding("warn", "", what, "zqueued", (log,))
    if told.get("UnitFileState") == "disabled":
        what = f"{name} is not started at boot"
        yield Finding("note", "", what, "operator", (reach.systemctl("enable"),))
    if told.get("NeedDaemonReload") == "yes":
        reload = shlex.join(("systemctl", *reach.manager, "daemon-reload"))
        what = f"the unit file of {name} has changed, and systemd has not read it"
        yield Finding("warn", "", what, "operator", (reload,))


def may_hold_ports(reach: Reach) -> bool:
    """Whether the unit runs, or systemd keeps sockets for it: by a socket unit or in its store."""
    told = _show(reach)
    if told.get("ActiveState") in ("active", "activating", "reloading", "deactivating"):
        return True
    if told.get("NFileDescriptorStore", "0") not in ("", "0", "[not set]"):
        return True
    return any(_is_active(unit, reach) for unit in told.get("TriggeredBy", "").split())


def _is_active(unit: str, reach: Reach) -> bool:
    return _show(dataclasses.replace(reach, unit=unit)).get("ActiveState") == "active"


def elsewhere(reach: Reach) -> str | None:
    """The control socket of a unit that runs with a ``RuntimeDirectory=`` of its own, if it has
    one there."""
    told = _show(reach)
    if told.get("ActiveState") != "active" or reach.manager:
        return None
    for folder in told.get("RuntimeDirectory", "").split():
        path = Path("/run") / folder / location.SOCKET_NAME
        with contextlib.suppress(Unreachable):
            location.probe(f"ipc://{path}")
            return f"ipc://{path}"
    return None


def _show(reach: Reach) -> dict[str, str]:
    if not systemd.is_here():
        return {}
    wanted = (
        "ActiveState,Result,NRestarts,UnitFileState,NeedDaemonReload,"
        "NFileDescriptorStore,TriggeredBy,RuntimeDirectory"
    )
    command = shlex.split(reach.systemctl(f"show --property={wanted}"))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWERS_WITHIN)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return {key: value for key, _, value in pairs}


def _limit_of(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/limits").read_text()
    except OSError:
        return None
    found = re.search(r"(?m)^Max open files +(\d+)", text)
    return int(found[1]) if found else None
