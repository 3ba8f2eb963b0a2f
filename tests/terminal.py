"""A program at a terminal of its own, and what is seen there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Sequence
from typing import Any

from tests.waiting import wait_for

_SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")
_BEGUN = re.compile(r"\x1b(\[[?0-9;]*)?")


class Terminal:
    """Knows what zqueuectl sends: texts, and sequences that move, erase, colour and switch to the
    other screen and back."""

    def __init__(self, command: Sequence[str], columns: int = 80, lines: int = 24) -> None:
        self._master, self._slave = pty.openpty()
        os.set_blocking(self._master, False)
        self._resize(columns, lines)
        self.before = termios.tcgetattr(self._slave)
        self.is_covered = False
        self.received = ""
        self._unread = b""
        self._page: dict[tuple[int, int], str] = {}
        self._at = (0, 0)
        environment = os.environ | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
        self.process = subprocess.Popen(
            command,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=environment,
            preexec_fn=self._own,
        )

    def _own(self) -> None:
        os.setsid()
        fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)
        # Where the tests run in the background, a shell may have had it ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    @property
    def settings(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    @property
    def lines(self) -> list[str]:
        """What is to be read on it now."""
        self._take()
        width = max((column for _, column in self._page), default=-1) + 1
        height = max((row for row, _ in self._page), default=-1) + 1
        rows = [[self._page.get((row, x), " ") for x in range(width)] for row in range(height)]
        return ["".join(row).rstrip() for row in rows]

    def line(self, text: str) -> str:
        """Wait for a line with this in it."""
        self.wait(lambda: any(text in line for line in self.lines), f"{text!r} to be shown")
        return next((line for line in self.lines if text in line), text)

    def wait(self, what: Callable[[], Any], about: str) -> None:
        """As ``wait_for``, and a failure tells what was to be seen."""

        def seen() -> Any:
            self._take()
            return what()

        try:
            wait_for(seen, about)
        except AssertionError as error:
            raise AssertionError(f"{error}; seen:\n" + "\n".join(self.lines)) from None

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Give it another size, of which the kernel tells the program."""
        self._resize(columns, lines)

    def end(self) -> int:
        """Wait until the program has ended; its exit code."""
        self.wait(lambda: self.process.poll() is not None, "the program to end")
        self._take()
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._slave)
        os.close(self._master)

    def _resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _take(self) -> None:
        """Read what has come, and draw it."""
        while True:
            try:
                self._unread += os.read(self._master, 65536)
            except BlockingIOError:
                break
        text = self._unread.decode(errors="ignore")
        start = 0
        while start < len(text):
            found = _SEQUENCE.match(text, start)
            if found:
                self._obey(*found.groups())
                start = found.end()
            elif _BEGUN.fullmatch(text, start):
                break
            else:
                self._put(text[start])
                start += 1
        self.received += text[:start]
        self._unread = text[start:].encode()

    def _put(self, character: str) -> None:
        row, column = self._at
        if character == "\n":
            self._at = (row + 1, column)
        elif character == "\r":
            self._at = (row, 0)
        else:
            self._page[self._at] = character
            self._at = (row, column + 1)

    def _obey(self, private: str, numbers: str, letter: str) -> None:
        if private and numbers == "1049":
            self.is_covered = letter == "h"
        elif letter == "H":
            row, column = map(int, numbers.split(";"))
            self._at = (row - 1, column - 1)
        elif letter == "K":
            self._erase(lambda place: place[0] == self._at[0] and place >= self._at)
        elif letter == "J":
            self._erase(lambda place: numbers == "2" or place >= self._at)

    def _erase(self, which: Callable[[tuple[int, int]], bool]) -> None:
        self._page = {place: each for place, each in self._page.items() if not which(place)}
