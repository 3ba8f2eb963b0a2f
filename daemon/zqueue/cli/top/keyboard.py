"""The keys of a terminal, each as it is pressed."""

from __future__ import annotations

import contextlib
import os
import re
import termios
import tty
from typing import Self

_SEQUENCES = {
    "A": "up",
    "B": "down",
    "C": "right",
    "D": "left",
    "H": "home",
    "F": "end",
    "Z": "backtab",
    "1~": "home",
    "4~": "end",
    "5~": "pageup",
    "6~": "pagedown",
}
_SEQUENCE = re.compile(r"\x1b(?:\[([0-9;]*[A-Za-z~])|O([A-Za-z]))")
_BEGUN = re.compile(r"\x1b(?:\[[0-9;]*|O)?")
_NAMES = {"\t": "tab", "\r": "enter", "\n": "enter", "\x1b": "escape"}


def keys_of(text: str) -> tuple[list[str], str]:
    """The keys that ``text`` stands for, and its end where that may be only half a key.

    A printable key is itself, others have names: ``up``, ``tab``, ``escape``. Keys that are not
    known are left out.
    """
    keys = []
    while text:
        if found := _SEQUENCE.match(text):
            text = text[found.end() :]
            name = _SEQUENCES.get(found[1] or found[2])
        elif _BEGUN.fullmatch(text):
            break
        else:
            name, text = _NAMES.get(text[0], text[0]), text[1:]
        if name is not None:
            keys.append(name)
    return keys, text


class Keyboard:
    """The terminal at ``descriptor``, whose keys come unechoed and without Enter while in a
    ``with``. Ctrl-C and Ctrl-Z are signals as ever."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._before = termios.tcgetattr(descriptor)
        self._half = ""

    @property
    def is_half_a_key(self) -> bool:
        """Either more follows at once, or it was Escape."""
        return bool(self._half)

    def __enter__(self) -> Self:
        self.hold()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def hold(self) -> None:
        tty.setcbreak(self.descriptor, termios.TCSANOW)

    def release(self) -> None:
        """Leave the terminal as it was found."""
        with contextlib.suppress(termios.error):  # it has gone
            termios.tcsetattr(self.descriptor, termios.TCSANOW, self._before)

    def read(self) -> list[str]:
        """The keys pressed since the last time; there must be something to read.

        Raises:
            EOFError: the terminal has gone.
        """
        try:
            read = os.read(self.descriptor, 1024)
        except OSError as error:
            raise EOFError from error
        if not read:
            raise EOFError
        keys, self._half = keys_of(self._half + read.decode(errors="ignore"))
        return keys

    def give_up(self) -> list[str]:
        """Nothing has followed what is half a key."""
        half, self._half = self._half, ""
        return ["escape"] if half else []
