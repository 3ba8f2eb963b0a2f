"""The log: events rendered for a terminal, a file or a log shipper on stderr, or for the journal.

Whatever becomes of stderr or of the journal, the daemon goes on: a thread of its own renders and
writes, and the one who says an event never waits for it.
"""

from __future__ import annotations

import json
import os
import re
import select
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from structlog import dev
from structlog.processors import JSONRenderer, LogfmtRenderer

from zqueue import colours, journal
from zqueue.events import CATALOGUE, RANKS, Event
from zqueue.printable import printable

LEVELS = ("debug", "info", "warning", "error")
"""What the level may be set to. Events of level ``critical`` are always shown."""

FORMATS = ("auto", "console", "logfmt", "json", "journal")

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_MOST_PENDING = 10_000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.1
_LONGEST_IN_MESSAGE = 500
_BY_STEERING = re.compile(r"\d+/|pair\b")

Render = Callable[[Event], str]
Write = Callable[[Event], bool]
"""Whether the event is out, whole. May wait, and raises nothing."""


class Log:
    """Writes events of ``level`` and above to stderr or the journal. Subscribe it to an event bus.

    Calling it never blocks and never raises. While stderr takes nothing, up to 10,000 events wait;
    those beyond, and those whose writing failed, are counted in :attr:`dropped`, and once writing
    works again one line (event ``log.lines_lost``) says how many are missing at that place. So it
    is with the journal.

    Formats: ``console``, ``logfmt``, ``json``, ``journal`` (entries with fields of their own, sent
    to the journal whose socket is at the path ``journal_socket``; where there is none, lines on
    stderr with a priority as in sd-daemon(3) and without the time), and ``auto``: ``journal`` if
    stderr goes to the journal, else ``console`` on a terminal, else ``logfmt``.

    Raises:
        ValueError: there is no such level or format.
    """

    def __init__(self, level: str, format: str, journal_socket: str = journal.SOCKET) -> None:
        self.level = level
        self.muted: frozenset[str] = frozenset()
        """The kinds of events that are left out, whatever their level; may be set at any time."""
        # Python found no descriptor 2 at its start; by now it may be anything, such as a socket.
        fd = 2 if sys.__stderr__ is not None else -1
        self._write = _writer(format, fd, journal_socket)
        self.place = "journal" if isinstance(self._write, _Entries) else _place(fd)
        """Where to read it: ``journal``, the path of a file, or nothing where stderr is neither."""
        self._pending: deque[Event | int] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._dropped = 0
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
        if RANKS.get(event.level, len(RANKS)) < RANKS[self._level] or event.name in self.muted:
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


def _lines_lost(count: int) -> Event:
    kind = CATALOGUE["log.lines_lost"]
    return Event(kind.name, kind.level, time.time(), None, kind.meaning, {"lines": count})


# -- where to ----------------------------------------------------------------------------------


def _writer(format: str, fd: int, journal_socket: str) -> Write:
    if format not in FORMATS:
        raise ValueError(f'there is no log format "{format}"; use {", ".join(FORMATS)}')
    if format == "auto":
        format = _format_for(fd)
    if format == "journal":
        found = journal.find(journal_socket)
        if found is None and _was_to_be_journal(fd):
            found = journal.Journal(journal_socket)  # it is down, and will be back
        if found is not None:
            return _Entries(found)
    return _Lines(fd, _renderer(format, fd))


class _Lines:
    """Writes each event as a line to a descriptor."""

    def __init__(self, fd: int, render: Render) -> None:
        self._fd = fd
        self._render = render
        self._torn = False

    def __call__(self, event: Event) -> bool:
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


class _Entries:
    """Sends each event to the journal as an entry."""

    def __init__(self, receiver: journal.Journal) -> None:
        self._journal = receiver

    def __call__(self, event: Event) -> bool:
        try:
            entry = _entry(event)
        except Exception:  # as with lines
            return False
        pause = _FIRST_PAUSE
        while True:
            try:
                return self._journal.send(entry)
            except BlockingIOError:
                # No poll would tell when there is room: the socket is not connected.
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)


# -- formats -----------------------------------------------------------------------------------


def _renderer(format: str, fd: int) -> Render:
    if format == "console":
        return _console(coloured=_takes_colours(fd))
    return {"logfmt": _logfmt, "json": _json, "journal": _journal_lines}[format]()


def _format_for(fd: int) -> str:
    if _is_journal(fd) or _was_to_be_journal(fd):
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


def _was_to_be_journal(fd: int) -> bool:
    """Whether systemd could not connect stderr to the journal, because that was down when it
    started this process: then stderr is /dev/null, without ``JOURNAL_STREAM``."""
    if "INVOCATION_ID" not in os.environ or "JOURNAL_STREAM" in os.environ:
        return False
    try:
        # By its number: a unit with PrivateDevices= has a /dev/null of its own.
        is_null = os.fstat(fd).st_rdev == os.stat(os.devnull).st_rdev
    except OSError:
        return False
    return is_null and not journal.takes_streams()


def _place(fd: int) -> str:
    if _is_journal(fd):
        return "journal"
    try:
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        return os.readlink(f"/proc/self/fd/{fd}") if is_file else ""
    except OSError:
        return ""


def _is_terminal(fd: int) -> bool:
    return fd >= 0 and os.isatty(fd)


def _takes_colours(fd: int) -> bool:
    return colours.are_wanted() and _is_terminal(fd)


def _json() -> Render:
    renderer = JSONRenderer()

    def render(event: Event) -> str:
        return str(renderer(None, "", _plain(_head(event) | event.fields)))

    return render


def _logfmt() -> Render:
    logfmt = LogfmtRenderer(bool_as_flag=False)

    def render(event: Event) -> str:
        return logfmt(None, "", _shown(_head(event) | event.fields))

    return render


def _journal_lines() -> Render:
    logfmt = LogfmtRenderer(bool_as_flag=False)

    def render(event: Event) -> str:
        fields = _shown({"event": event.name} | _queue(event) | event.fields)
        priority = _PRIORITIES.get(event.level, 6)
        return f"<{priority}>{printable(event.message)} {logfmt(None, '', fields)}"

    return render


def _entry(event: Event) -> list[tuple[str, str]]:
    """The fields of the journal's entry; the journal itself adds the time and who sent it."""
    entry = [
        ("MESSAGE", _message(event)),
        ("PRIORITY", str(_PRIORITIES.get(event.level, 6))),
        ("SYSLOG_IDENTIFIER", "zqueued"),
        ("EVENT", event.name),
    ]
    kind = CATALOGUE.get(event.name)
    if kind is not None and kind.message_id is not None:
        entry.append(("MESSAGE_ID", kind.message_id))
    for name, value in (_queue(event) | event.fields).items():
        entry += ((name.upper(), each) for each in _values(value))
    by = str(event.fields.get("by", ""))
    if _BY_STEERING.match(by):
        entry.append(("STEERED_BY", by))
    return entry


def _message(event: Event) -> str:
    """What ``journalctl`` shows of an entry. One line: callers and peers say much of what is in the
    fields, and what follows a newline passes for an entry where the log is read as plain text."""
    fields = {name: _telling(value) for name, value in (_queue(event) | event.fields).items()}
    told = " ".join(f"{name}={_quoted(text)}" for name, text in fields.items() if text)
    return printable(event.message) + (f": {told}" if told else "")


def _telling(value: Any) -> str:
    text = "-" if value is None else printable(", ".join(_values(value)).replace("\n", "; "))
    return text if len(text) <= _LONGEST_IN_MESSAGE else f"{text[:_LONGEST_IN_MESSAGE]}…"


def _console(coloured: bool) -> Render:
    dim, bright, key, reset = (
        (dev.DIM, dev.BRIGHT, dev.CYAN, dev.RESET_ALL) if coloured else ("", "", "", "")
    )
    all_styles = dev.ConsoleRenderer.get_default_level_styles(coloured)
    styles = {level: all_styles[level] for level in RANKS}

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
        fields = {name: value for name, value in fields.items() if value != ""}
        head = {
            "time": datetime.fromtimestamp(event.time).strftime("%Y-%m-%d %H:%M:%S"),
            "level": event.level,
            "event": event.name,
            "message": printable(event.message) + (":" if fields else ""),
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


def _values(value: Any) -> list[str]:
    """The field's values as the journal has them: whole, one for each of a list, and none for
    what is empty."""
    plain = _plain(value)
    return [
        each if isinstance(each, str) else json.dumps(each)
        for each in (plain if isinstance(plain, list) else [plain])
        if each not in ("", None)
    ]


def _shown(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as one line of text shows them: lists as ``a,b``, nothing that ends a line."""
    return {name: _text(_plain(value)) for name, value in fields.items()}


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return ",".join(str(_text(each)) for each in value)
    if isinstance(value, dict):
        return ",".join(f"{printable(key)}:{_text(each)}" for key, each in value.items())
    if value is None:
        return "-"  # it is not known
    return printable(value) if isinstance(value, str) else value


def _quoted(value: object) -> str:
    text = str(value)
    if not set(text) & set(" =\"'"):
        return text
    return '"' + text.replace('"', '\\"') + '"'
