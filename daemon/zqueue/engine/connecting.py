"""The names that a side of the libzmq engine connects to.

libzmq would look a name up in its I/O thread, at each try, and all of the queue would wait for the
name server. So names are looked up here, and libzmq is told addresses only.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import zmq

from zqueue import endpoints
from zqueue.engine import Report, Side, SocketPlan
from zqueue.engine.lookup import Lookup, is_address


@dataclass
class _Name:
    asked: str
    lookup: Lookup
    pause: float
    address: str = ""
    next_try: float = 0.0


@dataclass(frozen=True)
class Move:
    """A name has this address now, as an endpoint, and had another ``before``, or none."""

    before: str
    address: str
    ipv6: bool

    def make(self, sock: zmq.Socket[bytes]) -> None:
        """Connect there, and no more where it was before."""
        if self.before:
            with contextlib.suppress(zmq.ZMQError):
                sock.disconnect(self.before)
        if self.ipv6:
            sock.ipv6 = True
        sock.connect(self.address)


class Connecting:
    """The endpoints of ``plan`` that ``sock`` is to connect to: addresses and paths at once, names
    by the :meth:`moves` that they make."""

    def __init__(self, side: Side, sock: zmq.Socket[bytes], plan: SocketPlan) -> None:
        self._side = side
        self._options = plan.options
        self._names: list[_Name] = []
        for endpoint in plan.connect:
            parsed = endpoints.parse(endpoint, "connect")
            if parsed.transport == "ipc" or is_address(parsed.host):
                sock.connect(endpoint)
            else:
                lookup = Lookup(parsed.host, parsed.port, plan.options.ipv6)
                self._names.append(_Name(endpoint, lookup, plan.options.reconnect))

    def asked(self, endpoint: str) -> str:
        """What the config calls an endpoint that libzmq names."""
        return next((name.asked for name in self._names if name.address == endpoint), endpoint)

    def retried(self, asked: str) -> None:
        """A connection to this endpoint failed: it may have moved."""
        for name in self._names:
            if name.asked == asked:
                name.lookup.find()

    def reports(self) -> Iterator[Report]:
        """Look up again, after a pause, what is not known; tell of each time."""
        now = time.monotonic()
        for name in self._names:
            if name.address or name.lookup.searching or not name.lookup.failure:
                continue
            if not name.next_try:
                name.next_try = now + name.pause
                name.pause = max(name.pause, min(2 * name.pause, self._options.reconnect_max))
                yield Report(
                    "peer.connect_retried",
                    {
                        "side": self._side,
                        "endpoint": name.asked,
                        "error": f"its name is not known: {name.lookup.failure}",
                    },
                )
            elif now >= name.next_try:
                name.next_try = 0.0
                name.lookup.find()

    def moves(self) -> Iterator[Move]:
        """Those that have another address than before."""
        for name in self._names:
            found = name.lookup.take()
            if found is None:
                continue
            family, (host, port, *_) = found
            ipv6 = family == socket.AF_INET6
            address = f"tcp://[{host!s}]:{port!s}" if ipv6 else f"tcp://{host!s}:{port!s}"
            if address != name.address:
                before, name.address = name.address, address
                yield Move(before, address, ipv6)
