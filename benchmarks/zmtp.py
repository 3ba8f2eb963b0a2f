"""As much of ZMTP 3.1 (RFC 37/ZMTP) as a load generator needs: NULL handshake and frames.

A libzmq peer costs several microseconds a message, as much as the broker that is to be measured.
Bytes encoded once and sent again and again cost next to nothing.
"""

from __future__ import annotations

import socket

_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
_MORE, _LONG, _COMMAND = 1, 2, 4
_HANDSHAKE_WITHIN = 20.0


def connect(endpoint: str, socket_type: str) -> socket.socket:
    """A blocking connection to ``tcp://HOST:PORT``, its handshake done.

    Raises:
        OSError: nobody listens there, or it hung up.
        ValueError: the other side does not answer as ZMTP with NULL would.
    """
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    peer = socket.create_connection((host, int(port)), timeout=_HANDSHAKE_WITHIN)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.sendall(_GREETING + _ready(socket_type))
    greeting = receive(peer, len(_GREETING))
    if greeting[:1] != b"\xff" or greeting[12:17] != b"NULL\0":
        raise ValueError(f"{endpoint} does not speak ZMTP 3 with NULL: {greeting!r}")
    flags, size = receive(peer, 2)
    body = receive(peer, size)
    if flags != _COMMAND or not body.startswith(b"\x05READY"):
        raise ValueError(f"{endpoint} did not answer the handshake with READY: {body!r}")
    return peer


def request(body: bytes) -> bytes:
    """A request as a DEALER sends it, and as its reply comes back: empty delimiter, then body."""
    return _frame(b"", _MORE) + _frame(body)


def receive(peer: socket.socket, count: int) -> bytes:
    """Exactly ``count`` bytes of a blocking connection.

    Raises:
        ConnectionError: the other side hung up.
    """
    received = bytearray()
    while len(received) < count:
        part = peer.recv(count - len(received))
        if not part:
            raise ConnectionError("the broker closed the connection")
        received += part
    return bytes(received)


def _ready(socket_type: str) -> bytes:
    name, value = b"Socket-Type", socket_type.encode()
    body = b"\x05READY" + bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
    return _frame(body, _COMMAND)


def _frame(body: bytes, flags: int = 0) -> bytes:
    if len(body) > 255:
        return bytes([flags | _LONG]) + len(body).to_bytes(8, "big") + body
    return bytes([flags, len(body)]) + body
