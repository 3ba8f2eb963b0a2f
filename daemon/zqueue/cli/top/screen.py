"""A terminal as a page of lines, of which only those that have changed are drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Self, TextIO

from rich.console import Console
from rich.text import Text

from zqueue import colours

# The alternate screen; no cursor; no wrapping, which would scroll at the last place of the last
# line.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"


class Screen:
    """Covers the terminal that ``out`` writes to while in a ``with``; what was there comes back."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._console = Console(
            file=out,
            highlight=False,
            markup=False,
            emoji=False,
            color_system="auto" if colours.are_wanted() else None,
        )
        self._size = (0, 0)
        self._shown: list[str] = []

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def enter(self) -> None:
        self._size = (0, 0)
        self._write(_ENTER)

    def leave(self) -> None:
        self._write(_LEAVE)

    def size(self) -> tuple[int, int]:
        """Columns and lines, now."""
        return os.get_terminal_size(self._out.fileno())

    def show(self, lines: Sequence[Text]) -> None:
        """Show these from the top on, and nothing below them."""
        size = width, height = self.size()
        drawn = self._drawn(lines[:height], width)
        moves = []
        if size != self._size:
            self._size, self._shown = size, []
            moves.append("\x1b[0m\x1b[2J")
        for row, line in enumerate(drawn):
            if row >= len(self._shown) or line != self._shown[row]:
                moves.append(f"\x1b[{row + 1};1H\x1b[K{line}")
        if len(drawn) < len(self._shown):
            moves.append(f"\x1b[{len(drawn) + 1};1H\x1b[J")
        self._shown = drawn
        if moves:
            self._write("".join(moves))

    def _drawn(self, lines: Sequence[Text], width: int) -> list[str]:
        self._console.width = width
        with self._console.capture() as captured:
            for line in lines:
                self._console.print(line, no_wrap=True, overflow="crop", crop=True)
        return captured.get().split("\n")[:-1]

    def _write(self, text: str) -> None:
        self._out.buffer.write(text.encode(self._out.encoding, "replace"))
        self._out.buffer.flush()
