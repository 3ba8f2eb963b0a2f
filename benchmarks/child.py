"""What a child process says, with a deadline."""

from __future__ import annotations

import selectors
import subprocess


def read_line(process: subprocess.Popen[bytes], within: float) -> str:
    """The next line of its standard output, which is a pipe; empty once that is closed.

    Raises:
        TimeoutError: it said nothing for so many seconds.
    """
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(within):
            raise TimeoutError(f"it said nothing for {within:g} s")
    return process.stdout.readline().decode()
