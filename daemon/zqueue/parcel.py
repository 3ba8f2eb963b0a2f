"""Bytes and any number of descriptors, packed into a few descriptors that can be kept or sent.

The bytes are in a sealed memfd. The descriptors are in flight (``SCM_RIGHTS``, unix(7)) in socket
pairs of which only the far end is kept: as many as ever fit into a pair, whoever keeps it, where
systemd would want a name and a place in its store for each. They are not closed for as long as the
far end is open. The kernel lets one user have as many in flight as ``RLIMIT_NOFILE`` says.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import stat
from array import array
from collections.abc import Iterable, Sequence

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_IN_A_MESSAGE = 253
"""The most that the kernel takes: SCM_MAX_FD."""
_SO_PEEK_OFF = 42
_WORD = b"\0"


class Parcel:
    """A parcel as :meth:`pack` has made it, or as it came: ``descriptors`` begin with the memfd.

    They are this object's until it is closed.
    """

    def __init__(self, descriptors: Sequence[int]) -> None:
        self.descriptors = tuple(descriptors)

    @classmethod
    def pack(cls, content: Iterable[bytes], descriptors: Sequence[int]) -> Parcel:
        """Put copies of these into a new parcel.

        Raises:
            OSError: there is no room: of memory, of descriptors, of those in flight.
        """
        with contextlib.ExitStack() as opened:
            file = os.memfd_create("zqueue", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            opened.callback(os.close, file)
            for piece in content:
                left = memoryview(piece)
                while left:
                    left = left[os.write(file, left) :]
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            packed = [file]
            rest = list(descriptors)
            while rest:
                far, rest = _send_what_fits(rest)
                opened.callback(os.close, far)
                packed.append(far)
            opened.pop_all()
        return cls(packed)

    @property
    def has_pairs(self) -> bool:
        """Whether there are, or were, descriptors in it."""
        return len(self.descriptors) > 1

    def read(self) -> bytes:
        """The bytes; none where the first of its descriptors has none."""
        try:
            with mmap.mmap(self.descriptors[0], 0, prot=mmap.PROT_READ) as content:
                return content[:]
        except (OSError, ValueError):
            return b""

    def look(self) -> list[int]:
        """Duplicates of the descriptors in it; they stay in it, too.

        Where some are missing, there was no room for them in this process, or :meth:`empty` was
        called before.
        """
        found: list[int] = []
        for far in self._pairs():
            with far:
                with contextlib.suppress(OSError):  # its end, or it is no pair of ours
                    far.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
                    while some := receive(far, 1, socket.MSG_PEEK)[1]:
                        found += some
                with contextlib.suppress(OSError):
                    far.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, -1)
        return found

    def empty(self) -> None:
        """Let go of the descriptors in it: nobody can find them there any more, whoever keeps a
        duplicate of this parcel."""
        for far in self._pairs():
            with far, contextlib.suppress(OSError):
                # With no room given for them, the kernel closes what comes along.
                while far.recv(1 << 16):
                    pass

    def close(self) -> None:
        """Close this process's ends."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()

    def _pairs(self) -> list[socket.socket]:
        pairs = []
        for descriptor in self.descriptors[1:]:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                far = socket.socket(fileno=os.dup(descriptor))
                far.setblocking(False)
                pairs.append(far)
        return pairs


def _send_what_fits(descriptors: list[int]) -> tuple[int, list[int]]:
    """The far end of a new pair with as many of these as it takes, and those that are left."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with near, far:
        near.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < len(descriptors):
                some = descriptors[sent : sent + _IN_A_MESSAGE]
                socket.send_fds(near, [_WORD], some)
                sent += len(some)
        return far.detach(), descriptors[sent:]


def receive(sock: socket.socket, size: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """Up to ``size`` bytes, and the descriptors that come with them.

    Not ``socket.recv_fds()``, which takes no heed of its flags.

    Raises:
        OSError: as ``recvmsg`` does.
    """
    descriptors: array[int] = array("i")
    room = socket.CMSG_LEN(_IN_A_MESSAGE * descriptors.itemsize)
    content, messages, _, _ = sock.recvmsg(size, room, flags | socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in messages:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return content, list(descriptors)
