"""Listening sockets that outlive this process: those of a socket unit, and those that systemd keeps
from one run of the daemon to the next.

A socket unit's sockets are named ``QUEUE.frontend``, ``QUEUE.backend``, ``QUEUE.capture``,
``QUEUE.control`` or ``control`` (``FileDescriptorName=``, systemd.socket(5)). What zqueue opens
itself on tcp is put into systemd's descriptor store, so that after a crash or a restart clients
wait in the kernel and are not refused.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from zqueue import endpoints
from zqueue.listeners import Listener, adopt, endpoint_of, matches

_KEPT = "kept/"
"""Begins the names of what zqueue itself put into the store."""


@dataclass
class _Inherited:
    name: str
    socket: socket.socket
    lent: Listener | None = None


class Inherited:
    """The sockets that were there before; each is lent to the endpoint that it was opened for.

    ``store`` and ``unstore`` put a descriptor into systemd's store under a name, and take it out.
    May be used from any thread.
    """

    def __init__(
        self,
        sockets: Iterable[tuple[str, socket.socket]] = (),
        store: Callable[[str, int], None] = lambda name, descriptor: None,
        unstore: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._lock = threading.Lock()
        self._store = store
        self._unstore = unstore
        self._of_units: list[_Inherited] = []
        self._kept: list[_Inherited] = []
        for name, sock in sockets:
            kept = name.startswith(_KEPT)
            (self._kept if kept else self._of_units).append(_Inherited(name, sock))

    def endpoint_of(self, name: str) -> str | None:
        """Where the first socket of this name listens."""
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

    def take(self, name: str, endpoint: str, backlog: int) -> Listener | None:
        """A listener for ``endpoint`` on a socket that is there already, or ``None``."""
        parsed = endpoints.parse(endpoint, "bind")
        with self._lock:
            for each in self._of_units:
                free = each.lent is None or each.lent.closed
                if each.name == name and free and matches(each.socket, parsed):
                    each.lent = adopt(endpoint, each.socket.dup(), ours=False)
                    return each.lent
            for each in self._kept:
                if each.name.startswith(f"{_KEPT}{name}/") and matches(each.socket, parsed):
                    self._kept.remove(each)
                    each.socket.listen(backlog)
                    return self._keep_listed(name, adopt(endpoint, each.socket, ours=True))
        return None

    def keep(self, name: str, listener: Listener) -> None:
        """Have systemd keep this tcp listener for the next run, until it is closed."""
        number = listener.port
        if number:
            self._store(f"{_KEPT}{name}/{number}", listener.fileno())
            self._keep_listed(name, listener)

    def _keep_listed(self, name: str, listener: Listener) -> Listener:
        listener.on_close = lambda: self._unstore(f"{_KEPT}{name}/{listener.port}")
        return listener

    def drop_unused(self) -> None:
        """Close what an earlier run had left and this one does not want."""
        with self._lock:
            for each in self._kept:
                with contextlib.suppress(OSError):
                    each.socket.shutdown(socket.SHUT_RDWR)
                each.socket.close()
                self._unstore(each.name)
            self._kept.clear()
