"""One entry of systemd's journal, sent as one datagram: its JOURNAL_NATIVE_PROTOCOL.

Our own, since the libraries for it wait for as long as the journal does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
from array import array
from collections.abc import Iterable

SOCKET = "/run/systemd/journal/socket"
STREAMS = "/run/systemd/journal/stdout"

# The journal maps what nobody can change any more, and refuses other descriptors.
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_TOO_LARGE = (errno.EMSGSIZE, errno.ENOBUFS)


class Journal:
    """Sends entries to the journal whose socket is at ``path``. Nothing here waits.

    Raises:
        OSError: there is no descriptor left for the sending end.
    """

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        # Kept open for good: the log goes on when descriptors run out. Not connected: a journal
        # that comes back has a new socket at the same path.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, entry: Iterable[tuple[str, str]]) -> bool:
        """Whether the journal has been given this entry.

        A field may be there several times. Its name has capitals, digits and underscores, not one
        at the beginning, and at most 64 of them: the journal drops others without a word. See
        systemd.journal-fields(7) for what some names mean. Values may be any text.

        Raises:
            BlockingIOError: the journal does not keep up, and was given nothing.
        """
        data = _encoded(entry)
        try:
            try:
                self._socket.sendto(data, socket.MSG_DONTWAIT, self._path)
            except OSError as error:
                if error.errno not in _TOO_LARGE:
                    raise
                self._send_as_file(data)
        except BlockingIOError:
            raise
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()

    def _send_as_file(self, data: bytes) -> None:
        file = os.memfd_create("zqueued-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(file, left) :]
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [file]))
            self._socket.sendmsg([], [rights], socket.MSG_DONTWAIT, self._path)
        finally:
            os.close(file)


def takes_streams(path: str = STREAMS) -> bool:
    """Whether the journal takes the stderr of a process that is started now."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def find(path: str = SOCKET) -> Journal | None:
    """The journal, if its socket is at ``path``."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            return Journal(path)
    return None


def _encoded(entry: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(_field(name.encode(), value) for name, value in entry)


def _field(name: bytes, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return b"%b\n%b%b\n" % (name, struct.pack("<Q", len(data)), data)
    return b"%b=%b\n" % (name, data)
