"""Which families of addresses this machine has besides the loopback."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915
_IF_INET6 = Path("/proc/net/if_inet6")
_INTERFACES = Path("/sys/class/net")
_GLOBAL = "00"


def ipv4_of(interface: str) -> str | None:
    """The IPv4 address of an interface, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("256s", interface[:15].encode()))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


def has_only_ipv6() -> bool:
    """Whether it can be reached by IPv6 from elsewhere, and by IPv4 not at all."""
    with contextlib.suppress(OSError):
        lines = [line.split() for line in _IF_INET6.read_text().splitlines()]
        if not any(len(line) > 3 and line[3] == _GLOBAL for line in lines):
            return False
        # Not socket.if_nameindex(), which needs a netlink socket: a hardened unit has none.
        found = (ipv4_of(interface.name) for interface in _INTERFACES.iterdir())
        return not any(address and not address.startswith("127.") for address in found)
    return False
