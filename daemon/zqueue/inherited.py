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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from zqueue import endpoints
from zqueue.errors import EndpointError
from zqueue.handover import SocketState
from zqueue.listeners import (
    Address,
    Listener,
    address_of,
    address_to_bind,
    adopt,
    endpoint_of,
    listen,
    matches,
    set_access,
)

_KEPT = "kept/"
"""Begins the names of what zqueue itself put into the store."""


class Wish(NamedTuple):
    """A listening socket that a config wants: by which name, and where."""

    name: str
    endpoint: str
    ipv6: bool = False


@dataclass
class _OfUnit:
    name: str
    socket: socket.socket
    lent: Listener | None = None


@dataclass
class _Kept:
    """What systemd has kept under the name ``stored``."""

    stored: str
    socket: socket.socket

    @property
    def name(self) -> str:
        return self.stored.split("/")[1]

    def close(self) -> None:
        # As long as it listens, whoever holds a duplicate, nobody else can have the port.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


@dataclass
class _HandedOver:
    state: SocketState
    socket: socket.socket

    @property
    def name(self) -> str:
        return self.state.name

    def has_its_path(self) -> bool:
        """Systemd may have removed it with the folder that it was in."""
        if self.state.inode is None:
            return True
        with contextlib.suppress(OSError):
            return os.stat(self.socket.getsockname()).st_ino == self.state.inode
        return False


_T = TypeVar("_T", _Kept, _HandedOver)


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
        self._of_units: list[_OfUnit] = []
        self._kept: list[_Kept] = []
        self._handed_over: list[_HandedOver] = []
        self._borrowed: list[Listener] = []
        self._leaving: list[socket.socket] = []
        self._expected: set[Address] = set()
        for name, sock in sockets:
            if name.startswith(_KEPT):
                self._kept.append(_Kept(name, sock))
            else:
                self._of_units.append(_OfUnit(name, sock))

    def add(self, handed_over: Iterable[SocketState]) -> None:
        """The sockets of a run before; their descriptors are this object's from now on.

        Listeners on them are borrowed until :meth:`settle`.
        """
        for each in handed_over:
            sock = socket.socket(fileno=each.descriptor)
            self._handed_over.append(_HandedOver(each, sock))

    def expect(self, wishes: Iterable[Wish]) -> None:
        """Everything that will be opened, before any of it is: what systemd has kept for something
        else is closed now, since it could be in the way."""
        wishes = list(wishes)
        wanted: set[Address] = set()
        chosen_by_kernel: set[tuple[str, Address]] = set()
        for wish in wishes:
            with contextlib.suppress(EndpointError):  # it is told when it is opened
                address = address_to_bind(wish.endpoint, wish.ipv6)
                if address.chosen_by_kernel:
                    chosen_by_kernel.add((wish.name, address))
                else:
                    wanted.add(address)
        with self._lock:
            self._expected = wanted
            for each in list(self._kept):
                address = address_of(each.socket)
                own = (each.name, address.any_port()) in chosen_by_kernel
                if address not in wanted and not (own and self._is_free(address)):
                    self._kept.remove(each)
                    each.close()
                    self._unstore(each.stored)

    def _is_free(self, address: Address) -> bool:
        """Whether no explicit endpoint has its port."""
        return all(address.port != each.port for each in self._expected)

    def endpoint_of(self, name: str) -> str | None:
        """Where the first socket of this name of a socket unit listens."""
        for each in self._of_units:
            if each.name == name:
                return endpoint_of(each.socket)
        return None

    def mismatches(self, wanted: Iterable[Wish]) -> list[tuple[str, str]]:
        """The sockets of socket units, as ``(name, endpoint)``, that no wish of a config is for."""
        wishes = [(each.name, endpoints.parse(each.endpoint, "bind")) for each in wanted]
        return [
            (each.name, endpoint_of(each.socket))
            for each in self._of_units
            if not any(name == each.name and matches(each.socket, wish) for name, wish in wishes)
        ]

    def last_asked(self, name: str) -> str | None:
        """The endpoint that the run before had the first socket of this name for."""
        for each in self._handed_over:
            if each.name == name:
                return each.state.asked
        return None

    def open(self, wish: Wish, backlog: int, mode: int = 0o660) -> Listener:
        """A listener for a wish: on a socket that is there already, or a new one, which systemd
        keeps for the next run.

        ``mode`` is as for :func:`zqueue.listeners.listen`.

        Raises:
            EndpointError: it cannot be had.
        """
        listener = self.take(wish, backlog, mode=mode)
        if listener is None:
            with self._lock:
                # They are closed later, since until then somebody else may go on with them.
                beside = [each.socket for each in self._handed_over if each.state.is_tcp]
            beside += self._leaving
            listener = listen(
                wish.endpoint, backlog=backlog, ipv6=wish.ipv6, mode=mode, beside=beside
            )
            self._keep(wish.name, listener)
        return listener

    @contextlib.contextmanager
    def beside(self, leaving: Iterable[Listener]) -> Iterator[None]:
        """Have these not be in the way of what is opened for as long as this lasts: they listen
        still, and will be closed."""
        self._leaving = [each.socket for each in leaving if each.port]
        try:
            yield
        finally:
            self._leaving = []

    def take(
        self, wish: Wish, backlog: int, *, mode: int = 0o660, group: str | None = None
    ) -> Listener | None:
        """A listener for a wish on a socket that is there already, or ``None``.

        One that had another name, as that of a queue that is renamed, serves as well.

        ``mode`` and ``group`` are as for :func:`zqueue.listeners.listen`.

        Raises:
            EndpointError: it cannot be given to the group.
        """
        name, endpoint = wish.name, wish.endpoint
        parsed = endpoints.parse(endpoint, "bind")
        with self._lock:
            for each in self._of_units:
                free = each.lent is None or each.lent.closed
                if each.name == name and free and matches(each.socket, parsed):
                    each.lent = adopt(endpoint, each.socket.dup(), ours=False)
                    return each.lent
            if not self._handed_over and not self._kept:
                return None
            address = address_to_bind(endpoint, wish.ipv6)
            there = [each for each in self._handed_over if each.has_its_path()]
            handed = self._find(there, name, address)
            if handed is not None:
                if handed.state.inode is not None:
                    set_access(endpoint, handed.socket.getsockname(), mode, group)
                self._handed_over.remove(handed)
                handed.socket.listen(backlog)
                listener = adopt(endpoint, handed.socket, ours=handed.state.ours)
                listener.borrowed = True
                self._borrowed.append(listener)
                return listener
            kept = self._find(self._kept, name, address)
            if kept is not None:
                self._kept.remove(kept)
                kept.socket.listen(backlog)
                listener = adopt(endpoint, kept.socket, ours=True)
                if kept.name == name:
                    self._unstore_when_closed(kept.stored, listener)
                else:
                    self._unstore(kept.stored)
                    self._keep(name, listener)
                return listener
        return None

    def _find(self, sockets: Iterable[_T], name: str, address: Address) -> _T | None:
        """One at the address, if there is one by this name, else by another. A port that the kernel
        chose stays with its name: its peers know it."""
        found: _T | None = None
        for each in sockets:
            there = address_of(each.socket)
            if address.chosen_by_kernel:
                if each.name == name and self._is_chosen(each, there, address):
                    return each
            elif there == address:
                if each.name == name:
                    return each
                found = each
        return found

    def _is_chosen(self, each: _Kept | _HandedOver, there: Address, address: Address) -> bool:
        if isinstance(each, _HandedOver) and address.host == "*":  # the path is chosen, too
            return each.state.asked == "ipc://*"
        return there.any_port() == address and self._is_free(there)

    def _keep(self, name: str, listener: Listener) -> None:
        """Have systemd keep this tcp listener for the next run, until it is closed."""
        if listener.port:
            stored = _stored(name, listener)
            self._store(stored, listener.fileno())
            self._unstore_when_closed(stored, listener)

    def _unstore_when_closed(self, stored: str, listener: Listener) -> None:
        listener.on_close = lambda: self._unstore(stored)

    def settle(self) -> None:
        """What a run before had is this one's for good: close what systemd has kept of it and this
        one does not want."""
        with self._lock:
            for listener in self._borrowed:
                listener.borrowed = False
            for each in self._kept:
                each.close()
                self._unstore(each.stored)
            self._borrowed.clear()
            self._kept.clear()
            self._expected.clear()

    def close_the_rest(self) -> None:
        """Close what a run before has handed over and this one does not want. Not before that has
        ended: libzmq aborts if a socket no longer listens on which it accepts."""
        with self._lock:
            for handed in self._handed_over:
                ours = handed.state.ours and handed.has_its_path()
                adopt(handed.state.asked, handed.socket, ours=ours).close()
            self._handed_over.clear()


def _stored(name: str, listener: Listener) -> str:
    """The name of a tcp listener in systemd's store, in which no two have the same."""
    host, _, port = listener.endpoint.removeprefix("tcp://").rpartition(":")
    return f"{_KEPT}{name}/{host.strip('[]').replace(':', '_')}/{port}"
