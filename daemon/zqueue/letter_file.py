"""The SQLite database that dead letters are in: a file of one zqueued, or memory.

A file belongs to one process at a time. Two daemons that shared one would show and retry each
other's letters: whoever comes second is told who has it. The queues of one process may share it,
each with a connection of its own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from zqueue.errors import DeadLettersError

Sync = Literal["full", "normal", "off"]

FORMAT = 1
"""``PRAGMA user_version`` of the files that this zqueue writes."""

_APPLICATION = 0x7A716C31  # "zql1"
_WAITS_FOR_OTHERS = 0.5
_LARGEST_IDLE_LOG = 4 << 20
_SCHEMA = """
CREATE TABLE letters (
    queue TEXT NOT NULL,
    number INTEGER NOT NULL,
    broker TEXT NOT NULL,
    reason TEXT NOT NULL,
    received_at REAL NOT NULL,
    died_at REAL NOT NULL,
    client BLOB NOT NULL,
    named INTEGER NOT NULL,
    peer TEXT NOT NULL,
    told INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    history TEXT NOT NULL,
    envelope INTEGER NOT NULL,
    sizes TEXT NOT NULL,
    stored INTEGER NOT NULL,
    content BLOB NOT NULL,
    UNIQUE (queue, number)
);
CREATE TABLE queues (name TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
"""
_ADVICE = {
    sqlite3.SQLITE_NOTADB: "this is no SQLite database: name another file, or move this one away",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: move it away, and a new one is made",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the file can only be read",
    sqlite3.SQLITE_BUSY: "another program keeps it locked",
    sqlite3.SQLITE_CANTOPEN: "the file, or those beside it (-wal, -shm), cannot be opened",
    sqlite3.SQLITE_IOERR: "the disk fails",
}
_REFUSALS = {
    errno.EACCES: "zqueued may not write it, or not in its folder",
    errno.EROFS: "it is on a file system that can only be read",
    errno.EISDIR: "this is a folder, not a file",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
}


class LetterFile:
    """One connection to a database. ``path`` of ``None`` is a database in memory, of its own.

    Raises:
        DeadLettersError: it cannot be had; the message says why.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        # One at a time, so that none meets a database that another is about to make.
        with _opening:
            self._held = None if path is None else _hold(path)
            try:
                self._connection = _connect(path)
            except BaseException:
                self._let_go()
                raise

    def close(self) -> None:
        """Close it; of a file, what was written stays."""
        with _opening:
            self._connection.close()
            self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            _release(self._held)
            self._held = None

    @property
    def is_gone(self) -> bool:
        """Whether the file was removed or replaced: nobody would see what is written to it."""
        if self.path is None:
            return False
        try:
            return _identity(os.stat(self.path)) != self._held
        except OSError:
            return True

    def synchronous(self, sync: Sync) -> None:
        """How hard each transaction is pressed onto the disk."""
        with self.told():
            self._connection.execute(f"PRAGMA synchronous = {sync}")

    def execute(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """Run one statement; what goes wrong with it is for :meth:`told`."""
        return self._connection.execute(statement, values)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written in it is written, or nothing.

        Raises:
            DeadLettersError: nothing is.
        """
        with self.told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Make of SQLite's errors one for people.

        Raises:
            DeadLettersError: what it is.
        """
        try:
            yield
        except sqlite3.Error as error:
            raise _explained(self.path, error) from error


def _connect(path: str | None) -> sqlite3.Connection:
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            path or ":memory:",
            timeout=_WAITS_FOR_OTHERS,
            isolation_level=None,
            check_same_thread=False,  # whoever opens it may be another thread than who uses it
        )
        _prepare(connection, path)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise _explained(path, error) from error
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: str | None) -> None:
    """See that it is one of ours, and make it one if it is empty."""
    application, version, tables = (
        connection.execute(question).fetchone()[0]
        for question in (
            "PRAGMA application_id",
            "PRAGMA user_version",
            "SELECT count(*) FROM sqlite_schema",
        )
    )
    if tables and application != _APPLICATION:
        raise DeadLettersError(path, "this is the database of another program: name another file")
    if version > FORMAT:
        newer = f"a newer zqueue has written it (format {version}; this one knows {FORMAT})"
        raise DeadLettersError(path, f"{newer}: name another file, or install that zqueue")
    if not tables:
        # A file gives back to the disk what dead letters that go had taken.
        connection.execute("PRAGMA auto_vacuum = FULL")
    # Readers, such as a backup, do not hold up who writes, and a kill leaves nothing half done.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_IDLE_LOG}")
    connection.execute("PRAGMA temp_store = MEMORY")
    if not tables:
        connection.executescript(
            f"BEGIN; {_SCHEMA} PRAGMA application_id = {_APPLICATION}; "
            f"PRAGMA user_version = {FORMAT}; COMMIT;"
        )


def _explained(path: str | None, error: sqlite3.Error) -> DeadLettersError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and _has_no_room(path):
        code = sqlite3.SQLITE_FULL  # of the files beside it SQLite does not say why
    advice = _ADVICE.get(code)
    reason = f"{advice} ({error})" if advice else str(error)
    return DeadLettersError(path, reason, disk_is_full=code == sqlite3.SQLITE_FULL)


def _has_no_room(path: str | None) -> bool:
    try:
        found = os.statvfs(os.path.dirname(path or "") or ".")
    except OSError:
        return False
    return found.f_bavail == 0 or found.f_favail == 0 < found.f_files


# -- whose a file is -------------------------------------------------------------------------------

_Identity = tuple[int, int]
"""Device and inode."""

_opening = threading.RLock()
_descriptors: dict[_Identity, int] = {}
_users: dict[_Identity, int] = {}


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino


def _hold(path: str) -> _Identity:
    """Make the file if it is not there, and see that it is this process's alone.

    A descriptor of a file may be closed only when SQLite has none of it any more: a close takes all
    of the process's POSIX locks away, which SQLite relies on. So it is opened once.
    """
    try:
        identity = _identity(os.stat(path))
    except OSError:
        identity = None
    if identity not in _descriptors:
        identity = _lock(path)
    assert identity is not None
    _users[identity] = _users.get(identity, 0) + 1
    return identity


def _lock(path: str) -> _Identity:
    try:
        # Dead letters are nobody else's business.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DeadLettersError(path, _refusal(path, error), disk_is_full=full) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        identity = _identity(os.fstat(descriptor))
    except OSError as error:
        reason = f"it cannot be locked: {error.strerror}"
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            reason = f"{_holder(descriptor)} has it: each zqueued needs a file of its own"
        os.close(descriptor)
        raise DeadLettersError(path, reason) from error
    _descriptors[identity] = descriptor
    return identity


def _release(identity: _Identity) -> None:
    _users[identity] -= 1
    if not _users[identity]:
        del _users[identity]
        os.close(_descriptors.pop(identity))


def _refusal(path: str, error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        folder = os.path.dirname(path)
        return f"there is no folder {folder}: make it, and let zqueued write in it"
    return _REFUSALS.get(error.errno or 0, error.strerror or str(error))


def _holder(descriptor: int) -> str:
    """Who has the lock, if /proc tells."""
    found = os.fstat(descriptor)
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    try:
        locks = Path("/proc/locks").read_text()
    except OSError:
        locks = ""
    for line in locks.splitlines():
        columns = line.split()
        if len(columns) > 5 and columns[1] == "FLOCK" and columns[5] == place:
            return f"another zqueued (pid {columns[4]})"
    return "another zqueued"
