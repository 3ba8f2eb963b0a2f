"""Looks for all that may be wrong with a daemon, its queues, its peers and its machine, and says
what to do about each."""

from __future__ import annotations

import time
from pathlib import Path

from zqueue import findings, systemd
from zqueue.control import location
from zqueue.control.client import ControlClient, Refused
from zqueue.control.messages import EventReply
from zqueue.doctor import machine, peers, service
from zqueue.findings import Finding, worst_first
from zqueue.reach import Reach, call, reach_of

_EVENTS_LOOKED_AT = 1000
_LATELY = 3600.0


def examine(zqueued: ControlClient, ctl: str = "") -> list[Finding]:
    """All there is to tell of a daemon that answers, the worst first. ``ctl`` is zqueuectl with
    what finds it.

    What belongs to the machine (descriptors, systemd's state, the config file) is looked at here,
    so this runs where the daemon does. What this user may not see is left out.

    Raises:
        Unreachable: it answers no more.
        Refused: it does not let this user look.
    """
    status = zqueued.status()
    config = {value.key: value.value for value in zqueued.config().values}
    reach = reach_of(status, ctl)
    found = findings.findings(status, reach)
    found += service.clock(status)
    found += service.version(status, reach)
    found += service.config_file(status, config, reach)
    found += service.permissions(zqueued.endpoint, config)
    found += machine.descriptors(status, config)
    found += machine.backlog(config)
    found += machine.unit(reach) if reach.unit else ()
    for queue in status.queues:
        if queue.stale or queue.state not in ("running", "paused", "draining"):
            continue
        found += peers.room(queue, config)
        found += peers.shut_out(_events(zqueued, queue.name), queue, reach)
        # The daemon, which knows how long ago they were, tells those of the last hour.
        found += peers.turned_away(_events(zqueued, queue.name, time.time() - _LATELY), queue)
        if not queue.tells_peers_apart:
            continue
        try:
            # What is known of single peers comes before what follows from it.
            found = [*peers.of_queue(zqueued, queue, config, reach), *found]
        except Refused:  # it does not answer now
            continue
    return worst_first(found)


def _events(zqueued: ControlClient, queue: str, since: float | None = None) -> list[EventReply]:
    return list(zqueued.events(queue, since=since, recent=_EVENTS_LOOKED_AT, follow=False))


def examine_absence(why: str, path: Path | None, instance: str | None) -> list[Finding]:
    """What may be the reason that no daemon answers, which is ``why``."""
    reach = Reach(unit=f"zqueue@{instance}" if instance else "zqueue")
    start: tuple[str, ...] = (reach.systemctl("start"), f"{reach.journal} -n 50")
    if not systemd.is_here():
        start = (f"zqueued --config {path}" if path else "zqueued",)
    there = machine.elsewhere(reach)
    if there is not None:
        what = f"{reach.unit} runs, and its control socket is not where zqueuectl looks: {there}"
        return [Finding("bad", "", what, "operator", (f"{call(there)} doctor",))]
    if path is None and instance is not None:
        path = location.config_of(instance)
    found = [Finding("bad", "", f"no daemon answers: {why}", "operator", start)]
    found += service.unreadable(path)
    found += service.taken_ports(path, reach)
    found += machine.unit(reach)
    return worst_first(found)
