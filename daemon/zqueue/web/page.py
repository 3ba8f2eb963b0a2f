"""The status page: is it up, is it slow, whose is it, what to do.

It is whole without a script, which only draws it anew in place of the browser's reload.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Iterator

from zqueue.control.messages import Latency, QueueStatus, StatusResult
from zqueue.findings import Finding, expected_wait, findings
from zqueue.printable import printable
from zqueue.reach import reach_of

_UNITS = ("", "k", "M", "G", "T")
_COLUMNS = ("Queue", "State", "Requests/s", "Waits now", "Waiting", "In flight", "Clients")
_MORE_COLUMNS = ("Workers", "Service p50 · p99")


def render(status: StatusResult) -> str:
    """The page of a status."""
    found = findings(status, reach_of(status))
    worst = found[0].weight if found else "note"
    verdict = {"bad": "Something is wrong", "warn": "Look at this", "note": "All is well"}[worst]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{verdict}: zqueue on {escape(status.name)}</title>
<link rel="stylesheet" href="/page.css">
<script src="/page.js" defer></script>
<noscript><meta http-equiv="refresh" content="5"></noscript>
</head>
<body>
<p id="silence" role="alert" hidden></p>
<main>
<header class="{worst}">
<h1>{verdict}</h1>
<p>zqueue {escape(status.version)} on <b>{escape(status.name)}</b>, {status.state} for \
{_duration(status.uptime)}. <span class="quiet">Seen at \
<time>{time.strftime("%H:%M:%S", time.localtime())}</time>.</span></p>
</header>
{_found(found)}
{_queues(status.queues)}
{"".join(map(_details, status.queues))}
<footer>
<p>pid {status.pid}, config {escape(status.config or "built-in default")}, log level \
{status.log_level}. Here you can look; <code>zqueuectl</code> steers. \
<a href="/metrics">metrics</a> <a href="/healthz">healthz</a> <a href="/readyz">readyz</a> \
<a href="/api/v1/status">JSON</a></p>
</footer>
</main>
</body>
</html>
"""


def escape(text: str) -> str:
    """For HTML; some of it was said by a peer, and may be read at a terminal."""
    return html.escape(printable(text))


def _found(found: list[Finding]) -> str:
    if not found:
        return ""
    rows = "".join(
        f'<li class="{each.weight}"><p>{_of_queue(each.queue)}{escape(each.what)} '
        f'<span class="whose">up to: {each.whose}</span></p>{_commands(each.do)}</li>\n'
        for each in found
    )
    return f'<section aria-label="What to know"><ul class="found">\n{rows}</ul></section>'


def _of_queue(name: str) -> str:
    return f"<b>{escape(name)}</b>: " if name else ""


def _commands(commands: Iterable[str]) -> str:
    shown = "".join(f"<code>{escape(command)}</code>" for command in commands)
    return f'<p class="do">{shown}</p>' if shown else ""


def _queues(queues: tuple[QueueStatus, ...]) -> str:
    columns = (*_COLUMNS, *_MORE_COLUMNS)
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    rows = "".join(map(_row, queues))
    return f"""<section class="table"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}</tbody>
</table></section>"""


def _row(queue: QueueStatus) -> str:
    about = "~" if queue.estimated else ""
    wait = expected_wait(queue)
    service = queue.service
    cells = (
        f'<span class="state {queue.state}">{queue.state}{" ?" if queue.stale else ""}</span>',
        about + _short(queue.requests.messages_per_second),
        "–" if wait is None else _seconds(wait),
        _count(queue.waiting, about),
        _count(queue.in_flight, about),
        str(queue.clients.connected),
        str(queue.workers.connected),
        f"{_seconds(service.p50)} · {_seconds(service.p99)}" if service else "–",
    )
    names = (*_COLUMNS, *_MORE_COLUMNS)[1:]
    shown = "".join(
        f'<td data-name="{name}">{cell}</td>' for name, cell in zip(names, cells, strict=True)
    )
    return f'<tr><th scope="row">{escape(queue.name)}</th>{shown}</tr>\n'


def _details(queue: QueueStatus) -> str:
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in _facts(queue)
    )
    name = escape(queue.name)
    return (
        f'<details id="queue-{name}"><summary>{name} in full</summary><dl>{rows}</dl></details>\n'
    )


def _facts(queue: QueueStatus) -> Iterator[tuple[str, str]]:
    about = "~" if queue.estimated else ""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(queue.since))
    yield "state", f"{queue.state} since {since}, by {queue.by}"
    yield "type, engine", f"{queue.type}, {queue.engine}"
    yield "frontend", ", ".join(queue.frontend)
    yield "backend", ", ".join(queue.backend)
    yield "requests", f"{about}{queue.requests.messages}, {_short(queue.requests.bytes)}B"
    yield "replies", f"{about}{queue.replies.messages}, {_short(queue.replies.bytes)}B"
    for title, counted in (
        ("ended", queue.ends),
        ("died of", queue.died),
        ("besides", queue.incidents),
    ):
        counts = counted.model_dump() if counted is not None else {}
        if title == "ended":
            counts["lost"] = queue.lost
        told = ", ".join(
            f"{name.replace('_', ' ')} {'-' if count is None else count}"
            for name, count in counts.items()
            if count != 0
        )
        if told:
            yield title, told
    for title, latency in (("queueing", queue.queueing), ("service", queue.service)):
        if latency is not None:
            yield title, _latency(latency)
    letters = queue.dead_letters
    yield "dead letters", f"{letters.kept} in {letters.path or 'memory'}, evicted {letters.evicted}"
    yield "restarts", str(queue.restarts)


def _latency(latency: Latency) -> str:
    taken = sum(latency.counts)
    mean = f", mean {_seconds(latency.seconds / taken)}" if taken else ""
    return f"half {_seconds(latency.p50)}, 99 of 100 {_seconds(latency.p99)}{mean}"


def _count(number: int | None, about: str) -> str:
    return "–" if number is None else about + _short(number)


def _short(number: float) -> str:
    for unit in _UNITS:
        if number < 10_000:
            precise = isinstance(number, float) and number < 100
            return f"{number:.1f}{unit}" if precise else f"{number:.0f}{unit}"
        number /= 1000
    return f"{number:.0f}P"


def _seconds(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs" if seconds else "0"


def _duration(seconds: float) -> str:
    rest, parts = int(seconds), []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
