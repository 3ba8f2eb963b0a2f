"""The log on stderr: events rendered for a terminal, a file, a log shipper or the journal.

Whatever becomes of stderr, the daemon goes on: a thread of its own renders and writes, and the one
who says an event never waits for it.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from structlog import dev
from structlog.processors import JSONRenderer, LogfmtRenderer

from zqueue.events import Event

LEVELS = ("debug", "info", "warning", "error")
"""What the level may be set to. Events of level ``critical`` are always shown."""

FORMATS = ("auto", "console", "logfmt", "json", "journal")

_RANKS = {level: rank for rank, level in enumerate((*LEVELS, "critical"))}
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_MOST_PENDING = 10_000

Render = Callable[[Event], str]


class Log:
    """Writes events of ``level`` and above to stderr. Subscribe it to an event bus.

    Calling it never blocks and never raises. While stderr takes nothing, up to 10,000 events wait;
    those beyond, and those whose writing failed, are counted in :attr:`dropped`, and once writing
    works again one line (event ``log.lines_lost``) says how many are missing at that place.

    Formats: ``console``, ``logfmt``, ``json``, ``journal`` (lines with a priority as in
    sd-daemon(3) and without the time, which the journal adds), and ``auto``: ``journal`` if stderr
    goes to the journal, else ``console`` on a terminal, else ``logfmt``.

    Raises:
        ValueError: there is no such level or format.
    """

    def __init__(self, level: str, format: str) -> None:
        self.level = level
        # Python found no descriptor 2 at its start; by now it may be anything, such as a socket.
        self._fd = 2 if sys.__stderr__ is not None else -1
        self._render = _renderer(format, self._fd)
        self._pending: deque[Event | int] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._dropped = 0
        self._torn = False
        self._thread = threading.Thread(target=self._run, name="zq.log", daemon=True)
        self._thread.start()

    @property
    def level(self) -> str:
        """The least level that is shown; may be set at any time.

        Raises:
            ValueError: when set to what is not in :data:`LEVELS`.
        """
        return self._level

    @level.setter
    def level(self, level: str) -> None:
        if level not in LEVELS:
            raise ValueError(f'there is no log level "{level}"; use {", ".join(LEVELS)}')
        self._level = level

    @property
    def dropped(self) -> int:
        """How many events should have been shown and were not."""
        with self._changed:
            return self._dropped

    def __call__(self, event: Event) -> None:
        if _RANKS.get(event.level, len(_RANKS)) < _RANKS[self._level]:
            return
        with self._changed:
            if self._closed:
                self._dropped += 1
            elif len(self._pending) < _MOST_PENDING:
                self._pending.append(event)
            else:
                self._widen_gap()
            self._changed.notify()

    def close(self, timeout: float) -> None:
        """Write what is pending, for up to ``timeout`` seconds; what comes later is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)
        with self._changed:
            self._dropped += sum(isinstance(item, Event) for item in self._pending)
            self._pending.clear()

    def _widen_gap(self) -> None:
        """A number among the pending events stands for so many that are missing there."""
        last = self._pending[-1]
        if isinstance(last, int):
            self._pending[-1] = last + 1
        else:
            self._pending.append(1)
        self._dropped += 1

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        unsaid = 0
        while True:
            item = self._take()
            if isinstance(item, int):
                unsaid += item
            if unsaid and self._write(_lines_lost(unsaid)):
                unsaid = 0
            if item is None:
                return
            if isinstance(item, Event) and (unsaid or not self._write(item)):
                unsaid += 1
                with self._changed:
                    self._dropped += 1

    def _take(self) -> Event | int | None:
        with self._changed:
            while not self._pending and not self._closed:
                self._changed.wait()
            return self._pending.popleft() if self._pending else None

    def _write(self, event: Event) -> bool:
        """Whether the event's line is out, whole."""
        try:
            line = self._render(event)
        except Exception:  # a field that cannot be shown must not silence the log for good
            return False
        text = f"\n{line}\n" if self._torn else f"{line}\n"
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        whole = len(left)
        try:
            while left:
                left = left[self._write_some(left) :]
        except OSError:
            self._torn = self._torn or len(left) < whole
            return False
        self._torn = False
        return True

    def _write_some(self, data: memoryview) -> int:
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:  # whoever shares our stderr may have made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()


def _lines_lost(count: int) -> Event:
    message = "stderr took no more; these events are missing from the log here"
    return Event("log.lines_lost", "warning", time.time(), None, message, {"lines": count})


# -- formats -----------------------------------------------------------------------------------


def _renderer(format: str, fd: int) -> Render:
    if format not in FORMATS:
        raise ValueError(f'there is no log format "{format}"; use {", ".join(FORMATS)}')
    if format == "auto":
        format = _format_for(fd)
    if format == "console":
        return _console(colours=_takes_colours(fd))
    return {"logfmt": _logfmt, "json": _json, "journal": _journal}[format]()


def _format_for(fd: int) -> str:
    if _is_journal(fd):
        return "journal"
    return "console" if _is_terminal(fd) else "logfmt"


def _is_journal(fd: int) -> bool:
    """Whether stderr is the stream that systemd made for us, by ``JOURNAL_STREAM`` of
    systemd.exec(5): after a redirection the variable is still there."""
    stream = os.environ.get("JOURNAL_STREAM")
    if not stream:
        return False
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return stream == f"{found.st_dev}:{found.st_ino}"


def _is_terminal(fd: int) -> bool:
    return fd >= 0 and os.isatty(fd)


def _takes_colours(fd: int) -> bool:
    """``NO_COLOR`` as on no-color.org."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and _is_terminal(fd)


def _json() -> Render:
    json = JSONRenderer()

    def render(event: Event) -> str:
        return str(json(None, "", _plain(_head(event) | event.fields)))

    return render


def _logfmt() -> Render:
    logfmt = LogfmtRenderer(bool_as_flag=False)

    def render(event: Event) -> str:
        return logfmt(None, "", _shown(_head(event) | event.fields))

    return render


def _journal() -> Render:
    logfmt = LogfmtRenderer(bool_as_flag=False)

    def render(event: Event) -> str:
        fields = _shown({"event": event.name} | _queue(event) | event.fields)
        priority = _PRIORITIES.get(event.level, 6)
        return f"<{priority}>{_one_line(event.message)} {logfmt(None, '', fields)}"

    return render


def _console(colours: bool) -> Render:
    dim, bright, key, reset = (
        (dev.DIM, dev.BRIGHT, dev.CYAN, dev.RESET_ALL) if colours else ("", "", "", "")
    )
    all_styles = dev.ConsoleRenderer.get_default_level_styles(colours)
    styles = {level: all_styles[level] for level in _RANKS}

    def column(style: str, width: int = 0) -> dev.KeyValueColumnFormatter:
        return dev.KeyValueColumnFormatter(None, style, reset, str, width)

    console = dev.ConsoleRenderer(
        columns=[
            dev.Column("", dev.KeyValueColumnFormatter(key, "", reset, _quoted)),
            dev.Column("time", column(dim)),
            dev.Column("level", dev.LogLevelColumnFormatter(styles, reset)),
            dev.Column("event", column(bright, 18)),
            dev.Column("message", column("")),
        ],
        sort_keys=False,
    )

    def render(event: Event) -> str:
        fields = _shown(_queue(event) | event.fields)
        fields = {name: value for name, value in fields.items() if value not in ("", None)}
        head = {
            "time": datetime.fromtimestamp(event.time).strftime("%Y-%m-%d %H:%M:%S"),
            "level": event.level,
            "event": event.name,
            "message": _one_line(event.message) + (":" if fields else ""),
        }
        return console(None, "", head | fields)

    return render


def _head(event: Event) -> dict[str, Any]:
    moment = datetime.fromtimestamp(event.time, UTC)
    return {
        "time": f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z",
        "level": event.level,
        "event": event.name,
        **_queue(event),
        "message": event.message,
    }


def _queue(event: Event) -> dict[str, Any]:
    return {} if event.queue is None else {"queue": event.queue}


# -- values ------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """``value`` in what JSON has."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if abs(value) != float("inf") and value == value else str(value)
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    return str(value)


def _shown(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as one line of text shows them: lists as ``a,b``, nothing that ends a line."""
    return {name: _text(_plain(value)) for name, value in fields.items()}


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return ",".join(str(_text(each)) for each in value)
    if isinstance(value, dict):
        return ",".join(f"{_one_line(key)}:{_text(each)}" for key, each in value.items())
    return _one_line(value) if isinstance(value, str) else value


def _one_line(text: str) -> str:
    """``text`` with what is not printable as Python writes it. Peers and callers say much of what
    is logged: it must neither end the line nor steer a terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def _quoted(value: object) -> str:
    text = str(value)
    if not set(text) & set(" =\"'"):
        return text
    return '"' + text.replace('"', '\\"') + '"'
