"""What systemd is told, what it asks for, and what it is asked: sd_notify(3), sd_listen_fds(3),
sd_watchdog_enabled(3), systemctl(1).

Without systemd everything here does nothing. Its journal is in journal.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sdnotify

_FIRST_PASSED = 3
_ANSWERS_WITHIN = 5.0
_ASKED_AT_MOST = 5
_STORED_WITHIN = 1.0


class Notifier:
    """Tells systemd how the daemon fares, over ``$NOTIFY_SOCKET``. Nothing here blocks or raises.

    Should systemd's socket be full, a status or a ping is lost, since the next one says as much; a
    change of state is kept and sent before whatever comes next.
    """

    def __init__(self) -> None:
        self._systemd: sdnotify.SystemdNotifier | None = None
        self._owed = ""
        if os.environ.get("NOTIFY_SOCKET"):
            # Kept open for good: a watchdog must be pinged even when descriptors run out.
            with contextlib.suppress(OSError):
                self._systemd = sdnotify.SystemdNotifier(debug=True)
                self._systemd.socket.setblocking(False)

    def ready(self, status: str) -> None:
        """Started, or reloaded: every queue is bound."""
        self._state("READY=1", _status(status))

    def reloading(self) -> None:
        """A reload begins; :meth:`ready` ends it."""
        self._state("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon has begun to end."""
        self._state("STOPPING=1")

    def status(self, text: str) -> None:
        """The one line that ``systemctl status`` shows."""
        self._send(_status(text))

    def watchdog(self) -> None:
        """All is well; due before the time of ``WatchdogSec=`` is over."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Starting or stopping goes on: give it this long from now before it counts as hung."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    @property
    def listens(self) -> bool:
        """Whether somebody wants to be told at all."""
        return self._systemd is not None

    def store(self, name: str, descriptor: int) -> bool:
        """Have systemd keep a duplicate of this descriptor for the next run (``FDSTORE=1``); False
        if it could not be told."""
        return self._send_descriptor(f"FDSTORE=1\nFDNAME={name}", descriptor)

    def store_parcel(self, name: str, descriptors: Sequence[int]) -> bool:
        """Have systemd keep these, as ``NAME0`` and so on, and wait until it has heard of them all.

        Whether there was room in its store for all of them is not told: see :func:`unit`.
        """
        for place, descriptor in enumerate(descriptors):
            # It would let go of the one end of a pair of which the other has been closed.
            lines = f"FDSTORE=1\nFDNAME={name}{place}\nFDPOLL=0"
            if not self._send_descriptor(lines, descriptor, within=_STORED_WITHIN):
                return False
        return self._has_heard_all(_STORED_WITHIN)

    def _send_descriptor(self, lines: str, descriptor: int, within: float = 0.0) -> bool:
        if self._systemd is None:
            return False
        try:
            _wait(self._systemd.socket.fileno(), select.POLLOUT, within)
            socket.send_fds(self._systemd.socket, [lines.encode()], [descriptor])
        except OSError:
            return False
        return True

    def _has_heard_all(self, within: float) -> bool:
        """``BARRIER=1``: systemd closes a descriptor when it has dealt with all before it."""
        heard, told = os.pipe()
        try:
            sent = self._send_descriptor("BARRIER=1", told, within)
        finally:
            os.close(told)
        try:
            return sent and _wait(heard, select.POLLIN, within)
        finally:
            os.close(heard)

    def unstore(self, name: str) -> None:
        """Have systemd close what it keeps under this name."""
        self._try(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _state(self, *lines: str) -> None:
        self._owed = "\n".join(lines)
        self._pay()

    def _send(self, line: str) -> None:
        if self._pay():
            self._try(line)

    def _pay(self) -> bool:
        if self._owed and self._try(self._owed):
            self._owed = ""
        return not self._owed

    def _try(self, message: str) -> bool:
        if self._systemd is None:
            return True
        # sdnotify encodes as latin-1, systemd reads UTF-8.
        as_bytes = message.encode("utf-8", "replace").decode("latin-1")
        try:
            self._systemd.notify(as_bytes)
        except OSError:
            return False
        return True


def _wait(descriptor: int, event: int, within: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(within * 1000))


@dataclass(frozen=True)
class Passed:
    """What systemd has passed to this process: listening sockets, and a parcel that an earlier run
    has stored."""

    sockets: tuple[tuple[str, socket.socket], ...] = ()
    parcel: tuple[int, ...] = ()


def passed(parcel: str) -> Passed:
    """What systemd passed to this process, with names: sd_listen_fds_with_names(3). The parcel is
    that which was stored under this name. Asked a second time there is nothing."""
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()) or not _is_small(count):
        return Passed()
    sockets: list[tuple[str, socket.socket]] = []
    parts: dict[int, int] = {}
    for number in range(int(count)):
        descriptor = _FIRST_PASSED + number
        name = names[number] if number < len(names) else ""
        place = name.removeprefix(parcel)
        try:
            os.set_inheritable(descriptor, False)
            if name != place and _is_small(place):
                parts[int(place)] = descriptor
                continue
            passed = socket.socket(fileno=descriptor)
            listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            continue  # something else that systemd was told to pass
        if listens:
            sockets.append((name, passed))
        else:
            passed.close()
    return Passed(tuple(sockets), tuple(parts[place] for place in sorted(parts)))


def _is_small(number: str) -> bool:
    """Whether it is a number, and one that descriptors are counted by."""
    return re.fullmatch("[0-9]{1,5}", number) is not None


@dataclass(frozen=True)
class Unit:
    """This process's unit: the type of the job that systemd runs for it (``restart``, ``stop``, or
    nothing), and how many descriptors are in its store."""

    name: str
    job: str
    stored: int


async def unit() -> Unit | None:
    """What systemd says of this process's unit; ``None`` where it says nothing.

    Its manager is asked by ``systemctl``, over D-Bus, which answers any user.
    """
    manager, name = unit_of("self")
    if not name:
        return None
    jobs, stored = await asyncio.gather(
        _systemctl(*manager, "list-jobs", "--plain", "--no-legend", "--full", name),
        _systemctl(*manager, "show", "--value", "--property=NFileDescriptorStore", name),
    )
    if jobs is None or stored is None or not stored.strip().isdecimal():
        return None
    types = [columns[2] for line in jobs.splitlines() if name in (columns := line.split())]
    return Unit(name, types[0] if types else "", int(stored))


def is_here() -> bool:
    """Whether systemd manages this machine: sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def unit_of(pid: int | Literal["self"]) -> tuple[tuple[str, ...], str]:
    """The option for its manager, and the name of the service that a process belongs to; both empty
    if it belongs to none."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return (), ""
    for line in lines:
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0" or controllers == "name=systemd":
            name = path.rpartition("/")[2]
            if name.endswith(".service"):
                return (("--user",) if "/user@" in path else ()), name
    return (), ""


async def _systemctl(*arguments: str) -> str | None:
    def run() -> str | None:
        # The signal that ends a service is sent to all of its processes: maybe to this one, too.
        for _ in range(_ASKED_AT_MOST):
            try:
                done = subprocess.run(
                    ["systemctl", *arguments],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=_ANSWERS_WITHIN,
                )
            except (OSError, subprocess.TimeoutExpired):
                return None
            if done.returncode != -signal.SIGTERM:
                break
        return done.stdout if done.returncode == 0 else None

    return await asyncio.to_thread(run)


def watchdog_interval() -> float | None:
    """How often to ping the watchdog, in seconds: half of what systemd allows.

    ``None``: it does not watch this process.
    """
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    allowed = os.environ.get("WATCHDOG_USEC", "")
    if not (allowed.isascii() and allowed.isdigit()) or int(allowed) == 0:
        return None
    return int(allowed) / 2_000_000


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())
