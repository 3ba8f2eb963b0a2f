"""Tables that fit the terminal: columns that matter less are left out, and named; none breaks a
word of its heading or a number."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from zqueue.printable import printable

_GAP = 3
_FOLDED_AT = 24
"""A cell that is wider may be folded to this width."""

_NEVER_LEFT_OUT = ("", "QUEUE", "ID", "KEY", "VALUE", "NAME", "STATE", "REASON")
_LEFT_OUT_FIRST = (
    *("ZMTP", "TYPE", "ENGINE", "CAPTURE", "CONTROL", "BY", "FROM", "SILENT FOR", "SENT BYTES"),
    *("RECEIVED BYTES", "CLOSED FOR", "CONNECTED FOR", "IDENTITY", "CLIENT IDENTITY", "SIZE"),
    *("ATTEMPTS", "SERVICE", "AHEAD", "SINCE", "P50", "STATE FOR", "WORKER PEER", "CLIENT PEER"),
)
"""All others follow these, from the right to the left."""


class Table:
    """Rows under headings, as wide as the terminal at most. What a peer has said in a cell steers
    no terminal."""

    def __init__(self, *columns: str) -> None:
        self._columns = columns
        self._rows: list[tuple[Text, ...]] = []

    @property
    def row_count(self) -> int:
        return len(self._rows)

    def add_row(self, *cells: str | Text) -> None:
        """Add a row; a cell may have several lines."""
        self._rows.append(tuple(map(harmless, cells)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._fitting(options.max_width)
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for index in shown:
            widest = max(self._least(index), cell_len(self._columns[index]))
            table.add_column(
                self._columns[index],
                overflow="fold",
                no_wrap=self._width(index) <= _FOLDED_AT,
                min_width=min(widest, options.max_width),
            )
        for row in self._rows:
            table.add_row(*(row[index] for index in shown))
        yield table
        left_out = [name for index, name in enumerate(self._columns) if index not in shown]
        if left_out:
            yield Text(f"no room for: {', '.join(left_out)}", "dim")

    def _fitting(self, width: int) -> list[int]:
        """The columns that there is room for."""
        shown = list(range(len(self._columns)))
        for index in self._in_order_of_leaving():
            if sum(map(self._least, shown)) + _GAP * (len(shown) - 1) <= width:
                break
            shown.remove(index)
        return shown

    def _in_order_of_leaving(self) -> Iterator[int]:
        last_first = reversed(range(len(self._columns)))
        leaving = [index for index in last_first if self._columns[index] not in _NEVER_LEFT_OUT]

        def rank(index: int) -> int:
            name = self._columns[index]
            return _LEFT_OUT_FIRST.index(name) if name in _LEFT_OUT_FIRST else len(_LEFT_OUT_FIRST)

        yield from sorted(leaving, key=rank)

    def _least(self, index: int) -> int:
        """How narrow a column may be."""
        return max(cell_len(self._columns[index]), min(_FOLDED_AT, self._width(index)))

    def _width(self, index: int) -> int:
        lines = (line for row in self._rows for line in row[index].plain.split("\n"))
        return max(map(cell_len, lines), default=0)


def harmless(text: str | Text) -> Text:
    """The lines of ``text`` without what a terminal would obey."""
    plain, style = (text.plain, text.style) if isinstance(text, Text) else (text, "")
    lines = plain.split("\n")
    if isinstance(text, Text) and all(map(str.isprintable, lines)):
        return text
    return Text("\n".join(map(printable, lines)), style)
