"""Endpoints as a config writes them: ``tcp://host:port`` and ``ipc://path``."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Literal

LONGEST_IPC_PATH = 107
"""Bytes that a unix socket's path may have (``sun_path`` less its end, unix(7))."""

_TCP = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*):(?P<port>[^:]*)", re.DOTALL)
_HOST = re.compile(r"\*|[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?")
_KNOWN_ELSEWHERE = {"inproc", "pgm", "epgm", "tipc", "vmci", "udp", "ws", "wss", "norm"}

_EVERYWHERE = {"*", "0.0.0.0", "::"}
_HERE = {"127.0.0.1", "::1"}


@dataclass(frozen=True)
class Endpoint:
    """One endpoint, taken apart.

    ``address`` is what follows ``://``. tcp has ``host`` (without brackets; ``*`` is all
    addresses) and ``port`` (``None``: the kernel chooses); ipc has ``path``, or with ``abstract`` a
    name without a file.
    """

    transport: Literal["tcp", "ipc"]
    address: str
    host: str = ""
    port: int | None = None
    path: str = ""
    abstract: bool = False


@functools.lru_cache(1024)
def parse(text: str, use: Literal["bind", "connect"]) -> Endpoint:
    """Take ``text`` apart, as an endpoint to bind to or to connect to.

    Raises:
        ValueError: it is none; the message says why, and what one looks like.
    """
    transport, separator, address = text.partition("://")
    if not separator:
        raise ValueError('an endpoint looks like "tcp://*:5559" or "ipc:///run/zqueue/name.sock"')
    if transport == "tcp":
        return _tcp(address, use)
    if transport == "ipc":
        return _ipc(address, use)
    if transport in _KNOWN_ELSEWHERE:
        raise ValueError(f'the transport "{transport}" is not for a daemon; use tcp or ipc')
    raise ValueError(f'there is no transport "{transport}"; use tcp or ipc')


def overlaps(one: Endpoint, other: Endpoint) -> bool:
    """Whether two sockets could not both be bound to these."""
    if one.transport != other.transport:
        return False
    if one.transport == "ipc":
        return one.address != "*" and normal_path(one) == normal_path(other)
    if one.port is None or one.port != other.port:
        return False
    hosts = {_normal_host(one.host), _normal_host(other.host)}
    return len(hosts) == 1 or not hosts.isdisjoint(_EVERYWHERE)


def reaches(connecting: Endpoint, bound: Endpoint) -> bool:
    """Whether who connects to ``connecting`` on this machine comes to the socket at ``bound``."""
    if connecting.transport != bound.transport:
        return False
    if connecting.transport == "ipc":
        return bound.address != "*" and normal_path(connecting) == normal_path(bound)
    if bound.port is None or connecting.port != bound.port:
        return False
    host = _normal_host(connecting.host)
    return host == _normal_host(bound.host) or (host in _HERE and bound.host in _EVERYWHERE)


def normal_path(endpoint: Endpoint) -> str:
    """An ipc address with what does not matter taken out: ``/run//a/../b`` is ``/run/b``."""
    if endpoint.abstract:
        return endpoint.address
    return re.sub("^//", "/", os.path.normpath(endpoint.address))


def _normal_host(host: str) -> str:
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    host = host.lower().rstrip(".")
    return "127.0.0.1" if host == "localhost" else host


def _tcp(address: str, use: Literal["bind", "connect"]) -> Endpoint:
    found = _TCP.fullmatch(address)
    if found is None:
        example = "tcp://*:5559" if use == "bind" else "tcp://host:5559"
        raise ValueError(f'a tcp endpoint is tcp://HOST:PORT, such as "{example}"')
    host, port = found["host"], found["port"]
    if host.startswith("["):
        host = host[1:-1]
        if not _IPV6.fullmatch(host):
            raise ValueError(f'"{host}" is not an IPv6 address')
    elif not host:
        raise ValueError("the host is missing" + (" (* is all addresses)" if use == "bind" else ""))
    elif not _HOST.fullmatch(host):
        raise ValueError(f'"{host}" is neither an address nor a host name')
    if use == "connect" and host in ("*", "0.0.0.0", "::"):
        raise ValueError("to connect takes a host, not all addresses")
    return Endpoint("tcp", address, host=host, port=_port(port, use))


def _port(text: str, use: Literal["bind", "connect"]) -> int | None:
    if use == "bind" and text in ("*", "0"):
        return None
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        choose = ", or * to let the kernel choose" if use == "bind" else ""
        raise ValueError(f'"{text[:20]}" is not a port: a number from 1 to 65535{choose}')
    return int(text)


def _ipc(address: str, use: Literal["bind", "connect"]) -> Endpoint:
    if not address:
        raise ValueError("the path is missing; ipc:///run/zqueue/name.sock has one")
    if "\0" in address:
        raise ValueError("a path has no zero byte in it")
    if address == "*" and use == "connect":
        raise ValueError("to connect takes a path")
    abstract = address.startswith("@")
    if abstract and len(address) == 1:
        raise ValueError("the name after the @ is missing")
    length = len(address.encode("utf-8", "surrogateescape"))
    if length > LONGEST_IPC_PATH:
        raise ValueError(
            f"the path has {length} bytes; a unix socket's may have {LONGEST_IPC_PATH}"
        )
    if address.endswith("/"):
        raise ValueError("that is a folder; the path of a socket is wanted")
    return Endpoint("ipc", address, path="" if abstract else address, abstract=abstract)
