"""How zqueuectl shows to a person what the daemon answered."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from zqueue import colours
from zqueue.cli.output import say
from zqueue.cli.tables import Table, harmless
from zqueue.control.messages import (
    ConfigResult,
    EventReply,
    QueueStatus,
    ReloadResult,
    StatusResult,
    Steered,
)
from zqueue.plurals import counted
from zqueue.printable import printable

_WIDTH_OF_A_FILE = 240
_STATE_STYLES = {
    "running": "green",
    "paused": "yellow",
    "draining": "yellow",
    "starting": "yellow",
    "stopped": "dim",
    "failed": "bold red",
}
_UNITS = ("", "k", "M", "G", "T", "P")


def status(result: StatusResult, closely: bool = False) -> None:
    """The daemon in a line, its queues in a table, then what needs a look; ``closely``, also what
    their engines cannot promise."""
    new_console().print(_status(result))
    for queue in result.queues if closely else ():
        if queue.not_promised:
            new_console().print(
                f"{queue.name}: engine {queue.engine} does not promise: "
                f"{', '.join(queue.not_promised)}"
            )


def watch(looks: Iterable[StatusResult]) -> None:
    """The status, drawn anew with each look; on what is no terminal, a line a queue and look."""
    console = new_console()
    if not console.is_terminal or console.is_dumb_terminal:
        for result in looks:
            for queue in result.queues:
                clock = datetime.now().strftime("%H:%M:%S")
                say(f"{clock} {queue.name} {queue.state} {_brief(queue)}")
        return
    with Live(console=console, auto_refresh=False, screen=False) as live:
        try:
            for result in looks:
                live.update(_status(result), refresh=True)
        except KeyboardInterrupt:
            return


def queues(result: StatusResult) -> None:
    """The queues with their endpoints."""
    table = Table("QUEUE", "TYPE", "ENGINE", "STATE", "FRONTEND", "BACKEND", "CAPTURE", "CONTROL")
    for queue in result.queues:
        table.add_row(
            queue.name,
            queue.type,
            queue.engine,
            state_of(queue),
            "\n".join(queue.frontend),
            "\n".join(queue.backend),
            queue.capture or "-",
            queue.control or "-",
        )
    new_console().print(table)


def stats(result: StatusResult, explain: bool = False) -> None:
    """All figures of each queue; with ``explain`` only where its requests have gone, and whether
    that adds up."""
    if explain:
        for queue in result.queues:
            new_console().print(*_explained(queue), sep="\n")
        return
    console = new_console()
    for queue in result.queues:
        about = "~" if queue.estimated else ""
        heading = Text.assemble(
            (queue.name, "bold"), f" {queue.type}, engine {queue.engine}, ", state_of(queue)
        )
        table = Table("", "MESSAGES", "FRAMES", "BYTES", "MESSAGES/S", "BYTES/S")
        for name, traffic in (("requests", queue.requests), ("replies", queue.replies)):
            table.add_row(
                name,
                f"{about}{traffic.messages}",
                str(traffic.frames),
                str(traffic.bytes),
                f"{about}{traffic.messages_per_second:.1f}",
                f"{traffic.bytes_per_second:.1f}",
            )
        peers = Table("", "CONNECTED", "ACCEPTED", "DISCONNECTED", "REJECTED")
        for name, side in (("clients", queue.clients), ("workers", queue.workers)):
            peers.add_row(
                name,
                str(side.connected),
                str(side.accepted),
                str(side.disconnected),
                str(side.rejected),
            )
        active = _ago(queue.last_activity) if queue.last_activity else "never"
        console.print(heading, table, peers, *_exact(queue))
        console.print(
            f"waiting {_count(queue.waiting, about)}, in flight {_count(queue.in_flight, about)}, "
            f"lost {_count(queue.lost, about)}; "
            f"last activity {active}; up {duration(queue.uptime)}, "
            f"restarts {queue.restarts}\n"
        )
    if any(queue.estimated for queue in result.queues):
        console.print("~ is an estimate: libzmq's proxy counts frames and bytes, not messages.")


_ENDS = {
    "waiting": "no worker has it yet",
    "in_flight": "a worker has it",
    "kept": "it was answered, and waits for its client, which may come back (client_grace)",
    "replied": "its reply went to its client",
    "unclaimed": "it was answered, and its client had left",
    "withdrawn": "its client left before a worker had answered it",
    "dead": "it was given up",
    "rejected": 'the queue was full (when_full = "reject")',
    "malformed": "only REPs, which would discard it: no empty frame; or too large an envelope",
    "unanswered": "a ROUTER or DEALER had it, which need not answer",
    "lost": "it was there when the queue was stopped",
}


def _explained(queue: QueueStatus) -> Iterator[Text | Table | str]:
    """What became of every request, in the order of docs/engines.md."""
    yield Text(queue.name, style="bold")
    if queue.ends is None:
        yield f"engine {queue.engine} does not know how requests end"
        return
    figures = queue.model_dump() | queue.ends.model_dump()
    counts = {name: figures[name] or 0 for name in _ENDS}
    total = sum(counts.values())
    received = queue.requests.messages
    sum_ = " + ".join(map(str, counts.values()))
    verdict = "it adds up" if total == received else f"NOT SO: it is {total}; please report this"
    yield f"received = {' + '.join(name.replace('_', ' ') for name in _ENDS)}"
    yield f"{received} = {sum_}: {verdict}"
    table = Table("", "REQUESTS", "MEANING")
    for name, count in counts.items():
        table.add_row(name.replace("_", " "), str(count), _ENDS[name] + _of_what(queue, name))
    yield table


def _of_what(queue: QueueStatus, end: str) -> str:
    died = queue.died.model_dump() if end == "dead" and queue.died is not None else {}
    causes = ", ".join(f"{cause} {count}" for cause, count in died.items() if count)
    return f": {causes}" if causes else ""


def short_time(seconds: float) -> str:
    """``12us``, ``3.4ms``, ``1.2s``: two or three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g}{unit}"
    return f"{seconds / 1e-6:.3g}us"


def _exact(queue: QueueStatus) -> Iterator[Table | str]:
    """Where requests have gone, and how long they took, on an engine that knows."""
    if queue.ends is not None:
        yield _counted("ended", queue.ends.model_dump() | {"lost": queue.lost})
    if queue.died is not None and any(queue.died.model_dump().values()):
        yield _counted("died of", queue.died.model_dump())
    if queue.incidents is not None:
        yield _counted("besides", queue.incidents.model_dump())
    latencies = Table("", "P50", "P99")
    for name, latency in (("queueing", queue.queueing), ("service", queue.service)):
        if latency is not None:
            latencies.add_row(name, short_time(latency.p50), short_time(latency.p99))
    if latencies.row_count:
        yield latencies
    letters = queue.dead_letters
    yield (
        f"dead letters {letters.kept} of {counted(letters.bytes, 'byte')} "
        f"in {letters.path or 'memory'}, evicted {letters.evicted}"
    )


def _counted(what: str, counts: Mapping[str, int | None]) -> Table:
    table = Table("", *(name.upper().replace("_", " ") for name in counts))
    table.add_row(what, *(_count(count, "") for count in counts.values()))
    return table


def steered(result: Steered, done: str) -> str:
    """What became of one queue, in a line."""
    if result.outcome == "done":
        already = "" if result.changed else "already "
        state = done if result.changed else result.state
        return f"{result.queue}: {already}{state}"
    if result.outcome == "failed":
        return f"{result.queue}: failed: {result.detail} (it is {result.state})"
    outcome = "timed out" if result.outcome == "timed_out" else result.outcome
    return f"{result.queue}: {outcome}: {result.detail}; {_left(result)} (it is {result.state})"


def progress(result: Steered) -> str:
    """How far a drain or a wait has come, in a line."""
    return f"{result.queue}: {result.state}, {_left(result)}"


def reload(result: ReloadResult) -> Iterator[str]:
    """What a reload has changed, a line each."""
    yield from (f"warning: {warning}" for warning in result.warnings)
    yield from (f"{name}: added" for name in result.added)
    yield from (f"{name}: removed" for name in result.removed)
    for name, keys in result.changed.items():
        how = "its sockets were made anew" if name in result.rebound else "applied"
        yield f"{name}: changed {', '.join(keys)}; {how}"
    for key in result.settings:
        how = "needs a restart" if key in result.needs_restart else "applied"
        yield f"{key}: changed; {how}"
    yield from (f"{name}: failed, and is tried again: {why}" for name, why in result.failed.items())
    if result.unchanged:
        yield f"unchanged: {', '.join(result.unchanged)}"


def event(reply: EventReply) -> str:
    """One event in a line."""
    queue = f" queue={reply.queue}" if reply.queue else ""
    fields = "".join(
        f" {key}={'-' if value is None else _one_line(value)}"
        for key, value in reply.fields.items()
    )
    missed = (
        f" ({counted(reply.dropped, 'event was', 'events were')} missed before this one)"
        if reply.dropped
        else ""
    )
    return f"{moment(reply.time)} {reply.level:<8} {reply.name}{queue}{fields}{missed}"


def moment(when: float) -> str:
    """The time of the day, with the date if that was another day."""
    then = datetime.fromtimestamp(when)
    day = "" if then.date() == datetime.now().date() else f"{then.date()} "
    return f"{day}{then.strftime('%H:%M:%S.%f')[:-3]}"


def config(result: ConfigResult) -> None:
    """Every setting with its origin."""
    table = Table("KEY", "VALUE", "FROM")
    for value in result.values:
        table.add_row(value.key, _value(value.value), value.origin)
    new_console().print(table)


def duration(seconds: float) -> str:
    """``3d 4h``, ``2m 5s``, ``0s``: the two largest units."""
    rest, parts = int(seconds), []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


# -- pieces ------------------------------------------------------------------------------------


def _status(result: StatusResult) -> Group:
    origin = result.config or "built-in default"
    head = (
        f"zqueued {result.version} on {result.name}, pid {result.pid}, {result.state}, "
        f"up {duration(result.uptime)}\nconfig {origin}, control {result.control}, "
        f"log level {result.log_level}"
    )
    table = Table(
        "QUEUE",
        "TYPE",
        "STATE",
        "SINCE",
        "BY",
        "CLIENTS",
        "WORKERS",
        "WAITING",
        "IN FLIGHT",
        "REQUESTS",
        "REQUESTS/S",
    )
    for queue in result.queues:
        about = "~" if queue.estimated else ""
        table.add_row(
            queue.name,
            queue.type,
            state_of(queue),
            _ago(queue.since),
            queue.by,
            str(queue.clients.connected),
            str(queue.workers.connected),
            _count(queue.waiting, about),
            _count(queue.in_flight, about),
            f"{about}{short_number(queue.requests.messages)}",
            f"{about}{short_number(queue.requests.messages_per_second)}",
        )
    notes = (f"{queue.name}: {note}" for queue in result.queues for note in _notes(queue))
    return Group(harmless(head), table, *map(harmless, notes))


def _notes(queue: QueueStatus) -> Iterator[str]:
    if queue.reason and queue.state in ("failed", "stopped", "paused"):
        yield f"{queue.state}: {queue.reason}"
    if queue.engine_reason:
        yield f"engine {queue.engine}, {queue.engine_reason}"
    if queue.lost:
        about = "~" if queue.estimated else ""
        lost = counted(queue.lost, "request was", "requests were")
        yield f"{about}{lost} lost: with workers that left, or at a stop"
    elif queue.lost is None and queue.requests.frames:
        yield "lost -: libzmq does not say what it drops"
    letters = queue.dead_letters
    if letters.kept:
        yield f"{counted(letters.kept, 'dead letter')}: zqueuectl dead list {queue.name}"
    if queue.incidents is not None and queue.incidents.unrecorded:
        died = counted(queue.incidents.unrecorded, "request")
        yield f"{died} died of which no dead letter could be kept"
    if letters.failure:
        unwritten = counted(letters.unwritten, "dead letter is", "dead letters are")
        yield f"{unwritten} not written: {letters.failure}"
    for endpoint, why in queue.not_connected.items():
        yield f"{endpoint} cannot be connected to: {why}"
    if queue.stale:
        yield "it did not answer in time; these are its last known figures"


def _brief(queue: QueueStatus) -> str:
    about = "~" if queue.estimated else ""
    return (
        f"clients={queue.clients.connected} workers={queue.workers.connected} "
        f"waiting={_count(queue.waiting, about)} in_flight={_count(queue.in_flight, about)} "
        f"requests={about}{queue.requests.messages} "
        f"requests/s={about}{queue.requests.messages_per_second:.1f} "
        f"replies/s={about}{queue.replies.messages_per_second:.1f}"
    )


def state_of(queue: QueueStatus) -> Text:
    stale = "?" if queue.stale else ""
    return Text(queue.state + stale, style=_STATE_STYLES.get(queue.state, ""))


def _left(result: Steered) -> str:
    about = "~" if result.estimated else ""
    return f"{_count(result.in_flight, about)} in flight, {_count(result.waiting, about)} waiting"


def _count(number: int | None, about: str) -> str:
    return "-" if number is None else f"{about}{number}"


def short_number(number: float) -> str:
    """Four digits and a unit; an exact number if it is that short."""
    for unit in _UNITS:
        if abs(number) < 10_000:
            shown = (
                f"{number:.1f}" if isinstance(number, float) and number < 100 else f"{number:.0f}"
            )
            return shown + unit
        number /= 1000
    return f"{number:.0f}E"


def _ago(moment: float) -> str:
    return f"{duration(max(0.0, time.time() - moment))} ago"


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _one_line(value: object) -> str:
    text = printable(_value(value))
    if text and not set(text) & set(' "='):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def new_console() -> Console:
    """A terminal's own width; for a pipe or a file, wide enough that nothing is folded."""
    how: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    if not colours.are_wanted():
        how["color_system"] = None
    console = _Console(**how)
    return console if console.is_terminal else _Console(width=_WIDTH_OF_A_FILE, **how)


class _Console(Console):
    """What others have said in a text that is printed steers no terminal."""

    def print(self, *objects: Any, **how: Any) -> None:
        super().print(
            *(harmless(each) if isinstance(each, str | Text) else each for each in objects), **how
        )
