"""Entries for the journal, as they arrive at a real datagram socket, and the catalog about them."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import re
import resource
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_logs import Logging
from tests.waiting import DEADLINE, wait_for
from zqueue.events import CATALOGUE, EventBus, Kind
from zqueue.journal import Journal, find
from zqueue.logs import Log

CATALOG = Path(__file__).parent.parent / "packaging" / "systemd" / "zqueue.catalog"
LARGE = "x" * (8 << 20)
"""More than a datagram carries."""

Entry = list[tuple[str, str]]


def parse(data: bytes) -> Entry:
    """The fields of one entry, as systemd's JOURNAL_NATIVE_PROTOCOL has it."""
    entry = []
    while data:
        line, newline, rest = data.partition(b"\n")
        assert newline, f"an entry ends within a line: {line[:100]!r}"
        name, equals, value = line.partition(b"=")
        if equals:
            data = rest
        else:
            (length,) = struct.unpack_from("<Q", rest)
            value, end, data = (
                rest[8 : 8 + length],
                rest[8 + length : 9 + length],
                rest[9 + length :],
            )
            assert len(value) == length
            assert end == b"\n"
        assert re.fullmatch(rb"[A-Z0-9][A-Z0-9_]{0,63}", name)
        entry.append((name.decode(), value.decode()))
    return entry


class Receiver:
    """The journal's end: a datagram socket at a path."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE)
        self.socket.bind(self.path)

    def receive(self) -> tuple[bytes, list[int]]:
        """What a datagram has in it: its bytes and its descriptors."""
        room = socket.CMSG_SPACE(array.array("i").itemsize)
        data, ancillary, flags, _ = self.socket.recvmsg(1 << 20, room)
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        rights = array.array("i")
        for level, kind, sent in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                rights.frombytes(sent)
        return data, list(rights)

    def entry(self) -> Entry:
        """The next entry, read as the journal reads it."""
        data, descriptors = self.receive()
        if not descriptors:
            return parse(data)
        assert data == b""
        (descriptor,) = descriptors
        with open(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            return parse(os.pread(file.fileno(), size, 0))

    def fields(self) -> dict[str, list[str]]:
        fields: dict[str, list[str]] = {}
        for name, value in self.entry():
            fields.setdefault(name, []).append(value)
        return fields


@pytest.fixture(scope="module")
def receivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Receiver]]:
    made: list[Receiver] = []

    def make() -> Receiver:
        made.append(Receiver(tmp_path_factory.mktemp("journal") / "socket"))
        return made[-1]

    yield make
    for receiver in made:
        receiver.socket.close()


@pytest.fixture
def receiver(receivers: Callable[[], Receiver]) -> Receiver:
    return receivers()


@pytest.fixture
def journal(receiver: Receiver) -> Iterator[Journal]:
    journal = Journal(receiver.path)
    yield journal
    journal.close()


@contextlib.contextmanager
def no_more_descriptors() -> Iterator[None]:
    """This process can open nothing, and keeps what it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- the datagram ------------------------------------------------------------------------------


def test_an_entry_is_one_datagram_of_lines(receiver: Receiver, journal: Journal) -> None:
    assert journal.send([("MESSAGE", "all = well"), ("PRIORITY", "6")])
    assert receiver.receive() == (b"MESSAGE=all = well\nPRIORITY=6\n", [])


def test_a_value_with_newlines_goes_with_its_length(receiver: Receiver, journal: Journal) -> None:
    assert journal.send([("A", "one\ntwo\n"), ("B", "three")])
    assert receiver.receive() == (b"A\n" + struct.pack("<Q", 8) + b"one\ntwo\n\nB=three\n", [])


def test_a_field_may_be_there_several_times(receiver: Receiver, journal: Journal) -> None:
    entry = [("KEY", "a"), ("KEY", "b")]
    assert journal.send(entry)
    assert receiver.entry() == entry


NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,63}", fullmatch=True)


@pytest.fixture(scope="module")
def line(receivers: Callable[[], Receiver]) -> Iterator[tuple[Receiver, Journal]]:
    receiver = receivers()
    journal = Journal(receiver.path)
    yield receiver, journal
    journal.close()


@given(entry=st.lists(st.tuples(NAMES, st.text()), min_size=1))
def test_any_text_arrives_as_it_was(line: tuple[Receiver, Journal], entry: Entry) -> None:
    receiver, journal = line
    assert journal.send(entry)
    assert receiver.entry() == entry


def test_half_a_character_is_shown_as_python_writes_it(
    receiver: Receiver, journal: Journal
) -> None:
    assert journal.send([("A", "\udc80")])
    assert receiver.entry() == [("A", "\\udc80")]


def test_a_large_entry_goes_as_a_sealed_file(receiver: Receiver, journal: Journal) -> None:
    entry = [("MESSAGE", "large"), ("ERROR", LARGE), ("LINES", "a\n" * (1 << 20))]
    assert journal.send(entry)
    data, (descriptor,) = receiver.receive()
    with open(descriptor, "rb+") as file:
        assert data == b""
        assert parse(os.pread(descriptor, os.fstat(descriptor).st_size, 0)) == entry
        everything = (
            fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        )
        assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & everything == everything
        with pytest.raises(PermissionError):
            os.pwrite(file.fileno(), b"y", 0)


def test_a_large_entry_leaves_no_descriptor_behind(receiver: Receiver, journal: Journal) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(20):
        assert journal.send([("ERROR", LARGE)])
        for descriptor in receiver.receive()[1]:
            os.close(descriptor)
    assert sorted(os.listdir("/proc/self/fd")) == before


# -- when the journal cannot take it -----------------------------------------------------------


def fill(journal: Journal) -> int:
    """Send until the journal's socket is full; how many entries that took."""
    for sent in range(100_000):
        try:
            assert journal.send([("MESSAGE", str(sent))])
        except BlockingIOError:
            return sent
    raise AssertionError("the socket takes everything")


def test_a_journal_that_does_not_read_is_not_waited_for(
    receiver: Receiver, journal: Journal
) -> None:
    sent = fill(journal)
    for number in range(sent):
        assert receiver.entry() == [("MESSAGE", str(number))]
    assert journal.send([("MESSAGE", "there is room again")])
    assert receiver.entry() == [("MESSAGE", "there is room again")]


def test_nor_with_a_large_entry(receiver: Receiver, journal: Journal) -> None:
    """And its file is not left behind."""
    sent = fill(journal)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError):
        journal.send([("ERROR", LARGE)])
    assert sorted(os.listdir("/proc/self/fd")) == before
    for _ in range(sent):
        receiver.receive()
    assert journal.send([("ERROR", LARGE)])
    assert receiver.entry() == [("ERROR", LARGE)]


def test_without_descriptors_only_large_entries_are_lost(
    receiver: Receiver, journal: Journal
) -> None:
    with no_more_descriptors():
        assert not journal.send([("ERROR", LARGE)])
        assert journal.send([("MESSAGE", "short")])
    assert journal.send([("ERROR", LARGE)])
    assert receiver.entry() == [("MESSAGE", "short")]
    assert receiver.entry() == [("ERROR", LARGE)]


def test_a_journal_that_went_takes_nothing_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    first = Receiver(path)
    journal = Journal(str(path))
    assert journal.send([("MESSAGE", "first")])
    first.socket.close()
    assert not journal.send([("MESSAGE", "nobody listens")])
    path.unlink()
    assert not journal.send([("MESSAGE", "nobody is there")])
    second = Receiver(path)
    assert journal.send([("MESSAGE", "second")])
    assert second.entry() == [("MESSAGE", "second")]
    second.socket.close()
    journal.close()


def test_only_a_socket_is_a_journal(tmp_path: Path, receiver: Receiver) -> None:
    (tmp_path / "file").touch()
    assert find(str(tmp_path / "file")) is None
    assert find(str(tmp_path / "nothing")) is None
    found = find(receiver.path)
    assert found is not None
    found.close()


def test_without_a_descriptor_there_is_no_journal(receiver: Receiver) -> None:
    with no_more_descriptors():
        assert find(receiver.path) is None


# -- the log in it -----------------------------------------------------------------------------


class Logged:
    """A log that goes to a journal."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.log = Log("debug", "journal", receiver.path)
        self.bus = EventBus()
        self.bus.subscribe(self.log)
        self.emit = self.bus.emit


@pytest.fixture
def logged(receiver: Receiver) -> Iterator[Logged]:
    logged = Logged(receiver)
    yield logged
    logged.log.close(DEADLINE)


@pytest.fixture(scope="module")
def conversation(receivers: Callable[[], Receiver]) -> Iterator[Logged]:
    logged = Logged(receivers())
    yield logged
    logged.log.close(DEADLINE)


def test_each_field_of_an_event_is_one_of_the_entry(logged: Logged) -> None:
    logged.emit(
        "queue.changed", queue="orders", by='0/"root"', keys=["bind", "linger"], rebound=True
    )
    assert logged.receiver.fields() == {
        "MESSAGE": [
            'a reload changed this queue: queue=orders by="0/\\"root\\"" keys="bind, linger" '
            "rebound=true"
        ],
        "PRIORITY": ["6"],
        "SYSLOG_IDENTIFIER": ["zqueued"],
        "EVENT": ["queue.changed"],
        "QUEUE": ["orders"],
        "BY": ['0/"root"'],
        "KEYS": ["bind", "linger"],
        "REBOUND": ["true"],
        "STEERED_BY": ['0/"root"'],
    }


def test_an_event_of_no_queue_has_no_queue(logged: Logged) -> None:
    logged.emit("daemon.stopped", uptime=1.5)
    assert logged.receiver.fields() == {
        "MESSAGE": ["the end of the run: uptime=1.5"],
        "PRIORITY": ["6"],
        "SYSLOG_IDENTIFIER": ["zqueued"],
        "EVENT": ["daemon.stopped"],
        "UPTIME": ["1.5"],
    }


def test_what_is_empty_is_left_out(logged: Logged) -> None:
    logged.emit("queue.stopped", queue="orders", by="shutdown", reason="", lost=0)
    entry = logged.receiver.fields()
    assert "REASON" not in entry
    assert entry["LOST"] == ["0"]
    assert entry["MESSAGE"] == ["the queue's sockets are closed: queue=orders by=shutdown lost=0"]


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=lambda kind: kind.name)
def test_every_kind_has_its_priority_and_its_id(conversation: Logged, kind: Kind) -> None:
    conversation.emit(kind.name, **dict.fromkeys(kind.fields, "something"))
    entry = conversation.receiver.fields()
    syslog = {"debug": "7", "info": "6", "warning": "4", "error": "3", "critical": "2"}
    assert entry["PRIORITY"] == [syslog[kind.level]]
    assert entry.get("MESSAGE_ID") == (None if kind.message_id is None else [kind.message_id])
    assert entry["MESSAGE"][0].startswith(kind.meaning)
    for field in kind.fields:
        assert entry[field.upper()] == ["something"]


@pytest.mark.parametrize(
    ("by", "steered"),
    [
        ("1000/alice", True),
        ("4242/?", True),
        ("pair uid=1000 pid=77", True),
        ("SIGHUP", False),
        ("zqueued", False),
        ("config", False),
    ],
)
def test_steered_by_is_somebody(logged: Logged, by: str, steered: bool) -> None:
    logged.emit("queue.paused", queue="orders", by=by)
    entry = logged.receiver.fields()
    assert entry["BY"] == [by]
    assert entry.get("STEERED_BY") == ([by] if steered else None)


def test_several_problems_are_one_line_of_message_and_whole_in_their_field(logged: Logged) -> None:
    logged.emit("config.refused", by="SIGHUP", error="line 1: bad\nline 7: worse")
    entry = logged.receiver.fields()
    assert entry["ERROR"] == ["line 1: bad\nline 7: worse"]
    assert entry["MESSAGE"] == [
        "a reload was refused; the old config stays in force: by=SIGHUP "
        'error="line 1: bad; line 7: worse"'
    ]


def test_a_large_field_is_whole_and_the_message_short(logged: Logged) -> None:
    logged.emit("config.refused", by="SIGHUP", error=LARGE)
    entry = logged.receiver.fields()
    assert entry["ERROR"] == [LARGE]
    assert len(entry["MESSAGE"][0]) < 1000


@given(text=st.text(min_size=1), queue=st.text(min_size=1))
def test_any_text_of_an_event_arrives_and_the_message_is_one_line(
    conversation: Logged, text: str, queue: str
) -> None:
    conversation.emit("config.refused", queue=queue, by="hypothesis", error=text)
    entry = conversation.receiver.fields()
    assert entry["ERROR"] == [text]
    assert entry["QUEUE"] == [queue]
    (message,) = entry["MESSAGE"]
    assert message.isprintable()


def test_a_field_that_cannot_be_shown_costs_only_its_own_entry(logged: Logged) -> None:
    class Poison:
        def __str__(self) -> str:
            raise RuntimeError("cannot be shown")

    logged.emit("config.warning", warning=Poison())
    logged.emit("daemon.stopped", uptime=1)
    assert [logged.receiver.fields()["EVENT"] for _ in range(2)] == [
        ["log.lines_lost"],
        ["daemon.stopped"],
    ]


def test_a_journal_that_stops_reading_holds_up_nobody(receiver: Receiver) -> None:
    """Each emit returns, so the emitter was not blocked; nor is the end."""
    logged = Logged(receiver)
    for number in range(30_000):
        logged.emit("queue.drained", by="x", seconds=number)
    assert logged.log.dropped > 0
    logged.log.close(0.01)
    assert logged.log.dropped > 10_000


def test_when_the_journal_reads_again_the_gap_is_told_in_its_place(logged: Logged) -> None:
    for number in range(30_000):
        logged.emit("queue.drained", by="x", seconds=number)
    dropped = logged.log.dropped
    expected = 0
    while expected < 30_000:
        entry = logged.receiver.fields()
        if entry["EVENT"] == ["log.lines_lost"]:
            expected += int(entry["LINES"][0])
            dropped -= int(entry["LINES"][0])
        else:
            assert entry["SECONDS"] == [str(expected)]
            expected += 1
    assert dropped == 0


def test_what_a_journal_that_went_did_not_take_is_counted_and_told(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    first = Receiver(path)
    logged = Logged(first)
    first.socket.close()
    for number in range(7):
        logged.emit("queue.drained", by="x", seconds=number)
    wait_for(lambda: logged.log.dropped == 7, "seven events to be given up")
    path.unlink()
    second = Receiver(path)
    logged.emit("daemon.stopped", uptime=1)
    assert second.fields()["LINES"] == ["7"]
    assert second.fields()["EVENT"] == ["daemon.stopped"]
    logged.log.close(DEADLINE)
    second.socket.close()


def test_without_a_descriptor_for_the_file_only_that_event_is_lost(logged: Logged) -> None:
    with no_more_descriptors():
        logged.emit("config.refused", by="SIGHUP", error=LARGE)
        logged.emit("daemon.stopped", uptime=1)
        assert logged.receiver.fields()["EVENT"] == ["log.lines_lost"]
        assert logged.receiver.fields()["EVENT"] == ["daemon.stopped"]
    assert logged.log.dropped == 1


def test_auto_sends_entries_where_stderr_is_the_journals_stream(
    tmp_path: Path, receiver: Receiver
) -> None:
    path = tmp_path / "stderr"
    path.touch()
    stream = f"{path.stat().st_dev}:{path.stat().st_ino}"
    with path.open("wb") as stderr:
        logging = Logging(
            stderr, format="auto", journal_socket=receiver.path, JOURNAL_STREAM=stream
        )
    logging.emit("daemon.stopped", uptime=1)
    assert receiver.fields()["EVENT"] == ["daemon.stopped"]
    assert logging.close() == 0
    assert logging.end() == 0
    assert path.read_text() == ""


# -- the catalog -------------------------------------------------------------------------------


def explained() -> dict[str, str]:
    """What the catalog says about each id."""
    found: dict[str, str] = {}
    for entry in re.split(r"(?m)^-- ", CATALOG.read_text())[1:]:
        identity, _, text = entry.partition("\n")
        assert identity not in found, f"twice in the catalog: {identity}"
        found[identity] = text
    return found


IMPORTANT = [kind for kind in CATALOGUE.values() if kind.message_id is not None]


def test_the_catalog_explains_each_important_event_and_nothing_else() -> None:
    assert explained().keys() == {kind.message_id for kind in IMPORTANT}


@pytest.mark.parametrize("kind", IMPORTANT, ids=lambda kind: kind.name)
def test_an_explanation_is_well_formed(kind: Kind) -> None:
    head, _, body = explained()[str(kind.message_id)].partition("\n\n")
    keys = [line.partition(": ")[0] for line in head.splitlines()]
    assert keys == ["Subject", "Defined-By", "Documentation"]
    assert "Defined-By: zqueue\n" in head
    assert body.strip()
    fields = {"QUEUE", *(field.upper() for field in kind.fields)}
    assert {*re.findall(r"@(\w+)@", head + body)} <= fields


def test_the_journal_reads_the_catalog(tmp_path: Path) -> None:
    if shutil.which("journalctl") is None:
        pytest.skip("journalctl is not installed here (apt-get install systemd)")
    folder = tmp_path / "usr" / "lib" / "systemd" / "catalog"
    folder.mkdir(parents=True)
    shutil.copy(CATALOG, folder)

    def journalctl(*arguments: str) -> str:
        ended = subprocess.run(
            ["journalctl", f"--root={tmp_path}", *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert ended.stderr == ""
        return ended.stdout

    journalctl("--update-catalog")
    listed = dict(line.split(" ", 1) for line in journalctl("--list-catalog").splitlines())
    subjects = {
        identity: f"zqueue: {text.partition('Subject: ')[2].partition(chr(10))[0]}"
        for identity, text in explained().items()
    }
    assert listed == subjects
