"""The store of dead letters by itself: its bounds, and files that are not what they should be."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import zmq
from hypothesis import example, given
from hypothesis import strategies as st

from tests.conftest import StartZqueued
from tests.waiting import wait_for
from zqueue import engine
from zqueue.control import messages
from zqueue.control.letters import exported, frames, imported
from zqueue.control.messages import DeadLetter
from zqueue.dead_letters import PIECE, DeadLetters, Keeping, Wanted
from zqueue.engine import Attempt, DeadRequest
from zqueue.errors import DeadLettersError
from zqueue.letter_file import FORMAT, LetterFile
from zqueue.letter_id import LetterId, NoSuchLetter

ROOMY = Keeping(None, most=1000, most_bytes=1 << 30, sync="normal")
numbers = itertools.count(1)


def dead(
    body: bytes = b"x",
    *,
    cause: engine.Cause = "deadline",
    died_at: float | None = None,
    envelope: Sequence[bytes] = (b"",),
    client: bytes = b"c",
    history: tuple[Attempt, ...] = (),
) -> DeadRequest:
    return DeadRequest(
        number=next(numbers),
        cause=cause,
        received_at=1.0,
        died_at=time.time() if died_at is None else died_at,
        client=client,
        named=True,
        peer="tcp://127.0.0.1:1",
        attempts=1,
        history=history,
        frames=(*envelope, body),
        envelope=len(envelope),
    )


def in_file(path: Path, **how: Any) -> Keeping:
    defaults: dict[str, Any] = {"most": 1000, "most_bytes": 1 << 30, "sync": "normal"}
    return Keeping(str(path), **defaults | how)


@pytest.fixture
def make() -> Iterator[Callable[..., DeadLetters]]:
    made: list[DeadLetters] = []

    def make(keeping: Keeping = ROOMY, queue: str = "q") -> DeadLetters:
        letters = DeadLetters(queue, "broker")
        made.append(letters)
        letters.follow(keeping)
        return letters

    yield make
    for letters in made:
        letters.release()


Make = Callable[..., DeadLetters]


def listed(letters: DeadLetters, **wanted: Any) -> list[DeadLetter]:
    """All pages, with what of the content comes with them."""
    found, after = [], 0
    while True:
        page = letters.page(Wanted(after=after, **wanted), last=None, content=True)
        found += [DeadLetter(**letter) for letter in page["letters"]]
        if page["next"] is None:
            return found
        after = page["next"]


def bodies(letters: DeadLetters, **wanted: Any) -> list[bytes]:
    return [frames(letter)[-1] for letter in listed(letters, **wanted)]


# -- what is kept ---------------------------------------------------------------------------------


def test_a_letter_has_all_of_the_request(make: Make) -> None:
    letters = make()
    history = (Attempt(7, "tcp://127.0.0.1:2", 2.0, 3.0, "worker_lost"),)
    request = dead(b"\xff\0", envelope=(b"id", b""), client=b"\0\1\2\3\4", history=history)
    [identity] = letters.record([request], told=True)
    [letter] = listed(letters)
    assert letter.id == identity
    assert identity.startswith("broker/q/")
    assert letter.model_dump(exclude={"id", "content"}) == {
        "queue": "q",
        "broker": "broker",
        "reason": "deadline",
        "received_at": 1.0,
        "died_at": request.died_at,
        "client": "0001020304",
        "named": True,
        "peer": "tcp://127.0.0.1:1",
        "told": True,
        "attempts": 1,
        "history": (
            {
                "worker": 7,
                "peer": "tcp://127.0.0.1:2",
                "given_at": 2.0,
                "ended_at": 3.0,
                "reason": "worker_lost",
            },
        ),
        "envelope": 2,
        "sizes": (2, 0, 2),
        "size": 4,
    }
    assert frames(letter) == [b"id", b"", b"\xff\0"]


def test_the_reasons_are_those_of_the_engine() -> None:
    reasons = list(get_args(messages.Reason))
    assert reasons == list(get_args(engine.Cause))
    assert reasons == list(messages.Died.model_fields)
    assert reasons == list(engine.Died.__dataclass_fields__)


def test_ids_are_unique_and_grow(make: Make) -> None:
    letters = make()
    ids = letters.record([dead(died_at=1000.0) for _ in range(50)], told=False)
    ids += letters.record([dead(died_at=999.0)], told=False)
    found = [LetterId.parse(each).number for each in ids]
    assert sorted(set(found)) == found
    assert [letter.id for letter in listed(letters)] == ids


def test_ids_are_not_used_again_by_the_next_run(make: Make, tmp_path: Path) -> None:
    """Not even if the clock goes back, and all letters are gone."""
    path = tmp_path / "dead.db"
    first = make(in_file(path))
    [one] = first.record([dead(died_at=2000.0)], told=False)
    first.drop(Wanted())
    first.release()
    [other] = make(in_file(path)).record([dead(died_at=1000.0)], told=False)
    assert LetterId.parse(other).number > LetterId.parse(one).number


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("b/q/1f", LetterId("b", "q", 31)),
        ("q/1f", LetterId("", "q", 31)),
        ("a broker/with slashes/q/0", LetterId("a broker/with slashes", "q", 0)),
    ],
)
def test_ids_as_they_are_written(text: str, parsed: LetterId) -> None:
    assert LetterId.parse(text) == parsed


@pytest.mark.parametrize("text", ["", "1f", "q/", "/1f", "q/x", "q/1F", "q/" + "1" * 16])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(NoSuchLetter, match="is no id of a dead letter: BROKER/QUEUE/NUMBER"):
        LetterId.parse(text)


def test_a_letter_of_another_broker_is_not_taken_for_it(make: Make) -> None:
    letters = make()
    [identity] = letters.record([dead()], told=False)
    number = identity.rpartition("/")[2]
    assert letters.page(Wanted((f"q/{number}",)), last=None, content=False)["letters"]
    with pytest.raises(NoSuchLetter, match=f"no dead letter other/q/{number}"):
        letters.page(Wanted((f"other/q/{number}",)), last=None, content=False)


def test_letters_are_chosen_by_what_happened(make: Make) -> None:
    letters = make()
    causes = list(get_args(engine.Cause))
    for number, cause in enumerate(causes):
        letters.record([dead(cause.encode(), cause=cause, died_at=100.0 + number)], told=False)
    assert bodies(letters, reasons=("deadline", "queue_full")) == [b"deadline", b"queue_full"]
    assert bodies(letters, since=104.0) == [b"max_waiting_time", b"queue_full"]
    assert bodies(letters, since=104.0, reasons=("deadline",)) == []
    newest = letters.page(Wanted(), last=2, content=False)["letters"]
    assert [letter["reason"] for letter in newest] == causes[-2:]
    assert letters.page(Wanted(), last=99, content=False)["next"] is None
    assert letters.page(Wanted(since=1e9), last=3, content=False)["letters"] == []


def test_many_are_looked_at_a_page_at_a_time(make: Make) -> None:
    letters = make(Keeping(None, most=10_000, most_bytes=1 << 30, sync="normal"))
    letters.record([dead(b"%d" % number) for number in range(3000)], told=False)
    page = letters.page(Wanted(), last=None, content=True)
    assert 0 < len(page["letters"]) < 3000
    assert bodies(letters) == [b"%d" % number for number in range(3000)]


def test_large_ones_are_read_in_pieces(make: Make) -> None:
    letters = make()
    body = os.urandom(1000) * 5000
    [identity] = letters.record([dead(body)], told=False)
    [letter] = letters.page(Wanted(), last=None, content=True)["letters"]
    whole = base64.b64decode(letter["content"])
    assert len(whole) == PIECE
    while piece := base64.b64decode(letters.read(identity, len(whole))):
        assert len(piece) <= PIECE
        whole += piece
    assert whole == body
    assert letters.read(identity, 2**31 - 2) == ""


# -- bounds ---------------------------------------------------------------------------------------

_SIZES = st.lists(st.integers(0, 4000), max_size=8)
_BOUNDS = st.tuples(st.integers(0, 6), st.integers(1, 9000))
_STEPS = st.lists(st.one_of(_SIZES, _BOUNDS, st.just("drop"), st.just("restart")), max_size=12)


@given(steps=_STEPS, on_disk=st.booleans())
@example(steps=[[0], [99, 1099, 4000]], on_disk=False)
def test_bounds_hold_whatever_dies(
    steps: list[Any], on_disk: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Past them the oldest go; what is larger than all that may be kept is not."""
    path = str(tmp_path_factory.mktemp("letters") / "dead.db") if on_disk else None
    keeping = Keeping(path, most=5, most_bytes=6000, sync="off")
    letters = DeadLetters("q", "b")
    letters.follow(keeping)
    kept: list[tuple[bytes, int]] = []
    evicted = 0
    for number, step in enumerate(steps):
        if step == "drop":
            letters.drop(Wanted())
            kept = []
        elif step == "restart":
            letters.release()
            letters.follow(keeping)
        elif isinstance(step, tuple):
            keeping = Keeping(path, step[0], step[1], "off")
            letters.follow(keeping)
        else:
            requests = [dead(b"%d" % number + b"x" * size) for size in step]
            ids = letters.record(requests, told=False)
            for request, identity in zip(requests, ids, strict=True):
                stored = stored_of(request)
                fits = keeping.most and stored <= keeping.most_bytes
                assert bool(identity) == bool(fits)
                if fits:
                    kept.append((request.frames[-1], stored))
                elif keeping.most:
                    evicted += 1
        while len(kept) > keeping.most or sum(stored for _, stored in kept) > keeping.most_bytes:
            kept.pop(0)
            evicted += 1
        assert bodies(letters) == [body for body, _ in kept]
        assert letters.kept == len(kept)
        assert letters.bytes == sum(stored for _, stored in kept)
        assert (letters.evicted, letters.lost, letters.failure) == (evicted, 0, "")
    letters.release()


def stored_of(request: DeadRequest) -> int:
    """What etc/zqueue.toml says is counted: the message, 256 bytes, and the history."""
    sizes = json.dumps([len(frame) for frame in request.frames])
    return 256 + sum(map(len, request.frames)) + len("[]") + len(sizes)


def test_a_file_gives_back_what_letters_that_go_had_taken(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    letters = make(in_file(path))
    letters.record([dead(os.urandom(100_000)) for _ in range(50)], told=False)
    letters.drop(Wanted())
    letters.release()
    assert path.stat().st_size < 100_000


# -- retried and dropped --------------------------------------------------------------------------


def test_a_retry_takes_the_oldest_first_and_what_is_taken_is_gone(make: Make) -> None:
    letters = make()
    letters.record([dead(b"%d" % number, client=b"me") for number in range(120)], told=False)
    asked: list[bytes] = []

    def submit(client: bytes, message: Sequence[bytes]) -> None:
        assert client == b"me"
        if len(asked) == 70:
            raise BlockingIOError
        asked.append(message[-1])

    turns = 0
    while letters.retry(Wanted(), submit)["done"]:
        turns += 1
    assert turns == 2, "not all at once"
    assert asked == [b"%d" % number for number in range(70)]
    assert bodies(letters) == [b"%d" % number for number in range(70, 120)]


def test_a_refused_retry_removes_nothing(make: Make) -> None:
    letters = make()
    letters.record([dead()], told=False)

    def submit(*_: object) -> None:
        raise LookupError("stopped")

    with pytest.raises(LookupError):
        letters.retry(Wanted(), submit)
    assert letters.kept == len(listed(letters)) == 1


def test_a_client_that_was_told_gets_no_second_reply_it_cannot_tell_apart(make: Make) -> None:
    """A REQ would take it for the reply to what it asks by then."""
    letters = make()
    letters.record([dead(b"req"), dead(b"dealer", envelope=(b"7", b""))], told=True)
    letters.record([dead(b"untold")], told=False)
    asked: dict[bytes, bytes] = {}
    letters.retry(Wanted(), lambda client, message: asked.update({message[-1]: client}))
    assert asked.pop(b"req") != b"c"
    assert asked == {b"dealer": b"c", b"untold": b"c"}


def test_those_that_die_again_meanwhile_are_not_meant(make: Make) -> None:
    letters = make()
    letters.record([dead(b"first")], told=False)
    until = letters.newest
    letters.record([dead(b"second")], told=False)
    assert letters.drop(Wanted(until=until)) == {"done": 1, "left": 0}
    assert bodies(letters) == [b"second"]


def wait_until_written(letters: DeadLetters) -> None:
    def written() -> bool:
        letters.flush()
        return not letters.failure

    wait_for(written, "the letters to be written")


# -- files ----------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(DeadLettersError) as refusal:
        LetterFile(str(path))
    assert str(refusal.value).startswith(f"dead_letters: {path}: ")
    assert refusal.value.exit_code == 1
    return refusal.value.reason


def test_a_file_is_for_its_user_alone(make: Make, tmp_path: Path) -> None:
    make(in_file(tmp_path / "dead.db")).record([dead()], told=False)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "dead.db": 0o600,
        "dead.db-shm": 0o600,
        "dead.db-wal": 0o600,
    }


def test_letters_in_a_file_are_there_for_the_next(make: Make, tmp_path: Path) -> None:
    letters = make(in_file(tmp_path / "dead.db"))
    letters.record([dead(b"a"), dead(b"b")], told=False)
    letters.release()
    again = make(in_file(tmp_path / "dead.db"))
    assert (bodies(again), again.kept) == ([b"a", b"b"], 2)


def test_two_queues_share_a_file(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    one = make(in_file(path, most=2), "one")
    other = make(in_file(path), "other")
    for number in range(5):
        one.record([dead(b"%d" % number)], told=False)
        other.record([dead(b"%d" % number)], told=False)
    assert bodies(one) == [b"3", b"4"]
    assert bodies(other) == [b"0", b"1", b"2", b"3", b"4"]
    one.drop(Wanted())
    one.release()
    assert len(bodies(other)) == 5
    other.record([dead(b"5")], told=False)
    assert (other.kept, other.failure) == (6, "")


def test_what_is_in_memory_is_taken_along_into_a_file(make: Make, tmp_path: Path) -> None:
    letters = make()
    ids = letters.record([dead(b"a"), dead(b"b")], told=False)
    letters.follow(in_file(tmp_path / "dead.db"))
    assert [letter.id for letter in listed(letters)] == ids
    letters.follow(in_file(tmp_path / "other.db"))
    assert bodies(letters) == [], "from file to file they are not"
    letters.follow(in_file(tmp_path / "dead.db"))
    assert bodies(letters) == [b"a", b"b"]


def test_a_file_that_cannot_be_had_leaves_all_as_it_was(make: Make, tmp_path: Path) -> None:
    letters = make()
    letters.record([dead(b"a")], told=False)
    with pytest.raises(DeadLettersError):
        letters.follow(in_file(tmp_path / "none" / "dead.db"))
    letters.record([dead(b"b")], told=False)
    assert (bodies(letters), letters.path) == ([b"a", b"b"], None)


def test_what_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are notes. " * 1000)
    assert "no SQLite database: name another file" in refused(path)
    assert path.read_text().startswith("These are notes.")


def test_the_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE letters (id)")
    assert refused(path) == "this is the database of another program: name another file"


def test_a_file_of_a_newer_zqueue(tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    LetterFile(str(path)).close()
    with sqlite3.connect(path) as newer:
        newer.execute(f"PRAGMA user_version = {FORMAT + 1}")
    assert f"a newer zqueue has written it (format {FORMAT + 1}; this one knows" in refused(path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert f"there is no folder {tmp_path}/none: make it" in refused(tmp_path / "none" / "dead.db")
    (tmp_path / "file").touch()
    assert "there is no folder" in refused(tmp_path / "file" / "dead.db")


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    assert refused(tmp_path) == "this is a folder, not a file"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_file_that_may_not_be_written(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "dead.db").touch(0o644)
    code = (
        "import os, pwd, sys\n"
        "from zqueue.letter_file import LetterFile\n"
        "user = pwd.getpwnam('nobody')\n"
        "os.setgroups([]); os.setgid(user.pw_gid); os.setuid(user.pw_uid)\n"
        "for path in sys.argv[1:]:\n"
        "    try: LetterFile(path)\n"
        "    except Exception as error: print(error)\n"
    )
    paths = [str(tmp_path / "dead.db"), str(tmp_path / "new.db")]
    told = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert told.stdout.splitlines() == [
        f"dead_letters: {path}: zqueued may not write it, or not in its folder" for path in paths
    ], told.stderr


def test_another_process_is_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    code = (
        "import sys\nfrom zqueue.letter_file import LetterFile\n"
        "held = LetterFile(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert f"another zqueued (pid {holder.pid}) has it: each zqueued needs" in refused(path)
    finally:
        holder.kill()
        holder.communicate()
    LetterFile(str(path)).close()


def test_a_lock_is_waited_for_and_then_tried_again(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    letters = make(in_file(path))
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        [identity] = letters.record([dead(b"a")], told=False)
        assert "another program keeps it locked" in letters.failure
        assert (letters.kept, letters.unwritten) == (0, 1)
        other.execute("ROLLBACK")
    wait_until_written(letters)
    assert [letter.id for letter in listed(letters)] == [identity]
    assert (letters.unwritten, letters.lost) == (0, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few pages."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, make: Make) -> None:
    letters = make(in_file(small_disk / "dead.db"))
    stone = small_disk / "stone"
    stone.write_bytes(b"x" * 200_000)
    written = 0
    while not letters.failure:
        letters.record([dead(b"%d" % written + b"x" * 20_000)], told=False)
        written += 1
    assert "the disk is full" in letters.failure
    assert letters.unwritten == 1
    assert letters.kept == len(listed(letters)) == written - 1, "and can still be read"
    stone.unlink()
    wait_until_written(letters)
    assert letters.kept == len(listed(letters)) == written
    letters.release()


def fill(disk: Path) -> Path:
    """Leave no room on a disk; returns the file that takes it."""
    stone = disk / "stone"
    with contextlib.suppress(OSError), stone.open("wb", buffering=0) as full:
        while True:
            full.write(bytes(4096))
    return stone


def test_what_is_lost_with_a_full_disk_is_told(
    small_disk: Path, start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    fill(small_disk)
    zqueued = start_zqueued(
        f'[queues.default]\nfrontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'
        f'dead_letters = "{small_disk}/dead.db"\nmax_waiting_time = "50ms"\n'
    )
    assert "the disk is full" in zqueued.wait_event("dead_letters.failed")["error"]
    with context.socket(zmq.DEALER) as client:
        client.connect(zqueued.frontend())
        client.send_multipart([b"", b"x"])
        wait_for(lambda: zqueued.queue().dead_letters.unwritten == 1)
    assert zqueued.stop() == 0
    assert zqueued.wait_event("dead_letters.lost", queue="default")["letters"] == 1


@pytest.mark.parametrize("there_before", [False, True])
def test_a_disk_that_is_full_at_the_start(small_disk: Path, make: Make, there_before: bool) -> None:
    if there_before:
        before = make(in_file(small_disk / "dead.db"))
        before.record([dead(b"before")], told=False)
        before.release()
    stone = fill(small_disk)
    letters = make(in_file(small_disk / "dead.db"))
    letters.record([dead(b"late")], told=False)
    assert letters.unwritten == 1
    assert "the disk is full" in letters.failure
    stone.unlink()
    wait_until_written(letters)
    assert len(listed(letters)) == letters.kept == 1 + there_before
    letters.release()


def test_a_disk_that_can_only_be_read(small_disk: Path, make: Make) -> None:
    letters = make(in_file(small_disk / "dead.db"))
    letters.record([dead()], told=False)
    letters.release()
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    assert refused(small_disk / "dead.db") == "it is on a file system that can only be read"


def test_what_cannot_be_written_is_kept_within_bounds(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    letters = make(in_file(path, most=100_000))
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        letters.record([dead() for _ in range(5000)], told=False)
        assert letters.unwritten + letters.lost == 5000
        assert letters.unwritten == 1024


def test_a_file_that_is_removed_is_made_anew(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    letters = make(in_file(path))
    letters.record([dead(b"a")], told=False)
    for left in tmp_path.iterdir():
        left.unlink()
    letters.record([dead(b"b")], told=False)
    assert "somebody has removed or replaced the file in use" in letters.failure
    wait_until_written(letters)
    assert bodies(letters) == [b"b"]
    letters.release()
    assert bodies(make(in_file(path))) == [b"b"]


def test_a_damaged_file(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    letters = make(in_file(path))
    letters.record([dead(os.urandom(50_000)) for _ in range(20)], told=False)
    letters.release()
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(DeadLettersError, match="the file is damaged: move it away, and a new one"):
        make(in_file(path))


@pytest.mark.parametrize("sync", ["full", "normal", "off"])
def test_how_hard_it_is_pressed_onto_the_disk(sync: Any, make: Make, tmp_path: Path) -> None:
    letters = make(in_file(tmp_path / "dead.db", sync=sync))
    assert letters._file is not None
    found = letters._file.execute("PRAGMA synchronous").fetchone()[0]
    assert found == {"off": 0, "normal": 1, "full": 2}[sync]


# -- the form of an export ------------------------------------------------------------------------


@given(
    envelope=st.lists(st.binary(max_size=4), max_size=3),
    body=st.lists(st.binary(max_size=8) | st.text(max_size=4).map(str.encode), max_size=3),
)
def test_an_exported_letter_can_be_imported(envelope: list[bytes], body: list[bytes]) -> None:
    message = [*envelope, *body]
    content = b"".join(message)
    letter = DeadLetter(
        id="b/q/1",
        queue="q",
        broker="b",
        reason="deadline",
        received_at=1.5,
        died_at=2.5,
        client="00ff",
        named=False,
        peer="",
        told=False,
        attempts=0,
        history=(),
        envelope=len(envelope),
        sizes=tuple(map(len, message)),
        size=len(content),
        content=base64.b64encode(content).decode(),
    )
    line = json.dumps(exported(letter), ensure_ascii=False)
    assert imported(line) == letter
    assert frames(imported(line)) == message


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"envelope": [], "body": []}'])
def test_what_is_no_exported_letter(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        imported(line)
