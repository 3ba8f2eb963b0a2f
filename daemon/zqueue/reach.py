"""How a daemon is reached and managed: what every command in a finding is made from."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zqueue import systemd

if TYPE_CHECKING:
    from zqueue.control.messages import StatusResult

_OF_INSTANCE = re.compile(r"ipc:///run/zqueue-([^/]+)/control\.sock")


@dataclass(frozen=True)
class Reach:
    """``ctl`` is zqueuectl with what finds the daemon. ``unit`` is its systemd unit, of the manager
    that ``manager`` selects, or nothing."""

    ctl: str = "zqueuectl"
    unit: str = ""
    manager: tuple[str, ...] = ()

    def systemctl(self, verb: str) -> str:
        """The command that does this to the unit, if there is one."""
        return shlex.join(("systemctl", *self.manager, *verb.split(), self.unit))

    @property
    def journal(self) -> str:
        """The command that reads its entries in the journal."""
        if self.unit:
            return shlex.join(("journalctl", *self.manager, "-u", self.unit))
        return "journalctl -t zqueued"

    def restart(self, config: str | None) -> str:
        """The command that replaces the process by what is installed; ``config`` is its file."""
        if self.unit:
            return self.systemctl("restart")
        return (
            f"zqueued --upgrade --config {shlex.quote(config)}" if config else "zqueued --upgrade"
        )

    def log(self, status: StatusResult, queue: str = "", *, warnings: bool = False) -> str:
        """The command that shows the end of the daemon's log, of a queue's part of it, or of the
        warnings in that. Where only a reader of its stderr has the log, what the daemon
        remembers."""
        if status.log == "journal":
            of_queue, only = f" QUEUE={queue}" if queue else "", " -p warning" if warnings else ""
            return f"{self.journal}{of_queue}{only} -n 50"
        if status.log:
            path = shlex.quote(status.log)
            return f"grep -w {queue} {path} | tail -n 50" if queue else f"tail -n 50 {path}"
        of_queue, only = f" -q {queue}" if queue else "", " --level warning" if warnings else ""
        return f"{self.ctl} events{of_queue}{only} -n 50"


def reach_of(status: StatusResult, ctl: str = "") -> Reach:
    """How this daemon, which runs on this machine, is reached: with ``ctl``, if that is known."""
    manager, unit = systemd.unit_of(status.pid)
    return Reach(ctl or call(status.control), unit.removesuffix(".service"), manager)


def call(endpoint: str | None = None, instance: str | None = None) -> str:
    """zqueuectl with what has anybody reach the daemon at this control socket."""
    found = _OF_INSTANCE.fullmatch(endpoint or "")
    if instance or found:
        return f"zqueuectl --instance {shlex.quote(instance or (found[1] if found else ''))}"
    if not endpoint or endpoint == "ipc:///run/zqueue/control.sock":
        return "zqueuectl"
    return f"zqueuectl -e {shlex.quote(endpoint)}"
