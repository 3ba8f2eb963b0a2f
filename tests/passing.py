"""Descriptors that a daemon is passed as systemd passes them."""

from __future__ import annotations

import os
import sys
from typing import Any, Protocol

# What systemd does between fork and exec: descriptors from 3 up, and LISTEN_PID of the new process.
PASS = """
import os, sys
names, *command = sys.argv[1:]
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": names,
               "LISTEN_FDS": str(len(names.split(":")))}
os.execv(command[0], command)
"""


class HasFileno(Protocol):
    """A socket or a file."""

    def fileno(self) -> int: ...


def passing(*passed: tuple[str, HasFileno]) -> dict[str, Any]:
    """How to start a zqueued that is passed these by these names."""
    descriptors = [each.fileno() for _, each in passed]

    def in_place() -> None:
        copies = [os.dup(descriptor) for descriptor in descriptors]
        high = [os.dup2(copy, 100 + number) for number, copy in enumerate(copies)]
        for number, descriptor in enumerate(high):
            os.dup2(descriptor, 3 + number)

    names = ":".join(name for name, _ in passed)
    keep = tuple(range(3, 3 + len(passed)))
    return {
        "prefix": (sys.executable, "-c", PASS, names),
        "preexec_fn": in_place,
        "pass_fds": keep,
        "close_fds": True,
    }
