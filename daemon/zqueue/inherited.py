"""Listening sockets that outlive a process: those of a socket unit, those that systemd keeps from
one run of the daemon to the next, and those that a run before hands over.

A socket unit's sockets are named ``QUEUE.frontend``, ``QUEUE.backend``, ``QUEUE.capture``,
``QUEUE.control`` or ``control`` (``FileDescriptorName=``, systemd.socket(5)). What zqueue opens
itself on tcp is put into systemd's descriptor store, so that after a crash or a restart clients
wait in the kernel and are not refused.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from zqueue import endpoints
from zqueue.endpoints import Endpoint
from zqueue.handover import SocketState
from zqueue.listeners import Listener, adopt, endpoint_of, matches, set_access

_KEPT = "kept/"
"""Begins the names of what zqueue itself put into the store."""


@dataclass
class _Inherited:
    name: str
    socket: socket.socket
    lent: Listener | None = None


@dataclass
class _HandedOver:
    state: SocketState
    socket: socket.socket

    def is_for(self, name: str, endpoint: str, parsed: Endpoint) -> bool:
        fits = self.state.asked == endpoint or matches(self.socket, parsed)
        return self.state.name == name and fits and self.has_its_path()

    def has_its_path(self) -> bool:
        """Systemd may have removed it with the folder that it was in."""
        if self.state.inode is None:
            return True
        with contextlib.suppress(OSError):
            return os.stat(self.socket.getsockname()).st_ino == self.state.inode
        return False


class Inherited:
    """The sockets that were there before; each is lent to the endpoint that it was opened for.

    ``store`` and ``unstore`` put a descriptor into systemd's store under a name, and take it out.
    May be used from any thread.
    """

    def __init__(
        self,
        sockets: Iterable[tuple[str, socket.socket]] = (),
        store: Callable[[str, int], object] = lambda name, descriptor: None,
        unstore: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._lock = threading.Lock()
        self._store = store
        self._unstore = unstore
        self._of_units: list[_Inherited] = []
        self._kept: list[_Inherited] = []
        self._handed_over: list[_HandedOver] = []
        self._borrowed: list[Listener] = []
        for name, sock in sockets:
            kept = name.startswith(_KEPT)
            (self._kept if kept else self._of_units).append(_Inherited(name, sock))

    def add(self, handed_over: Iterable[SocketState]) -> None:
        """The sockets of a run before; their descriptors are this object's from now on.

        Listeners on them are borrowed until :meth:`settle`.
        """
        for each in handed_over:
            sock = socket.socket(fileno=each.descriptor)
            self._handed_over.append(_HandedOver(each, sock))

    def endpoint_of(self, name: str) -> str | None:
        """Where the first socket of this name of a socket unit listens."""
        for each in self._of_units:
            if each.name == name:
                return endpoint_of(each.socket)
        return None

    def mismatches(self, wanted: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """The sockets of socket units, as ``(name, endpoint)``, that no ``(name, endpoint)`` of a
        config is for."""
        wishes = [(name, endpoints.parse(text, "bind")) for name, text in wanted]
        return [
            (each.name, endpoint_of(each.socket))
            for each in self._of_units
            if not any(name == each.name and matches(each.socket, wish) for name, wish in wishes)
        ]

    def last_asked(self, name: str) -> str | None:
        """The endpoint that the run before had the first socket of this name for."""
        for each in self._handed_over:
            if each.state.name == name:
                return each.state.asked
        return None

    def take(
        self,
        name: str,
        endpoint: str,
        backlog: int,
        *,
        mode: int = 0o660,
        group: str | None = None,
    ) -> Listener | None:
        """A listener for ``endpoint`` on a socket that is there already, or ``None``.

        ``mode`` and ``group`` are as for :func:`zqueue.listeners.listen`.

        Raises:
            EndpointError: it cannot be given to the group.
        """
        parsed = endpoints.parse(endpoint, "bind")
        with self._lock:
            for each in self._of_units:
                free = each.lent is None or each.lent.closed
                if each.name == name and free and matches(each.socket, parsed):
                    each.lent = adopt(endpoint, each.socket.dup(), ours=False)
                    return each.lent
            for handed in self._handed_over:
                if handed.is_for(name, endpoint, parsed):
                    if handed.state.inode is not None:
                        set_access(endpoint, handed.socket.getsockname(), mode, group)
                    self._handed_over.remove(handed)
                    handed.socket.listen(backlog)
                    listener = adopt(endpoint, handed.socket, ours=handed.state.ours)
                    listener.borrowed = True
                    self._borrowed.append(listener)
                    return self._keep_listed(name, listener)
            for each in self._kept:
                if each.name.startswith(f"{_KEPT}{name}/") and matches(each.socket, parsed):
                    self._kept.remove(each)
                    each.socket.listen(backlog)
                    return self._keep_listed(name, adopt(endpoint, each.socket, ours=True))
        return None

    def keep(self, name: str, listener: Listener) -> None:
        """Have systemd keep this tcp listener for the next run, until it is closed."""
        if listener.port:
            self._store(f"{_KEPT}{name}/{listener.port}", listener.fileno())
            self._keep_listed(name, listener)

    def _keep_listed(self, name: str, listener: Listener) -> Listener:
        number = listener.port
        if number:
            listener.on_close = lambda: self._unstore(f"{_KEPT}{name}/{number}")
        return listener

    def settle(self) -> None:
        """What a run before had is this one's for good: close what it does not want."""
        with self._lock:
            for listener in self._borrowed:
                listener.borrowed = False
            for handed in self._handed_over:
                ours = handed.state.ours and handed.has_its_path()
                adopt(handed.state.asked, handed.socket, ours=ours).close()
            for each in self._kept:
                with contextlib.suppress(OSError):
                    each.socket.shutdown(socket.SHUT_RDWR)
                each.socket.close()
                self._unstore(each.name)
            for gathered in (self._borrowed, self._handed_over, self._kept):
                gathered.clear()
