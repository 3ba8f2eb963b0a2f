"""What is seen of a model: lines of text, as many as there is room for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from zqueue.cli import render
from zqueue.cli.top.lists import LISTS
from zqueue.cli.top.model import Model
from zqueue.cli.top.table import Column, Table, lay_out, plain
from zqueue.clocks import moment_of
from zqueue.control.messages import Latency, QueueStatus
from zqueue.findings import Finding, Weight, findings
from zqueue.printable import printable
from zqueue.reach import reach_of

_SHORTEST_TREND = 12
_SILENT_FOR = 2.0


@dataclass(frozen=True)
class Symbols:
    """What is drawn with: ``levels`` from nothing to the most."""

    levels: str
    remedy: str
    selected: str
    rising: str
    falling: str
    cut: str


UNICODE = Symbols("▁▂▃▄▅▆▇█", "→", "▸", "▲", "▼", "…")
ASCII = Symbols("_.:-=+*#", "->", ">", "^", "v", "..")


def symbols(encoding: str) -> Symbols:
    """Those that a terminal of this encoding can show."""
    return UNICODE if encoding.lower().replace("-", "").startswith("utf8") else ASCII


def trend(rates: Sequence[float | None], width: int, levels: str) -> str:
    """The last ``width`` rates, each as high as its share of the highest among them."""
    shown = list(rates)[-width:]
    highest = max((rate for rate in shown if rate is not None), default=0.0)
    return "".join(" " if rate is None else levels[_level(rate, highest)] for rate in shown)


def _level(rate: float, highest: float) -> int:
    """0 only for nothing, 7 only for the highest."""
    return 0 if rate <= 0 else max(1, int(7 * rate / highest))


# -- the whole -------------------------------------------------------------------------------------


def page(model: Model, width: int, height: int, drawn: Symbols, now: float) -> list[Text]:
    """A terminal full, the keys in its last line."""
    top = [_headline(model, width, now)]
    if model.help:
        body = top + [Text(line) for line in _HELP]
    else:
        body = _fitted(model, top, width, height - 1, drawn)
    body = body[: height - 1]
    body += [Text()] * (height - 1 - len(body))
    return [_cut(line, width, drawn) for line in (*body, _footer(model, width))]


def whole(model: Model, width: int, drawn: Symbols, now: float) -> list[Text]:
    """All there is, however long, and no keys."""
    parts = _Parts(model, width, drawn)
    lines = [_headline(model, None, now), *parts.queues.header, *parts.queues.rows]
    lines += [Text(), *parts.findings] if parts.findings else []
    lines += [Text(), parts.title, *parts.list.header, *parts.list.rows]
    for line in lines:
        line.rstrip()
    return lines


class _Parts:
    """The parts of a page, each as long as it would be if there were room."""

    def __init__(self, model: Model, width: int, drawn: Symbols) -> None:
        table = lay_out(_QUEUE_COLUMNS, model.queues, width - 2)
        room = width - 2 - table.width - 2
        trends = any(len(rates) > 1 for rates in model.rates.values())
        self.trend_line: list[Text] = []
        if trends and room >= _SHORTEST_TREND:
            table = _with_trends(model, table, room, drawn)
        elif trends:
            self.trend_line = [_trend_line(model, width, drawn)]
        names = [queue.name for queue in model.queues]
        self.queue = names.index(model.queue) if model.queue in names else 0
        self.queues = _selectable(model, table, self.queue, drawn, has_keys=not model.in_list)
        self.findings = [_finding(each, drawn) for each in _found(model)]
        self.title = _title(model, drawn)
        self.list = _list(model, width, drawn)
        ids = [row.id for row in model.rows()]
        self.row = ids.index(model.row) if model.row in ids else 0


def _fitted(model: Model, top: list[Text], width: int, height: int, drawn: Symbols) -> list[Text]:
    """Each part gets what it needs; if there is too little, the findings a quarter at most, the
    queues half of the rest at least."""
    parts = _Parts(model, width, drawn)
    now = parts.trend_line
    titles = [Text(), parts.title, *parts.list.header]
    room = height - len(top) - len(parts.queues.header) - len(now) - len(titles)
    found = parts.findings
    most = max(2, room // 4)
    if len(found) > most:
        more = Text(
            f"   and {len(found) - most + 1} more; f has only those of {model.queue}", "dim"
        )
        found = [*found[: most - 1], more]
    room -= len(found)
    rows = max(1, len(parts.list.rows))
    shown = max(1, min(len(parts.queues.rows), max(room // 2, room - rows)))
    return [
        *top,
        *parts.queues.header,
        *_around(parts.queues.rows, parts.queue, shown),
        *now,
        *found,
        *titles,
        *_around(parts.list.rows, parts.row, room - shown),
    ]


def _around(rows: list[Text], at: int, count: int) -> list[Text]:
    """``count`` of the rows, the one ``at`` among them."""
    first = max(0, min(at - count // 2, len(rows) - count))
    return rows[first : first + max(0, count)]


def _cut(line: Text, width: int, drawn: Symbols) -> Text:
    if cell_len(line.plain) > width:
        line = line.copy()
        line.truncate(max(0, width - len(drawn.cut)), overflow="crop")
        line.append(drawn.cut)
    return line


# -- its parts -------------------------------------------------------------------------------------


def _headline(model: Model, width: int | None, now: float) -> Text:
    """``width``: where the time of day ends."""
    look = model.look
    if look is None:
        return Text("zqueued")
    if model.lost is not None and model.lost_since is not None:
        reason = " ".join(model.lost.reason.removeprefix(f"{look.status.control}: ").split())
        return Text(
            printable(
                f"not reachable since {_clock(moment_of(model.lost_since))}, trying: {reason}"
            ),
            "bold red",
        )
    status = look.status
    line = Text.assemble(
        (f"zqueued {status.version}", "bold"),
        plain(f" on {status.name}: "),
        (status.state, "green" if status.state == "running" else "yellow"),
        f", up {render.duration(status.uptime)}, pid {status.pid}",
    )
    silent = now - look.at
    if silent > model.interval + _SILENT_FOR:
        return Text.assemble((f"no answer for {silent:.0f}s: ", "bold red"), line)
    clock = _clock(moment_of(look.at))
    gap = 2 if width is None else width - cell_len(line.plain) - len(clock)
    line.append(" " * max(2, gap) + clock, "dim")
    return line


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))


def _about(queue: QueueStatus) -> str:
    return "~" if queue.estimated else ""


def _count(queue: QueueStatus, number: int | None) -> str:
    return "-" if number is None else _about(queue) + render.short_number(number)


def _out(queue: QueueStatus) -> str:
    if queue.type != "queue":
        return "-"
    return _about(queue) + render.short_number(queue.replies.messages_per_second)


def _seconds(latency: Latency | None, part: str) -> str:
    known = _known(latency, part)
    return "-" if known is None else render.short_time(known)


def _known(latency: Latency | None, part: str) -> float | None:
    if latency is None or not sum(latency.counts):
        return None
    seconds: float = getattr(latency, part)
    return seconds


def _dead(queue: QueueStatus) -> int | None:
    return None if queue.ends is None else queue.ends.dead


_QUEUE_COLUMNS = (
    Column("QUEUE", lambda each: each.name, lambda each: each.name, least=10, left=True),
    Column("STATE", render.state_of, lambda each: each.state, least=8, left=True),
    Column(
        "REQS\nPER S",
        lambda each: _about(each) + render.short_number(each.requests.messages_per_second),
        lambda each: each.requests.messages_per_second,
        rank=1,
        least=6,
    ),
    Column("REPLIES\nPER S", _out, lambda each: each.replies.messages_per_second, rank=3, least=6),
    Column(
        "WAITING",
        lambda each: _count(each, each.waiting),
        lambda each: each.waiting,
        rank=1,
        least=6,
    ),
    Column(
        "IN\nFLIGHT",
        lambda each: _count(each, each.in_flight),
        lambda each: each.in_flight,
        rank=2,
        least=6,
    ),
    Column(
        "QUEUED\nP50",
        lambda each: _seconds(each.queueing, "p50"),
        lambda each: _known(each.queueing, "p50"),
        rank=8,
        least=6,
    ),
    Column(
        "QUEUED\nP99",
        lambda each: _seconds(each.queueing, "p99"),
        lambda each: _known(each.queueing, "p99"),
        rank=5,
        least=6,
    ),
    Column(
        "SERVICE\nP50",
        lambda each: _seconds(each.service, "p50"),
        lambda each: _known(each.service, "p50"),
        rank=7,
        least=6,
    ),
    Column(
        "SERVICE\nP99",
        lambda each: _seconds(each.service, "p99"),
        lambda each: _known(each.service, "p99"),
        rank=4,
        least=6,
    ),
    Column(
        "WORKERS",
        lambda each: str(each.workers.connected),
        lambda each: each.workers.connected,
        rank=3,
    ),
    Column(
        "CLIENTS",
        lambda each: str(each.clients.connected),
        lambda each: each.clients.connected,
        rank=6,
    ),
    Column("DEAD", lambda each: _count(each, _dead(each)), _dead, rank=3),
)


def _with_trends(model: Model, table: Table, room: int, drawn: Symbols) -> Table:
    """How the requests of each queue came of late, where the table leaves ``room``."""
    table.header[-1].append("  REQUESTS/S OF LATE")
    for queue, row in zip(model.queues, table.rows, strict=True):
        row.append("  " + trend(model.rates.get(queue.name, ()), room, drawn.levels), "cyan")
    return table


def _selectable(
    model: Model, table: Table, at: int | None, drawn: Symbols, *, has_keys: bool
) -> Table:
    """With a mark before the row that is selected; old figures are dim."""
    header = [Text("  ").append_text(line) for line in table.header]
    rows = []
    for index, row in enumerate(table.rows):
        line = Text(f"{drawn.selected} " if index == at else "  ").append_text(row)
        if model.lost is not None:
            line = Text(line.plain, "dim")
        elif index == at:
            line.stylize("reverse" if has_keys else "bold")
        rows.append(line)
    return Table(header, rows, table.width + 2)


def _trend_line(model: Model, width: int, drawn: Symbols) -> Text:
    """How requests came to the selected queue, where the table has no room for it."""
    rates = model.rates.get(model.queue or "", ())
    highest = max((rate for rate in rates if rate is not None), default=0.0)
    about = "".join(_about(queue) for queue in model.queues if queue.name == model.queue)
    name, most = f"  {model.queue} ", f"  at most {about}{render.short_number(highest)}/s"
    shown = trend(rates, max(1, width - len(name) - len(most)), drawn.levels)
    return Text.assemble((name, "dim"), (shown, "cyan"), (most, "dim"))


_MARKS: dict[Weight, tuple[str, str]] = {
    "bad": ("!!", "bold red"),
    "warn": ("! ", "yellow"),
    "note": ("- ", "dim"),
}


def _found(model: Model) -> list[Finding]:
    if model.look is None:
        return []
    found = findings(model.look.status, reach_of(model.look.status, model.ctl))
    if model.only_selected:
        return [each for each in found if each.queue in ("", model.queue)]
    return found


def _finding(found: Finding, drawn: Symbols) -> Text:
    mark, style = _MARKS[found.weight]
    line = Text.assemble(
        (f"{mark} ", style), (f"{found.queue}: " if found.queue else "", "bold"), plain(found.what)
    )
    if found.do:
        line.append(f" {drawn.remedy} ", style)
        line.append_text(plain("; ".join(found.do)))
    return line


def _title(model: Model, drawn: Symbols) -> Text:
    line = Text()
    for number, listing in enumerate(LISTS):
        line.append("  " if number else "")
        line.append(listing.name.upper(), "bold" if listing == model.listing else "dim")
        line.append(f" ({listing.key})" if len(LISTS) > 1 else "")
    line.append(f" of {model.queue}" if model.queue else "")
    rows = model.rows()
    if rows:
        direction = drawn.falling if model.sorting.falling else drawn.rising
        by = model.sorted_by.name or "state"
        line.append(f": {len(rows)}, by {by} {direction}")
    return line


def _list(model: Model, width: int, drawn: Symbols) -> Table:
    rows = model.rows()
    if rows:
        table = lay_out(model.listing.columns, rows, width - 2, model.sorted_by)
        ids = [row.id for row in rows]
        at = ids.index(model.row) if model.row in ids else None
        return _selectable(model, table, at, drawn, has_keys=model.in_list)
    return Table([], [Text(f"  {line}", "dim") for line in _why_no_rows(model)], width)


def _why_no_rows(model: Model) -> Iterator[str]:
    look = model.look
    if look is None or not model.is_listed:
        return
    yield plain(look.refusal or f"no {model.listing.name}").plain
    if any(queue.name == model.queue and queue.estimated for queue in model.queues):
        yield "~ is an estimate: libzmq's proxy counts frames and bytes, not messages."


# -- keys ------------------------------------------------------------------------------------------

_HELP = (
    "",
    "up down j k        select a queue, or a row of the list",
    "PgUp PgDn          ten at a time; Home, End: the first, the last",
    "Tab                from the queues to the list, and back",
    *(f"{each.key}                  list the {each.name} of the queue" for each in LISTS),
    "< >  s             sort the list by another column",
    "r                  the other way round",
    "",
    "p                  pause the queue: no request goes to a worker any more",
    "u                  resume it (unpause)",
    "d                  drain it: finish what is there, take nothing new, then pause;",
    "                   with the list selected, drain that worker only",
    "                   Each asks first; y does it, any other key does not.",
    "",
    "f                  findings of the selected queue only, or of all",
    "+ -                look less often, more often",
    "q  Ctrl-C          quit; what was asked for goes on",
    "",
    "docs/top.md says what the columns are. Any key goes back.",
)


def _footer(model: Model, width: int) -> Text:
    if model.question is not None:
        line = f" {model.question}? {model.question.meaning}.  y/n "
        return Text(line, "bold reverse")
    if model.told:
        return Text(plain(f" {model.told} ").plain, "bold yellow")
    keys = (
        ("q", "quit"),
        ("?", "help"),
        ("jk", "select"),
        ("Tab", "queues" if model.in_list else model.listing.name),
        ("p", "pause"),
        ("u", "resume"),
        ("d", "drain worker" if model.in_list and model.listing.drains else "drain"),
        ("<>", "sort"),
        ("r", "reverse"),
        ("+-", f"every {model.interval:g}s"),
    )
    return _keys(keys, width)


def _keys(keys: Iterable[tuple[str, str]], width: int) -> Text:
    line = Text()
    for key, what in keys:
        if cell_len(line.plain) + len(f"{key} {what}  ") > width:
            break
        line.append(key, "bold reverse")
        line.append(f" {what}  ")
    return line
