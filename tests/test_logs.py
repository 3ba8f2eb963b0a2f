"""The log, as a process of its own writes it to a real stderr."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.waiting import wait_for
from zqueue.logs import FORMATS, LEVELS, Log

_PROGRAM = """
import json, os, sys
from zqueue.events import EventBus
from zqueue.logs import Log

class Poison:
    def __str__(self):
        raise RuntimeError("cannot be shown")

bus, log = EventBus(), Log(*sys.argv[1:])
bus.subscribe(log)
for line in sys.stdin:
    order = json.loads(line)
    if order["do"] == "emit":
        for number in range(order["times"]):
            fields = {key: number if value == "NUMBER" else value
                      for key, value in order["fields"].items()}
            bus.emit(order["name"], queue=order["queue"], **fields)
    elif order["do"] == "poison":
        bus.emit("config.warning", warning=Poison())
    elif order["do"] == "level":
        log.level = order["level"]
    elif order["do"] == "stderr":
        fd = os.open(order["path"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(fd, 2)
    elif order["do"] == "open":
        os.set_inheritable(fd := os.open(order["path"], os.O_WRONLY | os.O_CREAT), True)
        order["fd"] = fd
    elif order["do"] == "close":
        log.close(order["timeout"])
    print(json.dumps(order | {"dropped": log.dropped, "level": log.level}), flush=True)
"""

NO_JOURNAL = "/nonexistent/journal"
"""Where a machine has no journal, lines are written in its stead."""


class Logging:
    """A process with a log; each order is answered once the process has done it."""

    def __init__(
        self,
        stderr: Any,
        level: str = "debug",
        format: str = "json",
        prefix: tuple[str, ...] = (),
        journal_socket: str = NO_JOURNAL,
        **environment: str,
    ) -> None:
        ambient = {
            key: value
            for key, value in os.environ.items()
            if key not in ("JOURNAL_STREAM", "NO_COLOR", "TERM")
        }
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", _PROGRAM, level, format, journal_socket],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=ambient | environment,
            text=True,
        )

    def order(self, do: str, **what: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do} | what) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def emit(
        self, name: str, queue: str | None = None, times: int = 1, **fields: Any
    ) -> dict[str, Any]:
        return self.order("emit", name=name, queue=queue, times=times, fields=fields)

    def dropped(self) -> int:
        return int(self.order("look")["dropped"])

    def close(self, timeout: float = 20.0) -> int:
        """Close the log; how many events it has dropped."""
        return int(self.order("close", timeout=timeout)["dropped"])

    def end(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(20)


Start = Callable[..., Logging]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Logging] = []

    def begin(*arguments: Any, **how: Any) -> Logging:
        running.append(Logging(*arguments, **how))
        return running[-1]

    yield begin
    for logging in running:
        logging.process.kill()
        logging.process.wait(10)
        for stream in (logging.process.stdin, logging.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's two ends; a test may close either."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def parse_logfmt(line: str) -> dict[str, str]:
    """What structlog's logfmt means: a quoted value has ``\\`` and ``"`` escaped, another none."""
    pair = re.compile(r'(?P<key>[a-z_]+)=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^ "]*))( |$)')
    found: dict[str, str] = {}
    at = 0
    while at < len(line):
        match = pair.match(line, at)
        assert match is not None, f"no logfmt from column {at}: {line!r}"
        quoted = match["quoted"]
        bare: str = match["bare"] or ""
        found[match["key"]] = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = match.end()
    return found


def in_one_line(text: str) -> str:
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


# -- formats -----------------------------------------------------------------------------------


def written(start: Start, path: Path, format: str, **environment: str) -> str:
    """What the log makes of one event with a queue, a text, a list, a number and a truth."""
    with path.open("wb") as stderr:
        logging = start(stderr, format=format, **environment)
    logging.emit("queue.changed", queue="orders", by='uid=0 "root"', keys=["a", "b"], rebound=True)
    logging.emit("daemon.stopped", uptime=1.5)
    assert logging.close() == 0
    return path.read_text()


def test_json(start: Start, tmp_path: Path) -> None:
    first, second = map(json.loads, written(start, tmp_path / "log", "json").splitlines())
    assert list(first) == [
        "time", "level", "event", "queue", "message", "by", "keys", "rebound"
    ]  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "info",
        "event": "queue.changed",
        "queue": "orders",
        "message": "a reload changed this queue",
        "by": 'uid=0 "root"',
        "keys": ["a", "b"],
        "rebound": True,
    }
    assert "queue" not in second
    assert second["uptime"] == 1.5


def test_logfmt(start: Start, tmp_path: Path) -> None:
    first, second = map(parse_logfmt, written(start, tmp_path / "log", "logfmt").splitlines())
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert list(first.items()) == [
        ("level", "info"),
        ("event", "queue.changed"),
        ("queue", "orders"),
        ("message", "a reload changed this queue"),
        ("by", 'uid=0 "root"'),
        ("keys", "a,b"),
        ("rebound", "true"),
    ]
    assert second["uptime"] == "1.5"
    assert "queue" not in second


def test_journal_lines_have_a_priority_and_no_time(start: Start, tmp_path: Path) -> None:
    first, second = written(start, tmp_path / "log", "journal").splitlines()
    assert first.startswith("<6>a reload changed this queue event=queue.changed queue=orders by=")
    assert second == "<6>the end of the run event=daemon.stopped uptime=1.5"


@pytest.mark.parametrize(
    ("event", "priority"),
    [
        ("queue.starting", 7),
        ("queue.drained", 6),
        ("queue.no_workers", 4),
        ("queue.failed", 3),
        ("daemon.failed", 2),
    ],
)
def test_journal_priorities(start: Start, tmp_path: Path, event: str, priority: int) -> None:
    path = tmp_path / "log"
    with path.open("wb") as stderr:
        logging = start(stderr, format="journal")
    logging.emit(event)
    logging.close()
    assert path.read_text().startswith(f"<{priority}>")


def test_console_without_a_terminal_has_no_colour(start: Start, tmp_path: Path) -> None:
    first, _ = written(start, tmp_path / "log", "console").splitlines()
    assert re.match(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[info +\] queue\.changed +a reload changed this queue: "
        r'queue=orders by="uid=0 \\"root\\"" keys=a,b rebound=True$',
        first,
    )


def test_auto_is_logfmt_for_a_file(start: Start, tmp_path: Path) -> None:
    first, _ = written(start, tmp_path / "log", "auto").splitlines()
    assert parse_logfmt(first)["event"] == "queue.changed"


def test_auto_is_the_journal_where_stderr_is_its_stream(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    stream = f"{path.stat().st_dev}:{path.stat().st_ino}"
    assert written(start, path, "auto", JOURNAL_STREAM=stream).startswith("<6>")


def test_auto_is_not_the_journal_once_stderr_is_redirected(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    stream = f"{path.stat().st_dev}:{path.stat().st_ino + 1}"
    assert written(start, path, "auto", JOURNAL_STREAM=stream).startswith("time=")


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, False)],
)
def test_auto_is_the_console_on_a_terminal(
    start: Start, environment: dict[str, str], coloured: bool
) -> None:
    master, slave = pty.openpty()
    try:
        logging = start(slave, format="auto", **environment)
        logging.emit("queue.failed", queue="orders", reason="no", retry_in=1.0)
        assert logging.close() == 0
        line = os.read(master, 65536).decode()
    finally:
        os.close(master)
        os.close(slave)
    assert "queue.failed" in line
    assert "[error" in line.replace("\x1b[31m", "").replace("\x1b[1m", "")
    assert ("\x1b[" in line) is coloured


@pytest.fixture(scope="module", params=[format for format in FORMATS if format != "auto"])
def conversation(request: pytest.FixtureRequest) -> Iterator[tuple[str, Logging, Any]]:
    reader, writer = os.pipe()
    logging = Logging(writer, format=request.param)
    os.close(writer)
    with open(reader, "rb") as stderr:
        yield request.param, logging, stderr
        assert logging.end() == 0


@given(text=st.text(st.characters()), queue=st.none() | st.text(st.characters(), min_size=1))
@example(text="a file's name: \udcff", queue=None)
def test_any_text_makes_exactly_one_line(
    conversation: tuple[str, Logging, Any], text: str, queue: str | None
) -> None:
    format, logging, stderr = conversation
    logging.emit("config.refused", queue=queue, by="hypothesis", error=text)
    logging.emit("daemon.stopped", uptime=12345)
    line, after = stderr.readline(), stderr.readline()
    assert b"config.refused" in line
    assert b"daemon.stopped" in after
    assert b"12345" in after
    assert line.endswith(b"\n")
    shown = line[:-1].decode()
    assert len(shown.splitlines()) == 1
    assert shown.isprintable()
    text = text.encode("utf-8", "backslashreplace").decode()  # as the event bus has it
    if format == "json":
        found = json.loads(shown)
        assert (found["error"], found.get("queue")) == (text, queue)
    elif format == "logfmt":
        fields = parse_logfmt(shown)
        assert fields["error"] == in_one_line(text)
        assert fields.get("queue") == (None if queue is None else in_one_line(queue))


def test_a_field_that_cannot_be_shown_costs_only_its_own_line(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as stderr:
        logging = start(stderr)
    logging.order("poison")
    logging.emit("daemon.stopped", uptime=1)
    assert logging.close() == 1
    assert [line["event"] for line in lines_of(path)] == ["log.lines_lost", "daemon.stopped"]


# -- levels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "shown"), list(zip(LEVELS, (5, 4, 3, 2), strict=True)))
def test_a_level_shows_itself_and_all_above(
    start: Start, tmp_path: Path, level: str, shown: int
) -> None:
    path = tmp_path / "log"
    with path.open("wb") as stderr:
        logging = start(stderr, level=level)
    events = (
        "queue.starting", "queue.drained", "queue.no_workers", "queue.failed", "daemon.failed"
    )  # fmt: skip
    for event in events:
        logging.emit(event)
    assert logging.close() == 0
    assert [line["event"] for line in lines_of(path)] == list(events[-shown:])


def test_the_level_changes_live(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as stderr:
        logging = start(stderr, level="error")
    logging.emit("queue.drained", by="before")
    assert logging.order("level", level="info")["level"] == "info"
    logging.emit("queue.drained", by="after")
    logging.order("level", level="warning")
    logging.emit("queue.drained", by="too late")
    logging.close()
    assert [line["by"] for line in lines_of(path)] == ["after"]


@pytest.mark.parametrize(("level", "format"), [("loud", "json"), ("info", "xml")])
def test_an_unknown_level_or_format_is_refused(level: str, format: str) -> None:
    with pytest.raises(ValueError, match=r"loud.*debug, info|xml.*auto, console"):
        Log(level, format)


# -- a stderr that takes nothing -----------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_costs_only_the_lines(start: Start, format: str) -> None:
    with open("/dev/full", "wb") as stderr:
        logging = start(stderr, format=format)
    logging.emit("queue.drained", times=100)
    assert logging.close() == 100
    assert logging.end() == 0


def test_a_closed_pipe_costs_only_the_lines(start: Start, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    logging = start(writer)
    os.close(reader)
    logging.emit("queue.drained", times=100)
    assert logging.close() == 100
    assert logging.end() == 0


def test_no_stderr_at_all(start: Start, tmp_path: Path) -> None:
    """Whatever else gets the descriptor 2 later is not written to."""
    logging = start(None, prefix=("sh", "-c", 'exec "$@" 2>&-', "sh"))
    other = tmp_path / "other"
    assert logging.order("open", path=str(other))["fd"] == 2
    logging.emit("queue.drained", times=100)
    assert logging.close() == 100
    assert other.read_text() == ""


def test_a_pipe_that_nobody_reads_holds_up_nobody(start: Start, pipe: tuple[int, int]) -> None:
    """The order is answered, so the emitter was not blocked; nor is the end of the process."""
    _, writer = pipe
    logging = start(writer)
    logging.emit("queue.drained", by="x" * 100, seconds="NUMBER", times=30_000)
    assert logging.dropped() > 0
    assert logging.close(timeout=0.01) > 10_000
    assert logging.end() == 0


def test_when_a_pipe_is_read_again_the_gap_is_told_in_its_place(
    start: Start, pipe: tuple[int, int]
) -> None:
    reader, writer = pipe
    logging = start(writer)
    os.close(writer)
    logging.emit("queue.drained", by="x" * 100, seconds="NUMBER", times=30_000)
    dropped = logging.dropped()
    with open(reader, closefd=False) as stderr:
        expected = 0
        while expected < 30_000:
            line = json.loads(stderr.readline())
            if line["event"] == "log.lines_lost":
                expected += line["lines"]
                dropped -= line["lines"]
            else:
                assert line["seconds"] == expected
                expected += 1
        assert dropped == 0
        logging.emit("daemon.stopped", uptime=1)
        assert json.loads(stderr.readline())["event"] == "daemon.stopped"


def test_when_a_disk_has_room_again_the_loss_is_told(start: Start, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as stderr:
        logging = start(stderr)
    logging.emit("queue.drained", times=7)
    wait_for(lambda: logging.dropped() == 7, "seven events to be given up")
    logging.order("stderr", path=str(tmp_path / "log"))
    logging.emit("daemon.stopped", uptime=1)
    assert logging.close() == 7
    lost, stopped = lines_of(tmp_path / "log")
    assert (lost["event"], lost["level"], lost["lines"]) == ("log.lines_lost", "warning", 7)
    assert stopped["event"] == "daemon.stopped"


def test_a_non_blocking_stderr_loses_nothing(start: Start, pipe: tuple[int, int]) -> None:
    """A shell or a supervisor that shares the stderr may have made it non-blocking."""
    reader, writer = pipe
    os.set_blocking(writer, False)
    logging = start(writer)
    os.close(writer)
    logging.emit("queue.drained", by="x" * 100, seconds="NUMBER", times=5_000)
    with open(reader, closefd=False) as stderr:
        for expected in range(5_000):
            assert json.loads(stderr.readline())["seconds"] == expected
    assert logging.close() == 0


def test_after_close_events_are_counted_not_written(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as stderr:
        logging = start(stderr)
    logging.close()
    logging.emit("queue.drained", times=3)
    assert logging.close() == 3
    assert path.read_text() == ""
