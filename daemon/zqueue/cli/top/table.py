"""Tables whose less important columns give way where the terminal is narrow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from zqueue.printable import printable

_GAPS = (2, 1)
"""Spaces between columns; the fewer only where not all columns fit otherwise."""

_WIDEST = 40


@dataclass(frozen=True)
class Column:
    """``title``: one line, or two. ``order`` is what rows are sorted by, ``None`` where that is not
    known. Columns of the highest ``rank`` are left out first, those of rank 0 never. ``least``: as
    wide as its figures usually get, so that the columns stay where they are."""

    title: str
    cell: Callable[[Any], str | Text]
    order: Callable[[Any], Any]
    rank: int = 0
    least: int = 0
    left: bool = False

    @property
    def name(self) -> str:
        """The title, in one line and in small letters."""
        return self.title.replace("\n", " ").lower()


@dataclass(frozen=True)
class Table:
    """Header and rows, all ``width`` wide at most."""

    header: list[Text]
    rows: list[Text]
    width: int


def lay_out(
    columns: Sequence[Column], rows: Sequence[Any], width: int, marked: Column | None = None
) -> Table:
    """Put ``rows`` in as many of the ``columns`` as ``width`` has room for. The title of ``marked``
    is emphasised."""
    cells = {column: [plain(column.cell(row)) for row in rows] for column in columns}
    widths = {column: _width(column, cells[column]) for column in columns}
    shown = list(columns)
    wide, narrow = _GAPS
    gap = wide if _together(widths.values(), wide) <= width else narrow
    while _together((widths[column] for column in shown), gap) > width:
        gives_way = max(reversed(shown), key=lambda column: column.rank)
        if gives_way.rank == 0:
            break
        shown.remove(gives_way)
    height = max(column.title.count("\n") for column in columns) + 1
    titles = [("\n" * height + column.title).split("\n")[-height:] for column in shown]
    header = [
        _line(
            (
                (
                    column,
                    widths[column],
                    Text(title[line], "bold underline" if column == marked else "bold"),
                )
                for column, title in zip(shown, titles, strict=True)
            ),
            gap,
        )
        for line in range(height)
    ]
    lines = [
        _line(((column, widths[column], cells[column][index]) for column in shown), gap)
        for index in range(len(rows))
    ]
    return Table(header, lines, _together((widths[column] for column in shown), gap))


def plain(cell: str | Text) -> Text:
    """The cell without what a terminal would obey: some of it was said by a peer."""
    text = cell if isinstance(cell, Text) else Text(printable(cell))
    return text if text.plain.isprintable() else Text(printable(text.plain), text.style)


def in_order(rows: Iterable[Any], column: Column, falling: bool) -> list[Any]:
    """The rows sorted by a column; those of which it is not known come last."""
    known: list[Any] = []
    unknown: list[Any] = []
    for row in rows:
        (unknown if column.order(row) is None else known).append(row)
    return sorted(known, key=column.order, reverse=falling) + unknown


def _width(column: Column, cells: list[Text]) -> int:
    lines = [*column.title.split("\n"), *(cell.plain for cell in cells)]
    return min(_WIDEST, max(column.least, *map(cell_len, lines)))


def _together(widths: Iterable[int], gap: int) -> int:
    widths = list(widths)
    return sum(widths) + gap * (len(widths) - 1)


def _line(cells: Iterable[tuple[Column, int, Text]], gap: int) -> Text:
    line = Text()
    for number, (column, width, cell) in enumerate(cells):
        cell = cell.copy()
        cell.truncate(width)
        cell.align("left" if column.left else "right", width)
        if number:
            line.append(" " * gap)
        line.append_text(cell)
    return line
