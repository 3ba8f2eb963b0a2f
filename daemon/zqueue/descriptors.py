"""How many file descriptors this process may have, and what is kept back of them.

Every connection takes one. When there is none left, libzmq tries for ever, at full speed, to accept
on tcp, and on ipc it aborts the whole process. So new connections are stopped before it comes to
that, and a headroom is kept for those on ipc, the control socket's among them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

_CLONE_FILES = 0x400
_UNLIMITED = 1 << 20
_HEADROOM = 256
_RESERVE = 1280
"""More than libzmq accepts unheard (``zqueue.monitor``)."""
_SMALLEST_RESERVE = 16


def raise_limit() -> None:
    """Allow this process all descriptors that it may have, less the headroom."""
    _allow(allowed())


def allowed() -> int:
    """How many this process has after :func:`raise_limit`."""
    return _ceiling() - _headroom()


class Budget:
    """Tells from a descriptor's number whether the process is about to run out of them.

    The kernel gives the lowest free number, so the number of a connection that was just accepted
    tells how full the table is: nothing has to be counted. ``many`` are the side of a queue that
    may be a crowd: it is stopped first, so that descriptors are left to those who serve it, as many
    as are ``reserved``, by default more than libzmq accepts unheard. ``callers`` of the control
    socket are stopped last: they may want to know why that is.
    """

    def __init__(self, *, callers: bool = False, many: bool = False, reserved: int = 0) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.limit = min(soft, _ceiling() - _headroom())
        whole = max(_SMALLEST_RESERVE, min(_RESERVE, self.limit // 4))
        self._reserve = whole if callers else whole + whole // 4
        self._to_spare = self._reserve // 4
        kept = min(reserved or whole, (self.limit - self._reserve) // 2)
        if many:
            self._reserve += kept
        elif not callers:
            # There is room again also while the many have all that they may.
            self._to_spare = min(self._to_spare, kept // 2)

    @property
    def highest(self) -> int:
        """From which number of a connection's descriptor on there should be no more of them."""
        return self.limit - self._reserve

    def nearly_spent(self, descriptor: int) -> bool:
        """Whether new connections must be stopped now, with this one accepted.

        Many more may have been accepted since that one, so the next number counts, too.
        """
        return max(descriptor, self._next()) >= self.highest

    def has_room(self) -> bool:
        """Whether there is room for new connections again, with some to spare."""
        return self._next() < self.highest - self._to_spare

    def _next(self) -> int:
        """The number that the next descriptor will have."""
        try:
            probe = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return self.limit
        os.close(probe)
        return probe

    def open_headroom(self) -> None:
        """Let what cannot be stopped have the headroom, from when new connections are stopped."""
        _allow(_ceiling())

    def close_headroom(self) -> None:
        """Keep the headroom back again, once there is room."""
        _allow(self.limit)


def keep_only(descriptor: int) -> bool:
    """Give the calling thread a descriptor table of its own (unshare(2)), with this one and 0 to 2.

    The other threads keep theirs. False, and nothing has changed, where that is not allowed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_FILES) != 0:
        return False
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, _UNLIMITED)
    return True


def _ceiling() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if hard == resource.RLIM_INFINITY else hard


def _headroom() -> int:
    return min(_HEADROOM, _ceiling() // 8)


def _allow(soft: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
