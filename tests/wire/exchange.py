"""Peers of an :class:`Exchange`, the wire engine's state machine without sockets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.wire.fuzz import ENDS
from tests.wire.raw import COMMAND, MORE, Metadata, Reader, Version, hello, message
from zqueue.engine.wire.exchange import Exchange

FORWARD, HOLD, DRAIN = range(3)
MARKED = [[b"died of ", "reason", b" after ", "attempts"]]
"""An ``error_reply`` as an exchange takes it, by which it is known of what a request has died."""


class Driven:
    """One peer of an exchange. ``got`` are the messages that came, ``commands`` the commands."""

    def __init__(
        self,
        exchange: Exchange,
        side: int,
        type: str,
        *,
        identity: bytes = b"",
        version: Version = (3, 1),
        metadata: Metadata = (),
    ) -> None:
        self.exchange = exchange
        self.number = exchange.connect(side)
        self.got: list[list[bytes]] = []
        self.commands: list[bytes] = []
        self._reader = Reader()
        self._frames: list[bytes] = []
        self.feed(hello(type, version, identity, metadata))
        if self.is_there:
            self._reader.feed(exchange.output(self.number))
            assert self._reader.take(64 if version[0] >= 3 else 12) is not None
            assert self._reader.frame() is not None, "READY, or the identity of a 2.0 peer"

    @property
    def is_there(self) -> bool:
        return self.number in self.exchange.peers

    def feed(self, data: bytes) -> None:
        self.exchange.feed(self.number, data)

    def send(self, *frames: bytes) -> None:
        self.feed(message(frames))

    def hear(self, most: int = 1 << 62) -> list[list[bytes]]:
        """Take what was sent to it; the messages that became whole by it."""
        self._reader.feed(self.exchange.output(self.number, most))
        before = len(self.got)
        while (heard := self._reader.frame()) is not None:
            flags, body = heard
            if flags & COMMAND:
                self.commands.append(body)
                continue
            self._frames.append(body)
            if not flags & MORE:
                self.got.append(self._frames)
                self._frames = []
        return self.got[before:]

    def answer(self, request: Sequence[bytes], body: bytes | None = None) -> None:
        self.send(*request[:-1], request[-1] if body is None else body)

    def close(self) -> None:
        self.exchange.close(self.number)


def client(exchange: Exchange, type: str = "DEALER", **how: Any) -> Driven:
    return Driven(exchange, 0, type, **how)


def worker(exchange: Exchange, type: str = "REP", **how: Any) -> Driven:
    return Driven(exchange, 1, type, **how)


def ask(asker: Driven, *names: bytes) -> None:
    """Requests that are told apart by their envelope; their body is their name, too."""
    for name in names:
        asker.send(name, b"", name)


def bodies(messages: list[list[bytes]]) -> list[bytes]:
    return [frames[-1] for frames in messages]


def assert_adds_up(exchange: Exchange) -> None:
    counted = exchange.counters
    now = ("waiting", "in_flight", "kept")
    assert counted["received"] == sum(counted[each] for each in (*now, *ENDS)), counted


def assert_nothing_is_left(exchange: Exchange) -> None:
    """When everybody has left, nothing is held for anybody."""
    for number in exchange.peers:
        exchange.close(number)
    exchange.advance(1e6)  # for those who might have come back
    exchange.deaths()
    assert_adds_up(exchange)
    assert set(exchange.live.values()) == {0}, exchange.live
