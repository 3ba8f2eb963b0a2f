"""ZMTP over a plain socket, written down byte by byte: peers that can do what libzmq's never do."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType

from tests.waiting import DEADLINE

MORE, LONG, COMMAND = 1, 2, 4
NUMBERS = {"PAIR": 0, "PUB": 1, "SUB": 2, "REQ": 3, "REP": 4, "DEALER": 5, "ROUTER": 6, "PULL": 7}
"""The socket types as ZMTP 2.0 writes them."""

Version = tuple[int, int]
Metadata = Iterable[tuple[bytes, bytes]]
VERSIONS: list[Version] = [(3, 1), (3, 0), (2, 0)]


def frame(body: bytes, flags: int = 0, *, long: bool = False) -> bytes:
    """A frame; ``long``: with a length of eight bytes even if one would do."""
    if long or len(body) > 255:
        return bytes([flags | LONG]) + len(body).to_bytes(8, "big") + body
    return bytes([flags, len(body)]) + body


def message(frames: Sequence[bytes], *, long: bool = False) -> bytes:
    *firsts, last = frames
    return b"".join(frame(body, MORE, long=long) for body in firsts) + frame(last, long=long)


def command(name: bytes, body: bytes = b"") -> bytes:
    return frame(bytes([len(name)]) + name + body, COMMAND)


def ping(ttl: int = 0, context: bytes = b"") -> bytes:
    """``ttl`` in tenths of a second."""
    return command(b"PING", ttl.to_bytes(2, "big") + context)


def ready(type: str, identity: bytes = b"", metadata: Metadata = ()) -> bytes:
    properties = [(b"Socket-Type", type.encode()), (b"Identity", identity), *metadata]
    return command(
        b"READY",
        b"".join(
            bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
            for name, value in properties
        ),
    )


def greeting(version: Version = (3, 1), mechanism: bytes = b"NULL", type: str = "REQ") -> bytes:
    signature = b"\xff" + bytes(7) + b"\x01\x7f"
    if version[0] < 3:
        return signature + bytes([1, NUMBERS[type]])
    return signature + bytes(version) + mechanism.ljust(20, b"\0") + bytes(32)


def hello(
    type: str, version: Version = (3, 1), identity: bytes = b"", metadata: Metadata = ()
) -> bytes:
    """All that a peer says until it may send messages."""
    said = greeting(version, type=type)
    return said + (frame(identity) if version[0] < 3 else ready(type, identity, metadata))


def address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def local_address(endpoint: str) -> str:
    path = endpoint.removeprefix("ipc://")
    return "\0" + path[1:] if path.startswith("@") else path


class Gone(Exception):
    """The other side has closed the connection."""


class Reader:
    """What the other side says: its greeting first, then frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> None:
        self._bytes += data

    def take(self, size: int) -> bytes | None:
        if len(self._bytes) < size:
            return None
        taken = bytes(self._bytes[:size])
        del self._bytes[:size]
        return taken

    def frame(self) -> tuple[int, bytes] | None:
        """The flags and the body of the next frame, if it is whole."""
        if len(self._bytes) < 2:
            return None
        flags, head = self._bytes[0], 9 if self._bytes[0] & LONG else 2
        size = int.from_bytes(self._bytes[1:head], "big")
        if len(self._bytes) < head + size:
            return None
        whole = self.take(head + size)
        assert whole is not None
        return flags & ~LONG, whole[head:]


class RawPeer:
    """A connection to an endpoint, which has shaken hands unless ``shake`` is False."""

    def __init__(
        self,
        endpoint: str,
        type: str,
        *,
        version: Version = (3, 1),
        identity: bytes = b"",
        metadata: Metadata = (),
        shake: bool = True,
        byte_by_byte: bool = False,
        source: str = "",
        receive_buffer: int = 0,
        answers_pings: bool = False,
    ) -> None:
        self.type, self.version, self.identity = type, version, identity
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self._answers_pings = answers_pings
        self._reader = Reader()
        is_local = endpoint.startswith("ipc://")
        self.socket = socket.socket(socket.AF_UNIX if is_local else socket.AF_INET)
        self.socket.settimeout(DEADLINE)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if is_local:
            self.socket.connect(local_address(endpoint))
            self.name = f"ipc:pid={os.getpid()},uid={os.getuid()}"
        else:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # By itself the kernel takes the same port soon again, for a connection to another
            # endpoint; by their names those two could not be told apart.
            self.socket.bind((source, 0))
            self.socket.connect(address(endpoint))
            self.name = "tcp://{}:{}".format(*self.socket.getsockname())
        if shake:
            self.say(hello(type, version, identity, metadata), byte_by_byte=byte_by_byte)
            self.heard_hello()

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close it with a RST, as a process does that leaves something unread."""
        at_once = struct.pack("=ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.close()

    def say(self, data: bytes, *, byte_by_byte: bool = False) -> None:
        if byte_by_byte:
            for at in range(len(data)):
                self.socket.sendall(data[at : at + 1])
        else:
            self.socket.sendall(data)

    def send(self, *frames: bytes, long: bool = False) -> None:
        self.say(message(frames, long=long))

    def _hear(self) -> None:
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Gone
        self._reader.feed(data)

    def exactly(self, size: int) -> bytes:
        while (data := self._reader.take(size)) is None:
            self._hear()
        return data

    def frame(self) -> tuple[int, bytes]:
        while (heard := self._reader.frame()) is None:
            self._hear()
        return heard

    def heard_hello(self) -> str:
        """Read the other side's greeting and introduction; its socket type."""
        begin = self.exactly(11)
        assert begin == b"\xff" + bytes(7) + b"\x01\x7f\x03"
        if self.version[0] < 3:
            number = self.exactly(1)[0]
            assert self.frame() == (0, b"")
            return next(name for name, value in NUMBERS.items() if value == number)
        rest = self.exactly(53)
        assert rest[1:21] == b"NULL".ljust(20, b"\0")
        flags, body = self.frame()
        assert flags == COMMAND
        assert body.startswith(b"\x05READY\x0bSocket-Type")
        size = int.from_bytes(body[18:22], "big")
        return body[22 : 22 + size].decode()

    def receive(self) -> list[bytes]:
        """The next message; PINGs and PONGs between its frames and before it are kept."""
        frames = []
        while True:
            flags, body = self.frame()
            if flags & COMMAND:
                self._command(body)
                continue
            frames.append(body)
            if not flags & MORE:
                return frames

    def _command(self, body: bytes) -> None:
        if body.startswith(b"\x04PONG"):
            self.pongs.append(body[5:])
        elif body.startswith(b"\x04PING"):
            self.pings.append(body[5:])
            if self._answers_pings:
                self.say(command(b"PONG", body[7:]))
        else:
            raise AssertionError(f"an unforeseen command: {body!r}")

    def commands(self) -> Iterator[bytes]:
        """The commands that come, for as long as they do."""
        while True:
            flags, body = self.frame()
            assert flags == COMMAND
            yield body

    def serve(self, requests: int, answer: bytes = b"") -> list[bytes]:
        """Answer so many requests as a worker does; their bodies."""
        bodies = []
        for _ in range(requests):
            *envelope, body = self.receive()
            self.send(*envelope, answer or body)
            bodies.append(body)
        return bodies

    def ask(self, body: bytes) -> bytes:
        """Send one request with an empty delimiter and wait for its reply."""
        self.send(b"", body)
        delimiter, reply = self.receive()
        assert delimiter == b""
        return reply

    def farewell(self) -> str:
        """Wait until the other side has closed; the reason if it said ERROR before."""
        reason = ""
        with contextlib.suppress(Gone):
            while True:
                flags, body = self.frame()
                if flags == COMMAND and body.startswith(b"\x05ERROR"):
                    assert len(body) == 7 + body[6]
                    reason = body[7:].decode()
        return reason
