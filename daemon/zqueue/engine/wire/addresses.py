"""The address of a connect endpoint as the kernel wants it, looked up without waiting for it."""

from __future__ import annotations

import socket
import struct
import sys
import threading

from zqueue import endpoints


class Address:
    """The address of one endpoint. A name is looked up in a thread of its own, for a name server
    that does not answer must hold up nobody."""

    def __init__(self, endpoint: str, ipv6: bool) -> None:
        self._endpoint = endpoints.parse(endpoint, "connect")
        self._ipv6 = ipv6 or ":" in self._endpoint.host
        self._found: bytes | None = None
        self._searching = False
        self.find()

    def find(self) -> None:
        """Look it up, anew if it was found before: names move."""
        if self._endpoint.transport == "ipc":
            self._found = _unix(self._endpoint)
        elif not self._searching:
            self._searching = True
            threading.Thread(target=self._search, name="zq.resolve", daemon=True).start()

    def take(self) -> bytes | None:
        """The address as a ``struct sockaddr``, once after each time that it was found."""
        found, self._found = self._found, None
        return found

    def _search(self) -> None:
        try:
            found = socket.getaddrinfo(
                self._endpoint.host, self._endpoint.port, type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError):
            return
        finally:
            self._searching = False
        wanted = [each for each in found if self._ipv6 or each[0] == socket.AF_INET] or found
        self._found = _inet(wanted[0][0], wanted[0][4])


def _inet(
    family: int, address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
) -> bytes:
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
