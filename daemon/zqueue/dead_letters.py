"""Dead letters: the requests of a queue that were given up, kept within bounds.

They are rows of a SQLite database, in memory or in a file, which several queues may share.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

from zqueue.control.letters import split
from zqueue.engine import Attempt, DeadRequest
from zqueue.errors import DeadLettersError
from zqueue.letter_file import LetterFile, Sync
from zqueue.letter_id import LetterId, NoSuchLetter

PIECE = 1 << 20
"""So many bytes of letters are looked at, or of content read, at once."""

_LETTERS_AT_ONCE = 500
_LETTERS_A_TURN = 50
_BYTES_A_TURN = 64 << 20
_MOST_UNWRITTEN = 1024
_MOST_UNWRITTEN_BYTES = 64 << 20
_TRIED_AGAIN_AFTER = 2.0
_OVERHEAD = 256
_COLUMNS = (
    *("number", "broker", "reason", "received_at", "died_at", "client", "named", "peer", "told"),
    *("attempts", "history", "envelope", "sizes"),
)
# No client can have this routing id, so that a reply to it goes to nobody.
_NOBODY = b"\0" + os.urandom(8)

Submit = Callable[[bytes, Sequence[bytes]], None]
"""As :meth:`zqueue.engine.Engine.submit`."""


@dataclass(frozen=True)
class Keeping:
    """How letters are kept: where (``None`` is in memory), how many and how many bytes at most, and
    how hard a file is pressed onto the disk."""

    path: str | None
    most: int
    most_bytes: int
    sync: Sync


@dataclass(frozen=True)
class Wanted:
    """Some letters: those with these ids, or all that died of one of ``reasons``, if any are named,
    since a time, behind one and up to another (both numbers)."""

    letters: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    since: float | None = None
    after: int = 0
    until: int | None = None


@dataclass(frozen=True)
class _Row:
    """A letter as it is written; the columns of the table, less its queue."""

    number: int
    broker: str
    reason: str
    received_at: float
    died_at: float
    client: bytes
    named: bool
    peer: str
    told: bool
    attempts: int
    history: str
    envelope: int
    sizes: str
    stored: int
    content: bytes


class DeadLetters:
    """The dead letters of one queue. ``broker`` is this daemon's name, for their ids.

    They outlive the queue's threads and engines. All methods are called by one thread at a time.
    Before :meth:`follow` has said how they are to be kept there are none.
    """

    def __init__(self, queue: str, broker: str) -> None:
        self._queue = queue
        self._broker = broker
        self._keeping = Keeping(None, most=0, most_bytes=0, sync="normal")
        self._file: LetterFile | None = None
        self._unwritten: deque[_Row] = deque()
        self._again_at = 0.0
        self._postponed = False
        self._last = 0
        self.kept = 0
        self.bytes = 0
        self.evicted = 0
        """How many have gone because of the bounds."""
        self.lost = 0
        """How many have gone because they could not be written."""
        self.failure = ""
        """Why the last ones could not be written; they are tried again."""

    @property
    def path(self) -> str | None:
        return self._keeping.path

    @property
    def unwritten(self) -> int:
        """How many wait to be written."""
        return len(self._unwritten)

    @property
    def newest(self) -> int:
        """The number of the last letter that there was."""
        return self._last

    # -- opening and closing ---------------------------------------------------------------------

    def follow(self, keeping: Keeping) -> None:
        """Keep them like this from now on. What is in memory is taken along into a file. If they
        were not kept yet, and the disk is full, they wait to be written until it is not.

        Raises:
            DeadLettersError: that cannot be; they are kept as before.
        """
        if self._file is not None and keeping == self._keeping:
            return
        was_open = self._file is not None
        try:
            self._follow(keeping)
        except DeadLettersError as error:
            if was_open or not error.disk_is_full:
                raise
            self._keeping, self._postponed = keeping, True
            self._has_failed(error)

    def _follow(self, keeping: Keeping) -> None:
        file = self._file
        if file is None or keeping.path != self._keeping.path:
            file, before = self._open(keeping), file
            if before is not None:
                before.close()
        self._file, self._keeping = file, keeping
        self._postponed = False
        file.synchronous(keeping.sync)
        self._count(file)
        with file.transaction():
            evicted = self._evict(file, keeping.most, keeping.most_bytes)
        self._gone(*evicted)
        self.evicted += evicted[0]

    def release(self) -> None:
        """Close the file, if they are in one, and leave it to others; :meth:`follow` opens it anew.
        What is in memory stays."""
        if self._keeping.path is None:
            return
        self._again_at = 0.0
        self.flush()
        self._postponed = False
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, keeping: Keeping) -> LetterFile:
        """Open another database, with what was in memory until now."""
        before, file = self._file, LetterFile(keeping.path)
        try:
            with file.transaction():
                found = file.execute("SELECT last FROM queues WHERE name = ?", (self._queue,))
                self._last = max(self._last, *next(found, (0,)))
                if before is not None and before.path is None:
                    self._copy(before, file)
        except BaseException:
            file.close()
            raise
        return file

    def _copy(self, source: LetterFile, target: LetterFile) -> None:
        columns = ", ".join(_Row.__dataclass_fields__)
        for values in source.execute(f"SELECT {columns} FROM letters ORDER BY number"):
            self._insert(target, values)

    # -- keeping ---------------------------------------------------------------------------------

    def record(self, died: Iterable[DeadRequest], *, told: bool) -> list[str]:
        """Keep these, in the order in which they died; ``told``: their clients were, by an error
        reply. Returns the id of each, or nothing for one that is not kept.

        What cannot be written now, as :attr:`failure` tells, is tried again by :meth:`flush`.
        """
        ids = []
        for request in died:
            row = self._row(request, told)
            if row.stored <= self._keeping.most_bytes and self._keeping.most:
                self._unwritten.append(row)
                ids.append(str(LetterId(self._broker, self._queue, row.number)))
            else:
                self.evicted += bool(self._keeping.most)
                ids.append("")
        self.flush()
        return ids

    def flush(self) -> None:
        """Write what could not be written before, unless that was just now."""
        due = self._postponed or (self._unwritten and self._file is not None)
        if due and time.monotonic() >= self._again_at:
            try:
                if self._postponed:
                    self._follow(self._keeping)
                if self._unwritten and self._file is not None:
                    self._write(self._file)
            except DeadLettersError as error:
                self._has_failed(error)
            else:
                self.failure = ""
        unwritten = sum(row.stored for row in self._unwritten)
        while len(self._unwritten) > _MOST_UNWRITTEN or unwritten > _MOST_UNWRITTEN_BYTES:
            unwritten -= self._unwritten.popleft().stored
            self.lost += 1

    def _has_failed(self, error: DeadLettersError) -> None:
        self.failure = str(error)
        self._again_at = time.monotonic() + _TRIED_AGAIN_AFTER

    def _row(self, request: DeadRequest, told: bool) -> _Row:
        # The time, so that numbers of one run are not those of another, in memory too.
        self._last = max(self._last + 1, int(request.died_at * 1e6))
        content = b"".join(request.frames)
        history = json.dumps([_attempt(each) for each in request.history])
        sizes = json.dumps([len(frame) for frame in request.frames])
        return _Row(
            number=self._last,
            broker=self._broker,
            reason=request.cause,
            received_at=request.received_at,
            died_at=request.died_at,
            client=request.client,
            named=request.named,
            peer=request.peer,
            told=told,
            attempts=request.attempts,
            history=history,
            envelope=request.envelope,
            sizes=sizes,
            stored=_OVERHEAD + len(content) + len(history) + len(sizes),
            content=content,
        )

    def _write(self, file: LetterFile) -> None:
        """Write all that is unwritten and fits, in one transaction, in the place of the oldest."""
        if file.is_gone:
            self._begin_anew(file)
        most, most_bytes = self._keeping.most, self._keeping.most_bytes
        rows: deque[_Row] = deque()
        for row in reversed(self._unwritten):
            if not most or row.stored > most_bytes:
                most = 0  # an older one may not outlive it
                break
            most, most_bytes = most - 1, most_bytes - row.stored
            rows.appendleft(row)
        with file.transaction():
            evicted = self._evict(file, most, most_bytes)
            for row in rows:
                self._insert(file, astuple(row))
            last = "INSERT OR REPLACE INTO queues (name, last) VALUES (?, ?)"
            file.execute(last, (self._queue, self._last))
        self._gone(*evicted)
        self.evicted += evicted[0] + len(self._unwritten) - len(rows)
        self._unwritten.clear()
        self.kept += len(rows)
        self.bytes += sum(row.stored for row in rows)

    def _insert(self, file: LetterFile, values: tuple[object, ...]) -> None:
        columns = ", ".join(("queue", *_Row.__dataclass_fields__))
        places = ", ".join("?" * (len(values) + 1))
        file.execute(f"INSERT INTO letters ({columns}) VALUES ({places})", (self._queue, *values))

    def _begin_anew(self, file: LetterFile) -> None:
        """Somebody has taken the file away: what is written to it would be lost with it."""
        self._file = LetterFile(file.path)
        file.close()
        self._file.synchronous(self._keeping.sync)
        self._count(self._file)
        raise DeadLettersError(file.path, "somebody has removed or replaced the file in use")

    def _evict(self, file: LetterFile, most: int, most_bytes: int) -> tuple[int, int]:
        """Delete the oldest until no more than that are left; how many go, and their bytes."""
        count = stored = number = 0
        oldest = "SELECT number, stored FROM letters WHERE queue = ? ORDER BY number"
        for number, each in file.execute(oldest, (self._queue,)):
            if self.kept - count <= most and self.bytes - stored <= most_bytes:
                break
            count, stored, last = count + 1, stored + each, number
        if count:
            delete = "DELETE FROM letters WHERE queue = ? AND number <= ?"
            file.execute(delete, (self._queue, last))
        return count, stored

    def _gone(self, count: int, stored: int) -> None:
        self.kept -= count
        self.bytes -= stored

    def _count(self, file: LetterFile) -> None:
        counted = "SELECT count(*), coalesce(sum(stored), 0) FROM letters WHERE queue = ?"
        with file.told():
            self.kept, self.bytes = file.execute(counted, (self._queue,)).fetchone()

    # -- looking ---------------------------------------------------------------------------------

    def page(self, wanted: Wanted, *, last: int | None, content: bool) -> dict[str, Any]:
        """Some letters, the oldest first, each as a ``zqueue.control.messages.DeadLetter``.

        With ``last`` only so many of the newest; with ``content`` the first :data:`PIECE` of what
        is in each. ``next`` is the number behind which there are more, or ``None``.

        Raises:
            NoSuchLetter: one of those that were named is not there.
            DeadLettersError: they cannot be read.
        """
        file = self._opened()
        self._must_be_there(file, wanted.letters)
        where, values = self._where(wanted)
        piece = f", substr(content, 1, {PIECE})" if content else ""
        letters: list[dict[str, Any]] = []
        weight, more = 0, None
        with file.told():
            if last is not None:
                newest = f"SELECT number FROM letters WHERE {where} ORDER BY number DESC LIMIT ?"
                numbers = [row[0] for row in file.execute(newest, (*values, last))]
                where, values = f"{where} AND number >= ?", (*values, min(numbers, default=0))
            columns = f"{', '.join(_COLUMNS)}, length(content){piece}"
            for row in file.execute(
                f"SELECT {columns} FROM letters WHERE {where} ORDER BY number", values
            ):
                if len(letters) >= _LETTERS_AT_ONCE or weight >= PIECE:
                    more = letters[-1]["number"]
                    break
                letters.append(self._shown(row))
                weight += sum(len(value) for value in row if isinstance(value, str | bytes))
        for letter in letters:
            del letter["number"]
        return {"letters": letters, "next": more}

    def read(self, letter: str, offset: int) -> str:
        """What is in a letter from ``offset`` on, :data:`PIECE` bytes at most, in base64.

        Raises:
            NoSuchLetter: it is not there.
            DeadLettersError: it cannot be read.
        """
        file = self._opened()
        self._must_be_there(file, (letter,))
        piece = "SELECT substr(content, ?, ?) FROM letters WHERE queue = ? AND number = ?"
        place = (offset + 1, PIECE, self._queue, LetterId.parse(letter).number)
        with file.told():
            return _base64(file.execute(piece, place).fetchone()[0])

    def _shown(self, row: tuple[Any, ...]) -> dict[str, Any]:
        letter = dict(zip(_COLUMNS, row, strict=False))
        size, *content = row[len(_COLUMNS) :]
        identity = LetterId(letter.pop("broker"), self._queue, letter["number"])
        return letter | {
            "id": str(identity),
            "queue": self._queue,
            "broker": identity.broker,
            "client": letter["client"].hex(),
            "named": bool(letter["named"]),
            "told": bool(letter["told"]),
            "history": json.loads(letter["history"]),
            "sizes": json.loads(letter["sizes"]),
            "size": size,
            "content": _base64(content[0]) if content else None,
        }

    # -- taking away -----------------------------------------------------------------------------

    def retry(self, wanted: Wanted, submit: Submit) -> dict[str, int]:
        """Ask some of these again by ``submit``, the oldest first, and remove them.

        Not all at once: ``done`` is how many, ``left`` how many match still; call it again. The
        reply to one whose client was told of its death goes to nobody, if its envelope does not
        tell it from other replies: a REQ would take it for the one that it waits for by now.

        Raises:
            DeadLettersError: they cannot be read, or could not be removed and may be done twice.
            Exception: what ``submit`` raises, less ``BlockingIOError``; those before it are done.
        """
        file = self._opened()
        done: list[int] = []
        columns = "client, told, envelope, sizes, content"
        read = f"SELECT {columns} FROM letters WHERE queue = ? AND number = ?"
        try:
            for number in self._some(file, wanted):
                with file.told():
                    row = file.execute(read, (self._queue, number)).fetchone()
                client, told, envelope, sizes, content = row
                try:
                    frames = list(split(content, json.loads(sizes)))
                    submit(_NOBODY if told and envelope == 1 else client, frames)
                except (ValueError, TypeError) as error:
                    wrong = f"letter {number:x} is damaged and cannot be asked again: {error}"
                    raise DeadLettersError(file.path, wrong) from error
                done.append(number)
        except BlockingIOError:
            pass
        finally:
            self._remove(file, done)
        return {"done": len(done), "left": self._matching(file, wanted)}

    def drop(self, wanted: Wanted) -> dict[str, int]:
        """Remove some of these, and not all at once, as :meth:`retry` does.

        Raises:
            DeadLettersError: they cannot be removed.
        """
        file = self._opened()
        done = self._some(file, wanted)
        self._remove(file, done)
        return {"done": len(done), "left": self._matching(file, wanted)}

    def _some(self, file: LetterFile, wanted: Wanted) -> list[int]:
        """The numbers of those to begin with: not too many, and not too large together."""
        where, values = self._where(wanted)
        numbers: list[int] = []
        stored = 0
        some = f"SELECT number, stored FROM letters WHERE {where} ORDER BY number LIMIT ?"
        with file.told():
            for number, each in file.execute(some, (*values, _LETTERS_A_TURN)):
                stored += each
                if numbers and stored > _BYTES_A_TURN:
                    break
                numbers.append(number)
        return numbers

    def _matching(self, file: LetterFile, wanted: Wanted) -> int:
        where, values = self._where(wanted)
        with file.told():
            count = file.execute(f"SELECT count(*) FROM letters WHERE {where}", values)
            return int(count.fetchone()[0])

    def _remove(self, file: LetterFile, numbers: list[int]) -> None:
        these = "queue = ? AND number IN (SELECT value FROM json_each(?))"
        values = (self._queue, json.dumps(numbers))
        with file.transaction():
            counted = f"SELECT count(*), coalesce(sum(stored), 0) FROM letters WHERE {these}"
            gone = file.execute(counted, values).fetchone()
            file.execute(f"DELETE FROM letters WHERE {these}", values)
        self._gone(*gone)

    # -- which -----------------------------------------------------------------------------------

    def _opened(self) -> LetterFile:
        if self._file is None:
            why = self.failure or "the queue was never started"
            raise DeadLettersError(self._keeping.path, f"not open yet: {why}")
        return self._file

    def _must_be_there(self, file: LetterFile, letters: Iterable[str]) -> None:
        there = "SELECT broker FROM letters WHERE queue = ? AND number = ?"
        for letter in letters:
            identity = LetterId.parse(letter)
            with file.told():
                found = file.execute(there, (self._queue, identity.number)).fetchone()
            if found is None or (identity.broker and identity.broker != found[0]):
                raise NoSuchLetter(f"there is no dead letter {letter} any more")

    def _where(self, wanted: Wanted) -> tuple[str, tuple[Any, ...]]:
        clauses = ["queue = ?"]
        values: list[str | float] = [self._queue]
        for clause, value in (
            ("number IN (SELECT value FROM json_each(?))", _numbers(wanted.letters)),
            ("reason IN (SELECT value FROM json_each(?))", _listed(wanted.reasons)),
            ("died_at >= ?", wanted.since),
            ("number > ?", wanted.after or None),
            ("number <= ?", wanted.until),
        ):
            if value is not None:
                clauses.append(clause)
                values.append(value)
        return " AND ".join(clauses), tuple(values)


def _attempt(attempt: Attempt) -> dict[str, Any]:
    shown = asdict(attempt)
    return shown | {"reason": shown.pop("cause")}


def _numbers(letters: Sequence[str]) -> str | None:
    return _listed([LetterId.parse(letter).number for letter in letters])


def _listed(values: Sequence[object]) -> str | None:
    return json.dumps(list(values)) if values else None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
