"""What systemd is told, and what it asks for: sd_notify(3) and sd_watchdog_enabled(3).

Without systemd everything here does nothing. Its journal is in journal.py.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

import sdnotify

_FIRST_PASSED = 3


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

    def store(self, name: str, descriptor: int) -> None:
        """Have systemd keep a duplicate of this descriptor for the next run (``FDSTORE=1``)."""
        if self._systemd is not None:
            with contextlib.suppress(OSError):
                lines = f"FDSTORE=1\nFDNAME={name}".encode()
                socket.send_fds(self._systemd.socket, [lines], [descriptor])

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


def inherited_sockets() -> list[tuple[str, socket.socket]]:
    """The listening sockets that systemd passed to this process, with their names:
    sd_listen_fds_with_names(3). Asked a second time there are none."""
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()) or not count.isdecimal():
        return []
    sockets = []
    for number in range(int(count)):
        descriptor = _FIRST_PASSED + number
        try:
            passed = socket.socket(fileno=descriptor)
            listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            continue  # something else that systemd was told to pass
        passed.set_inheritable(False)
        if listens:
            sockets.append((names[number] if number < len(names) else "", passed))
        else:
            passed.close()
    return sockets


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
