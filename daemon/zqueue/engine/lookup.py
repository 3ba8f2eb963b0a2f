"""A host's address, looked up without waiting for it."""

from __future__ import annotations

import ipaddress
import socket
import threading
from typing import TypeAlias

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
"""As :func:`socket.getaddrinfo` has it."""


class Lookup:
    """Looks up the address of ``host`` and ``port``, in a thread of its own: a name server that
    does not answer must hold up nobody. With ``ipv6`` it may be an IPv6 address where there is a
    choice."""

    def __init__(self, host: str, port: int | None, ipv6: bool) -> None:
        self._host, self._port = host, port
        self._ipv6 = ipv6 or ":" in host
        self._found: tuple[socket.AddressFamily, SocketAddress] | None = None
        self.searching = False
        self.failure = ""
        """Why it was not found the last time, or nothing."""
        self.find()

    def find(self) -> None:
        """Look it up, anew if it was found before: names move."""
        if is_address(self._host):
            self._search()  # nobody need be asked
        elif not self.searching:
            self.searching = True
            threading.Thread(target=self._search, name="zq.resolve", daemon=True).start()

    def take(self) -> tuple[socket.AddressFamily, SocketAddress] | None:
        """Its family and address, once after each time that it was found."""
        found, self._found = self._found, None
        return found

    def _search(self) -> None:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self.failure = getattr(error, "strerror", None) or str(error)
            return
        finally:
            self.searching = False
        wanted = [each for each in found if self._ipv6 or each[0] == socket.AF_INET] or found
        self.failure = ""
        self._found = wanted[0][0], wanted[0][4]


def is_address(host: str) -> bool:
    """Whether ``host`` is an address, and no name that would have to be looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
