"""What a config takes of this machine, and what this process may have.

The figures are the least that a queue takes, without a peer: what they refuse could not work.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zmq

from zqueue import descriptors, endpoints
from zqueue.config import Config, QueueConfig
from zqueue.config_problems import dotted
from zqueue.engine.choice import engine_for

MOST_SOCKETS = 65_535
"""Of one libzmq context (``ZMQ_SOCKET_LIMIT``)."""

_SOCKETS_A_QUEUE = 2
_ITS_OWN = {"threads": 6, "descriptors": 21}
_A_QUEUE = {
    "wire": {"threads": 2, "descriptors": 9},
    "libzmq": {"threads": 4, "descriptors": 19},
}
"""Its listening sockets are not among them."""

_RESOLVED_WITHIN = 3.0


@dataclass(frozen=True)
class Needs:
    """How many threads and descriptors, and sockets of libzmq in one context."""

    threads: int
    descriptors: int
    sockets: int


def needs(config: Config) -> Needs:
    """What ``config`` takes at least."""
    engines = [_engine(queue) for queue in config.queues.values()]
    listening = sum(
        len(queue.frontend.bind) + len(queue.backend.bind) for queue in config.queues.values()
    )
    return Needs(
        threads=_ITS_OWN["threads"] + sum(_A_QUEUE[each]["threads"] for each in engines),
        descriptors=_ITS_OWN["descriptors"]
        + sum(_A_QUEUE[each]["descriptors"] for each in engines)
        + listening,
        sockets=_SOCKETS_A_QUEUE * len(engines),
    )


def problems(config: Config) -> list[str]:
    """What this process may not have of it, with the figures and what to do."""
    needed, queues = needs(config), len(config.queues)
    found = []
    allowed = descriptors.allowed()
    if needed.descriptors > allowed:
        found.append(
            f"{queues} queues take {needed.descriptors} descriptors before anybody connects, and "
            f"this process may have {allowed}: raise LimitNOFILE= of the unit, or ulimit -n"
        )
    for most, what, how in _thread_limits():
        if needed.threads > most:
            found.append(
                f"{queues} queues take {needed.threads} threads, and {what} leaves {max(0, most)}: "
                f"raise {how}"
            )
    if needed.sockets > MOST_SOCKETS:
        found.append(
            f"{queues} queues take {needed.sockets} sockets of libzmq, which has {MOST_SOCKETS}: "
            "have several zqueued share them"
        )
    return found


def raise_sockets(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Let a context have as many sockets as libzmq can: by default it stops at 1,023."""
    with contextlib.suppress(zmq.ZMQError):
        context.set(zmq.MAX_SOCKETS, min(MOST_SOCKETS, int(context.get(zmq.SOCKET_LIMIT))))


def unresolved(config: Config) -> list[str]:
    """One line for each name to connect to that has no address now. Asks name servers, which takes
    some seconds where they do not answer."""
    names: dict[str, tuple[str, str]] = {}
    for queue_name, queue in config.queues.items():
        for side_name in ("frontend", "backend"):
            for endpoint in getattr(queue, side_name).connect:
                host = endpoints.parse(endpoint, "connect").host
                if host:
                    names[dotted(("queues", queue_name, side_name, "connect"))] = endpoint, host
    reasons: dict[str, str] = {}

    def look_up(host: str) -> None:
        try:
            socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reasons[host] = getattr(error, "strerror", None) or str(error)
        else:
            reasons[host] = ""

    looking = [
        threading.Thread(target=look_up, args=(host,), daemon=True)
        for host in {host for _, host in names.values()}
    ]
    for each in looking:
        each.start()
    for each in looking:
        each.join(_RESOLVED_WITHIN)
    late = f"no answer within {_RESOLVED_WITHIN:g} s"
    return [
        f"{key}: {endpoint}: the name {host} has no address now: {reasons.get(host, late)}"
        for key, (endpoint, host) in names.items()
        if reasons.get(host, late)
    ]


def _engine(queue: QueueConfig) -> str:
    engine, _ = engine_for(queue.engine, queue.type, queue.frontend.reply_high_water_mark)
    return engine


def _thread_limits() -> Iterator[tuple[int, str, str]]:
    """How many threads are left to this process, by what, and what to raise for more."""
    own = len(os.listdir("/proc/self/task"))
    most, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if most != resource.RLIM_INFINITY and os.geteuid() != 0:
        what = f"the limit of {most} for this user"
        yield most - _threads_of_user() + own, what, "LimitNPROC= of the unit, or ulimit -u"
    with contextlib.suppress(OSError, ValueError):
        group = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2]
        path = Path("/sys/fs/cgroup") / group.lstrip("/")
        for folder in (path, *path.parents):
            with contextlib.suppress(OSError, ValueError):
                most = int((folder / "pids.max").read_text())
                taken = int((folder / "pids.current").read_text())
                yield (
                    most - taken + own,
                    f"the limit of {most} for {folder}",
                    "TasksMax= of the unit",
                )


def _threads_of_user() -> int:
    count, user = 0, os.getuid()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == user:
                count += len(os.listdir(process / "task"))
    return count
