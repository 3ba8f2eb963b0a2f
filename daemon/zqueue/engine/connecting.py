"""The endpoints that a side of the libzmq engine connects to.

libzmq would look a name up in its I/O thread, at each try, and all of the queue would wait for the
name server. So names are looked up here, and libzmq is told addresses only. Nor does libzmq try an
endpoint again where a peer has broken the protocol, such as a socket of a type that does not fit:
that, too, is done here.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import zmq

from zqueue import endpoints
from zqueue.engine import Report, Side, SocketPlan
from zqueue.engine.lookup import Lookup, SocketAddress, is_address


@dataclass
class _Target:
    """``asked`` is the endpoint as the config has it, ``address`` as libzmq knows it, or nothing
    while a name is not known. ``has``: libzmq has it, and tries it by itself. ``failure``: why it
    failed, to be told. ``next_try``: when it is looked up or connected to again, 0 for not at
    all."""

    asked: str
    pause: float
    address: str = ""
    lookup: Lookup | None = None
    has: bool = False
    failure: str = ""
    next_try: float = 0.0


@dataclass(frozen=True)
class Move:
    """What libzmq is to be told of an endpoint: not to connect to ``before``, but to ``address``,
    where they are not empty."""

    before: str
    address: str
    ipv6: bool = False

    def make(self, sock: zmq.Socket[bytes]) -> None:
        """Tell it."""
        if self.before:
            with contextlib.suppress(zmq.ZMQError):
                sock.disconnect(self.before)
        if self.ipv6:
            sock.ipv6 = True
        if self.address:
            sock.connect(self.address)


class Connecting:
    """The endpoints of ``plan`` that ``sock`` is to connect to: addresses and paths at once, names
    by the :meth:`moves` that they make."""

    def __init__(self, side: Side, sock: zmq.Socket[bytes], plan: SocketPlan) -> None:
        self._side = side
        self._options = plan.options
        self._targets = [self._target(endpoint) for endpoint in plan.connect]
        for target in self._targets:
            if target.address:
                sock.connect(target.address)
                target.has = True

    def _target(self, endpoint: str) -> _Target:
        parsed, pause = endpoints.parse(endpoint, "connect"), self._options.reconnect
        if parsed.transport == "ipc":
            return _Target(endpoint, pause, endpoint)
        if is_address(parsed.host):
            return _Target(endpoint, pause, _tcp(parsed.host, parsed.port))
        lookup = Lookup(parsed.host, parsed.port, self._options.ipv6)
        return _Target(endpoint, pause, lookup=lookup)

    def asked(self, endpoint: str) -> str:
        """What the config calls an endpoint that libzmq names."""
        found = self._at(endpoint)
        return endpoint if found is None else found.asked

    def _at(self, endpoint: str) -> _Target | None:
        return next((each for each in self._targets if each.address == endpoint), None)

    def came_up(self, endpoint: str) -> None:
        """Somebody who fits is there."""
        target = self._at(endpoint)
        if target is not None:
            target.pause = self._options.reconnect

    def retried(self, asked: str) -> None:
        """A connection to this endpoint failed: it may have moved."""
        for target in self._targets:
            if target.asked == asked and target.lookup is not None:
                target.lookup.find()

    def given_up(self, endpoint: str, why: str) -> None:
        """libzmq does not try this endpoint any more: have it tried again after a pause."""
        target = self._at(endpoint)
        if target is not None and not target.failure:
            target.failure = why
            self.retried(target.asked)

    def reports(self) -> Iterator[Report]:
        """Tell of the failures that libzmq does not tell of. Look up again, after a pause, what is
        not known."""
        now = time.monotonic()
        for target in self._targets:
            lookup = target.lookup
            if lookup is not None and not target.address and not lookup.searching:
                if target.next_try:
                    if now >= target.next_try:
                        target.next_try = 0.0
                        lookup.find()
                elif lookup.failure:
                    target.failure = f"its name is not known: {lookup.failure}"
            if target.failure and not target.next_try:
                target.next_try = now + target.pause
                target.pause = max(target.pause, min(2 * target.pause, self._options.reconnect_max))
                fields = {"side": self._side, "endpoint": target.asked, "error": target.failure}
                yield Report("peer.connect_retried", fields)
                if not target.address:
                    target.failure = ""

    def moves(self) -> Iterator[Move]:
        """What is to be changed: names that have another address than before, and endpoints that
        libzmq does not try by itself."""
        now = time.monotonic()
        for target in self._targets:
            found = target.lookup.take() if target.lookup is not None else None
            address, ipv6 = (target.address, False) if found is None else _endpoint(*found)
            if address != target.address:
                yield Move(target.address if target.has else "", address, ipv6)
                target.address, target.has = address, True
                target.failure, target.next_try = "", 0.0
            elif target.failure and target.has:
                # At once, for what libzmq remembers of it is not to be taken for something newer.
                yield Move(target.address, "")
                target.has = False
            elif target.failure and 0 < target.next_try <= now:
                yield Move("", target.address)
                target.failure, target.next_try, target.has = "", 0.0, True


def _endpoint(family: socket.AddressFamily, found: SocketAddress) -> tuple[str, bool]:
    """An address as libzmq names it, and whether it is of IPv6."""
    host, port, *_ = found
    return _tcp(str(host), port), family == socket.AF_INET6


def _tcp(host: str, port: object) -> str:
    address = ipaddress.ip_address(host)
    return f"tcp://[{address}]:{port}" if address.version == 6 else f"tcp://{address}:{port}"
