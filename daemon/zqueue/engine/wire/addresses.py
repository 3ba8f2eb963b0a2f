"""The address of a connect endpoint as the kernel wants it, looked up without waiting for it."""

from __future__ import annotations

import socket
import struct
import sys

from zqueue import endpoints
from zqueue.engine.lookup import Lookup, SocketAddress


class Address:
    """The address of one endpoint."""

    def __init__(self, endpoint: str, ipv6: bool) -> None:
        self._endpoint = endpoints.parse(endpoint, "connect")
        self._lookup: Lookup | None = None
        self._path: bytes | None = None
        if self._endpoint.transport == "tcp":
            self._lookup = Lookup(self._endpoint.host, self._endpoint.port, ipv6)
        else:
            self.find()

    @property
    def error(self) -> str:
        """Why its name was not found the last time, or nothing."""
        failure = self._lookup.failure if self._lookup is not None else ""
        return f"its name is not known: {failure}" if failure else ""

    def find(self) -> None:
        """Look it up, anew if it was found before: names move."""
        if self._lookup is not None:
            self._lookup.find()
        else:
            self._path = _unix(self._endpoint)

    def take(self) -> bytes | None:
        """The address as a ``struct sockaddr``, once after each time that it was found."""
        if self._lookup is not None:
            found = self._lookup.take()
            return _inet(*found) if found is not None else None
        path, self._path = self._path, None
        return path


def _inet(family: int, address: SocketAddress) -> bytes:
    host, port = str(address[0]), int(address[1])
    if family == socket.AF_INET:
        return (
            struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
        )
    flow, scope = (int(address[2]), int(address[3])) if len(address) == 4 else (0, 0)
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return (
        struct.pack("=H", family)
        + struct.pack("!HI", port, flow)
        + packed
        + scope.to_bytes(4, sys.byteorder)
    )


def _unix(endpoint: endpoints.Endpoint) -> bytes:
    name = endpoint.address.encode()
    path = b"\0" + name[1:] if endpoint.abstract else name + b"\0"
    return struct.pack("=H", socket.AF_UNIX) + path
