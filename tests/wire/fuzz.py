"""Feeds the wire engine's state machine and decoder bytes that nobody should send.

``python -m tests.wire.fuzz --seconds 60 --seed N`` plays scenes until the time is up: several peers
with whole, mutated and random streams, split anywhere and mixed, that leave at any moment, while
time passes, the queue is steered, tapped and listed, requests die and are asked again, and another
process takes over. After every step the counters must add up, what was copied for the tap must be
what was sent, nobody may have got what it must not, and nothing may be due in the past; at the end
of a scene nothing may be left. A state that was changed, and given a right checksum again, is
refused with the reason, or makes sense. The decoder is compared with one in plain Python. A
failure, a crash of the process too, is told with what replays it: ``--seed N --first K --scenes
1``. It is meant for the extension with sanitizers; see ``test_sanitized``.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import mmap
import os
import random
import struct
import sys
import time
import traceback
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from zqueue.engine.wire.exchange import Exchange
from zqueue.engine.wire.reports import WORKER_ANSWERS_AGAIN, WORKER_SET_ASIDE
from zqueue.engine.wire.zmtp import Decoder, ProtocolError

FRONTEND, BACKEND = 0, 1
ASKED_AGAIN = 0
"""Nobody's number."""
MORE, LONG, COMMAND = 1, 2, 4
LONGEST_COMMAND = 65536
ENDS = (
    *("replied", "unclaimed", "withdrawn", "dead", "rejected", "malformed"),
    "unanswered",
)
CAUSES = (
    *("max_attempts", "worker_lost", "service_timeout"),
    *("deadline", "max_waiting_time", "queue_full"),
)
"""Why a request dies, in the order of entities.pxd."""
_TOTALS = (
    *("received", *ENDS, "returned", "retried", "error_replies", "late_replies", "extra_replies"),
    *("dropped_replies", "protocol_errors", "slow_clients", "unrecorded"),
)
_SIGNATURE = b"\xff" + bytes(7) + b"\x01\x7f"
_NUMBERS_2_0 = {b"REQ": 3, b"REP": 4, b"DEALER": 5, b"ROUTER": 6, b"PUB": 1}
_TRICKY_LENGTHS = (0, 1, 255, 256, 4095, 4096, 65535, 65536, 65537, 1 << 31, 1 << 62, (1 << 64) - 1)
_MAY_NOT_BE_HAD = 1 << 26
STATE_HEAD = len(b"zqueue wire state\n") + 16
"""Bytes of a queue's state before what its checksum is of: what it is, format, checksum."""


# -- bytes ---------------------------------------------------------------------------------------


def frame(flags: int, body: bytes) -> bytes:
    if len(body) < 256 and not flags & LONG:
        return bytes((flags, len(body))) + body
    return bytes((flags | LONG,)) + struct.pack(">Q", len(body)) + body


def message(frames: list[bytes], flags: int = 0) -> bytes:
    """The frames of one message; ``flags`` may have LONG, which is allowed for short ones too."""
    last = len(frames) - 1
    return b"".join(
        frame(flags | (MORE if place < last else 0), body) for place, body in enumerate(frames)
    )


def command(name: bytes, body: bytes = b"") -> bytes:
    return frame(COMMAND, bytes((len(name),)) + name + body)


def metadata(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + struct.pack(">I", len(value)) + value


def handshake(kind: bytes, identity: bytes = b"", version: tuple[int, int] = (3, 1)) -> bytes:
    """All that a peer sends before its first message."""
    if version[0] < 3:
        return _SIGNATURE + bytes((1, _NUMBERS_2_0[kind])) + frame(0, identity)
    greeting = _SIGNATURE + bytes(version) + b"NULL".ljust(20, b"\0") + bytes(32)
    return greeting + command(
        b"READY", metadata(b"Socket-Type", kind) + metadata(b"Identity", identity)
    )


class Reader:
    """Takes what the engine sends to a peer, and gives the messages in it."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._greeting = 0
        self._frames: list[bytes] = []
        self.error = False

    def feed(self, data: bytes) -> list[list[bytes]]:
        self._bytes += data
        whole: list[list[bytes]] = []
        while not self._greeting:
            if len(self._bytes) < 12:
                return []
            # 3.x: 64 bytes; 2.0: the socket type behind the version, and an empty identity.
            self._greeting = 64 if self._bytes[11] < 3 and self._bytes[12:16] == b"NULL" else 14
            if len(self._bytes) < 16 and self._bytes[11] == 1:
                self._greeting = 0
                return []
        if self._greeting > 0:
            if len(self._bytes) < self._greeting:
                return []
            del self._bytes[: self._greeting]
            self._greeting = -1
        while len(self._bytes) >= 2:
            flags = self._bytes[0]
            head = 9 if flags & LONG else 2
            if len(self._bytes) < head:
                break
            size = int.from_bytes(self._bytes[1:head], "big")
            if len(self._bytes) < head + size:
                break
            body = bytes(self._bytes[head : head + size])
            del self._bytes[: head + size]
            if flags & COMMAND:
                self.error = self.error or body.startswith(b"\x05ERROR")
                continue
            self._frames.append(body)
            if not flags & MORE:
                whole.append(self._frames)
                self._frames = []
        return whole


def mutated(rng: random.Random, data: bytes) -> bytes:
    """``data`` with a few things wrong."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed) + 1)
        how = rng.randrange(7)
        if how == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif how == 1 and at < len(changed):
            changed[at] = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 0x7F, 0xFF))
        elif how == 2:
            changed[at:at] = rng.randbytes(rng.randrange(1, 20))
        elif how == 3:
            del changed[at : at + rng.randrange(1, 20)]
        elif how == 4:
            changed[at:at] = changed[at : at + rng.randrange(1, 80)]
        elif how == 5:
            changed[at : at + 8] = struct.pack(">Q", rng.choice(_TRICKY_LENGTHS))
        else:
            del changed[at:]
    return bytes(changed)


def some_body(rng: random.Random) -> bytes:
    size = rng.choice((0, 1, 3, 8, 40, 255, 256, 1000, 1024, 1025, 2048, 5000, 9000, 70000))
    return rng.randbytes(rng.randrange(size + 1)) if rng.random() < 0.5 else bytes(min(size, 9000))


def some_frames(rng: random.Random) -> list[bytes]:
    kind = rng.randrange(6)
    if kind < 3:
        return [b"", some_body(rng)]
    if kind == 3:
        return [rng.randbytes(rng.randrange(6)) for _ in range(rng.randrange(1, 8))]
    if kind == 4:
        return [*(rng.randbytes(3) for _ in range(rng.randrange(3))), b"", b"x", some_body(rng)]
    return [some_body(rng)]


def some_command(rng: random.Random) -> bytes:
    kind = rng.randrange(8)
    if kind < 3:
        ttl = rng.choice((0, 0, 1, 10, 65535))
        return command(b"PING", struct.pack(">H", ttl) + rng.randbytes(rng.choice((0, 5, 16, 17))))
    if kind == 3:
        return command(b"PONG", rng.randbytes(rng.randrange(4)))
    if kind == 4:
        return command(b"ERROR", b"\x02no")
    if kind == 5:
        return frame(COMMAND, rng.randbytes(rng.randrange(3)))
    if kind == 6:
        return command(b"READY", metadata(b"Socket-Type", b"REQ"))
    return command(b"SUBSCRIBE", bytes(rng.choice((1, 300, 5000, 65526, 65527))))


def some_stream(rng: random.Random, calm: bool = False) -> bytes:
    """Messages and commands, some of the commands in the midst of a message."""
    parts = []
    for _ in range(rng.randrange(1, 7)):
        if calm and rng.random() < 0.9:
            parts.append(message([b"", some_body(rng)]))
        elif rng.random() < 0.25:
            parts.append(some_command(rng))
        else:
            frames = some_frames(rng)
            flags = LONG if rng.random() < 0.1 else 0
            if len(frames) > 1 and rng.random() < 0.15:
                cut = rng.randrange(1, len(frames))
                begun = message([*frames[:cut], b""], flags)
                parts.append(begun[: -9 if flags else -2])
                parts.append(some_command(rng))
                parts.append(message(frames[cut:], flags))
            else:
                parts.append(message(frames, flags))
    return b"".join(parts)


# -- scenes --------------------------------------------------------------------------------------


class _Peer:
    """Somebody who speaks to the queue. ``calm`` ones do mostly what they should."""

    def __init__(self, rng: random.Random, side: int, calm: bool) -> None:
        usual = (b"REQ", b"DEALER", b"ROUTER") if side == FRONTEND else (b"REP", b"REP", b"DEALER")
        self.side = side
        self.calm = calm
        self.kind = rng.choice(usual) if calm else rng.choice((*usual, *usual, b"PUB", b"ROUTER"))
        self.reader = Reader()
        self.strays = not calm and rng.random() < 0.2
        version = rng.choice(((3, 1), (3, 1), (3, 0), (2, 0)))
        identity = rng.choice((b"", b"", b"a", b"b", rng.randbytes(rng.choice((1, 5, 255)))))
        opening = handshake(self.kind, identity, version)
        if rng.random() < 0.1 and not calm:
            opening = mutated(rng, opening)
        if rng.random() < 0.03 and not calm:
            opening = rng.randbytes(rng.randrange(100))
        self.pending = bytearray(opening)
        if side == FRONTEND or self.strays:
            self.say(rng, some_stream(rng, calm))

    def say(self, rng: random.Random, data: bytes) -> None:
        wrong = rng.random() < (0.01 if self.calm else 0.1)
        self.pending += mutated(rng, data) if wrong else data


starved = 0.0
"""In what share of the times a queue is to have no memory when it asks for some."""


def _memory_fails() -> bool:
    return starved > 0 or "ZQUEUE_FAULTS" in os.environ


def _opened(settings: dict[str, Any], seed: int) -> Exchange:
    exchange = Exchange(**settings)
    if starved and not exchange.starve(starved, seed):
        sys.exit("--starved needs a build with ZQUEUE_WIRE=debug or sanitize")
    return exchange


totals: Counter[str] = Counter()
"""What came of all scenes' requests so far."""


def some_settings(rng: random.Random) -> dict[str, Any]:
    """Some limits that are soon reached, and every policy."""
    return {
        "max_waiting": rng.choice((1, 2, 5, 100_000)),
        "max_waiting_bytes": rng.choice((1, 100, 5000, 1 << 30)),
        "client_waiting": rng.choice((0, 0, 1, 3)),
        "client_unsent": rng.choice((0, 500, 64 << 20)),
        "prefetch": rng.choice((0, 0, 1, 2, 10)),
        "max_attempts": rng.choice((0, 1, 2, 3)),
        "redeliver": rng.choice(("all", "all", "unstarted", "none")),
        "when_full": rng.choice(("hold", "hold", "reject", "oldest")),
        "deadline": rng.choice((0.0, 0.0, 1.0, 10.0)),
        "max_waiting_time": rng.choice((0.0, 0.0, 0.5, 5.0)),
        "service_timeout": rng.choice((0.0, 0.5, 3.0)),
        "client_grace": rng.choice((0.0, 2.0, 20.0)),
        "keep_for_gone_clients": rng.random() < 0.3,
        "error_reply": rng.choice(
            ((), ((b"died of ", "reason"), ("attempts",)), ((bytes(2000),),))
        ),
        "handover": rng.random() < 0.5,
        "handshake": rng.choice((0.0, 5.0)),
        "heartbeat": rng.choice((0.0, 0.0, 1.0)),
        "max_message_size": rng.choice((100, 6000, 1 << 20, 1 << 40)),
        "max_frames": rng.choice((3, 10, 1 << 20)),
    }


class _Books:
    """What must hold after every step, whatever was said."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.died = 0
        self.letters: list[tuple[bytes, list[bytes]]] = []
        """Dead letters, to be asked again."""
        self._settings = settings
        self._before: dict[str, Any] = {}
        self._aside: dict[int, int] = {}
        self._tried: dict[int, int] = {}

    def check(self, exchange: Exchange) -> None:
        counted = exchange.counters
        open_ones = counted["waiting"] + counted["in_flight"]
        ended = sum(counted[end] for end in ENDS)
        assert counted["received"] == open_ones + counted["kept"] + ended, counted
        self._check_deaths(exchange.deaths(), counted, exchange.now)
        live = exchange.live
        assert live["requests"] >= open_ones, (live, counted)
        assert all(number >= 0 for number in live.values()), live
        assert not counted["waiting_bytes"] or counted["waiting"], counted
        assert not counted["in_flight_bytes"] or counted["in_flight"], counted
        for name, value in self._before.items():
            assert counted[name] >= value, f"{name} has shrunk from {value} to {counted[name]}"
        self._before = {name: counted[name] for name in _TOTALS}
        assert not exchange.due or exchange.due > exchange.now, "due in the past"
        self._check_policies(counted)
        self._check_set_aside(exchange)

    def _check_deaths(
        self, deaths: list[dict[str, Any]], counted: dict[str, Any], now: int
    ) -> None:
        self.died += len(deaths)
        assert counted["dead"] == self.died + counted["unrecorded"] == sum(counted["died"])
        most = self._settings["max_attempts"]
        for death in deaths:
            assert death["received_at"] <= death["died_at"] <= now
            assert death["attempts"] >= len(death["history"])
            assert not most or death["attempts"] <= most
            assert death["frames"]
            assert death["client"]
            self.letters.append((death["client"], death["frames"]))
            times = [(each["given_at"], each["ended_at"]) for each in death["history"]]
            in_order = [at for both in times for at in both]
            assert in_order == sorted(in_order), "it was at two workers at once"

    def _check_policies(self, counted: dict[str, Any]) -> None:
        """Nothing happens that was not asked for."""
        asked = self._settings
        of = dict(zip(CAUSES, counted["died"], strict=True))
        assert asked["redeliver"] != "none" or not counted["returned"]
        assert asked["redeliver"] != "all" or not of["worker_lost"] + of["service_timeout"]
        assert asked["max_attempts"] or not of["max_attempts"]
        for name in ("deadline", "max_waiting_time", "service_timeout"):
            assert asked[name] or not of[name]
        assert asked["when_full"] == "oldest" or not of["queue_full"]
        assert asked["when_full"] == "reject" or not counted["rejected"]
        assert asked["client_grace"] or not counted["kept"]
        assert asked["error_reply"] or not counted["error_replies"]

    def _check_set_aside(self, exchange: Exchange) -> None:
        """It gets nothing until it answers, but one request after each ``service_timeout``."""
        there = set(exchange.peers)
        for kind, number, _ in exchange.notices():
            if kind == WORKER_ANSWERS_AGAIN:
                self._aside.pop(number, None)
            elif kind == WORKER_SET_ASIDE and number in there:
                self._aside[number] = exchange.outstanding(number)
                self._tried[number] = exchange.now
        self._aside = {number: had for number, had in self._aside.items() if number in there}
        for number, had in self._aside.items():
            has = exchange.outstanding(number)
            if has > had:
                waited = exchange.now - self._tried[number]
                timeout = int(self._settings["service_timeout"] * 1e9)
                assert has == had + 1, f"{number} is set aside, and got something"
                assert waited >= timeout, f"{number} is tried too soon"
                self._tried[number] = exchange.now
            self._aside[number] = has


class _Tap:
    """Somebody who taps the queue, reads quickly or hardly ever, and switches it off at times.

    ``said`` is what each peer has sent so far, by its number, and what was asked again.
    """

    def __init__(self, rng: random.Random, said: dict[int, bytearray]) -> None:
        self._rng = rng
        self._said = said
        self._on = False
        self._most = self._taken = 0
        self._passed_before = self._missed_before = 0
        self._newest = 0
        self._reads = rng.choice((0.02, 0.3, 0.9))
        self._wanted = rng.random() < 0.7

    def step(self, exchange: Exchange) -> None:
        """Do something, or nothing."""
        rng = self._rng
        if not self._wanted:
            return
        if rng.random() < (0.02 if self._on else 0.1):
            self._on = not self._on
            self._switch(exchange)
        elif rng.random() < 0.02:
            exchange.allow_tap(rng.choice((0, 1, 5, 1 << 62)))
        elif rng.random() < 0.02:
            self._taken += exchange.skip_tapped()
        elif rng.random() < self._reads:
            self._read(exchange, rng.choice((1, 10, 1 << 30)))

    def goes_on(self, exchange: Exchange) -> None:
        """Another process has taken over, which nobody taps yet."""
        if self._on:
            self._switch(exchange)

    def end(self, exchange: Exchange) -> None:
        if self._on:
            self._read(exchange, 1 << 30)
            self._check_count(exchange)

    def _switch(self, exchange: Exchange) -> None:
        if not self._on:
            self._read(exchange, 1 << 30)
            self._check_count(exchange)
        self._most = self._rng.choice((0, 3, 264, 300, 2000, 1 << 20, (1 << 64) - 1))
        try:
            exchange.tap(self._on, self._most)
        except MemoryError:
            self._on = False
            return
        exchange.allow_tap(self._rng.choice((3, 1 << 62, 1 << 62)))
        self._taken = 0
        self._passed_before = _passed(exchange)
        self._missed_before = exchange.tap_missed
        self._newest = 0

    def _check_count(self, exchange: Exchange) -> None:
        """Each message was copied, or is told to be missing."""
        missed = exchange.tap_missed - self._missed_before
        assert _passed(exchange) - self._passed_before == self._taken + missed

    def _read(self, exchange: Exchange, most: int) -> None:
        for copied in exchange.tapped(most):
            self._taken += 1
            self._check(copied)

    def _check(self, copied: dict[str, Any]) -> None:
        sizes, bodies = copied["sizes"], copied["bodies"]
        assert 0 < len(bodies) == len(sizes) <= copied["frames"]
        assert [len(body) for body in bodies[:-1]] == sizes[:-1]
        assert len(bodies[-1]) <= sizes[-1]
        whole = len(bodies) == copied["frames"] and len(bodies[-1]) == sizes[-1]
        assert copied["whole"] == whole
        assert whole or sum(map(len, bodies)) <= max(self._most, 264)
        if copied["way"]:
            assert copied["worker"]
            said = self._said[copied["worker"]]
            # The first one stands for what its worker had in its place, if that was known.
            sent = bodies[1:] if len(bodies) > 1 or copied["number"] else bodies
        else:
            assert copied["number"] > self._newest
            self._newest = copied["number"]
            assert 0 < len(bodies[0]) == sizes[0] < 256
            said, sent = self._said[copied["client"] or ASKED_AGAIN], bodies[1:]
        for body in sent:
            assert body in said or body in self._said[ASKED_AGAIN], "a copy of what nobody sent"


def _passed(exchange: Exchange) -> int:
    counted = exchange.counters
    passed: int = counted["received"] + counted["reply_messages"]
    return passed


def _look(rng: random.Random, exchange: Exchange) -> None:
    """List what there is, which must be what there is."""
    there = exchange.peers
    rows = exchange.connections(rng.choice((-1, -1, 0, 1)))
    for row in rows:
        assert row["closed_for"] is not None or row["number"] in there
        assert row["age"] >= 0
        assert len(row["id"]) < 256
    requests, in_all = exchange.requests()
    counted = exchange.counters
    assert in_all == counted["waiting"] + counted["in_flight"]
    if not _memory_fails():
        assert len(requests) == in_all
    for request in requests:
        assert request["peer"] in (0, *there)
        assert request["worker"] in (0, *there)
        assert request["age"] >= request["for"] >= 0


def play_exchange(rng: random.Random) -> None:
    """One scene of a whole queue."""
    settings = some_settings(rng)
    exchange = _opened(settings, rng.randrange(1 << 32))
    books = _Books(settings)
    mode = 0
    calm = rng.random() < 0.6
    peers: dict[int, _Peer] = {}
    said: dict[int, bytearray] = defaultdict(bytearray)
    tap = _Tap(rng, said)
    for _ in range(rng.choice((20, 60, 150, 300))):
        step = rng.random()
        if step < 0.12 or not peers:
            side = rng.randrange(2)
            with contextlib.suppress(MemoryError):
                peers[exchange.connect(side)] = _Peer(rng, side, calm)
        elif step < 0.16:
            # Of one that has only hung up there is more in the kernel.
            rng.choice((exchange.close, exchange.hang_up))(rng.choice(list(peers)))
        elif step < 0.19:
            mode = rng.choice((0, 0, 1, 2))
            exchange.steer(mode)
        elif step < 0.22:
            exchange.advance(rng.choice((1e-6, 1e-3, 0.3, 1.1, 6.0, 60.0)))
        elif step < 0.25:
            _until_due(exchange)
        elif step < 0.26:
            exchange.drain_worker(rng.choice(list(peers)))
        elif step < 0.28:
            # Of those who are there, and of such as nobody has.
            longer = b"x" + rng.randbytes(rng.choice((4, 8, 254)))
            id = rng.choice((b"a", b"b", b"\0\0\0\0\1", b"\0" + rng.randbytes(4), longer))
            _submit(exchange, id, some_frames(rng), said)
        elif step < 0.30:
            before, exchange = exchange, _handed_over(exchange, settings, mode)
            if exchange is not before:
                tap.goes_on(exchange)
        elif step < 0.32:
            _look(rng, exchange)
        elif step < 0.34:
            _take_up_damaged(rng, exchange, settings, mode)
        elif step < 0.65:
            number = rng.choice(list(peers))
            said[number] += _feed(rng, exchange, number, peers[number])
        else:
            number = rng.choice(list(peers))
            _hear(rng, exchange, number, peers[number])
            if calm and number in exchange.peers:
                said[number] += _feed(rng, exchange, number, peers[number])
        tap.step(exchange)
        if books.letters and rng.random() < 0.2:
            _submit(exchange, *books.letters.pop(), said)
        left = set(exchange.peers)
        peers = {number: peer for number, peer in peers.items() if number in left}
        assert len(left) == len(peers), "a peer that nobody opened"
        books.check(exchange)
    tap.end(exchange)
    _end(rng, exchange, books)


def _submit(exchange: Exchange, id: bytes, frames: list[bytes], said: dict[int, bytearray]) -> None:
    said[ASKED_AGAIN] += b"".join(frames)
    with contextlib.suppress(MemoryError):
        exchange.submit(id, frames)


def _until_due(exchange: Exchange) -> None:
    """Let time pass to the very nanosecond at which something is due."""
    exchange.now = exchange.due or exchange.now
    exchange.advance(0)


def _handed_over(exchange: Exchange, settings: dict[str, Any], mode: int) -> Exchange:
    """Another process that goes on with it; the same if there is no memory for that."""
    try:
        another = _opened(settings, exchange.now)
        another.now = exchange.now
        another.steer(mode)
        another.restore(exchange.snapshot())
    except MemoryError:
        return exchange
    except ValueError as error:
        if "no memory" not in str(error):
            raise
        return exchange
    if _memory_fails():
        # What the one has put off for want of memory the other does at once: that may end somebody.
        assert set(another.peers) <= set(exchange.peers)
    else:
        # What was kept of one that was held back may be looked at now, and be wrong.
        held_back = {row["number"] for row in exchange.connections(FRONTEND) if row["held_back"]}
        assert set(exchange.peers) - held_back <= set(another.peers) <= set(exchange.peers)
    return another


def damaged(rng: random.Random, state: bytes) -> bytes:
    """The state of a queue with a few things wrong, and a checksum that says it is right."""
    head, rest = state[:STATE_HEAD], state[STATE_HEAD:]
    (size,) = struct.unpack_from("<Q", rest)
    header, records = rest[8 : 8 + size], bytearray(rest[8 + size :])
    if rng.random() < 0.4:
        told = json.loads(header)
        for _ in range(rng.choice((1, 1, 2))):
            _spoil(rng, told)
        header = json.dumps(told).encode()
    if rng.random() < 0.05:
        header = mutated(rng, header)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 5))):
        at = rng.randrange(len(records) + 1)
        how = rng.randrange(7)
        if how < 3 and len(records) >= 8:
            # Most of it are numbers of eight bytes, many of them small: one near it, or any.
            at = rng.choice((at, at // 8 * 8)) if at <= len(records) - 8 else 0
            (number,) = struct.unpack_from("<Q", records, at)
            wrong = rng.choice((number + 1, number - 1, 0, 1, 2, 255, *_TRICKY_LENGTHS))
            struct.pack_into("<Q", records, at, wrong & (1 << 64) - 1)
        elif how < 5 and at < len(records):
            records[at] = rng.choice((records[at] ^ 1 << rng.randrange(8), 0, 1, 2, 0xFF))
        elif how == 5:
            records[at:at] = records[at : at + rng.choice((1, 8, 16, 200))]
        else:
            del records[at : at + rng.choice((1, 8, 16, 200, 1 << 30))]
    rest = struct.pack("<Q", len(header)) + header + bytes(records)
    return head[:-8] + struct.pack("<Q", zlib.crc32(rest)) + rest


_WRONG: tuple[Any, ...] = (
    *(0, 1, -1, 2, 1 << 31, 1 << 32, 1 << 63, 1 << 64, -(1 << 63), 10**400, 1.5, 1e999, True, None),
    *(
        "",
        "\ud800",
        "0",
        "00" * 20,
        "ab" * 100_000,
        "x",
        [],
        [0],
        [1] * 6,
        {},
        {"0": 1},
        {"-1": 1},
        {"720": 1},
    ),
    *({"1": 1 << 64}, {"1": "x"}, [[]]),
)


def _spoil(rng: random.Random, told: dict[str, Any]) -> None:
    name = rng.choice(list(told))
    if isinstance(told[name], dict) and told[name] and rng.random() < 0.7:
        _spoil(rng, told[name])
    elif rng.random() < 0.1:
        del told[name]
    elif type(told[name]) is int and rng.random() < 0.3:
        told[name] += rng.choice((1, -1))
    else:
        told[name] = copy.deepcopy(rng.choice(_WRONG))


def _take_up_damaged(
    rng: random.Random, exchange: Exchange, settings: dict[str, Any], mode: int
) -> None:
    """Whoever takes up a damaged state refuses it, or goes on with what makes sense."""
    state = damaged(rng, exchange.snapshot())
    another = Exchange(**settings)
    another.now = exchange.now + rng.choice((0, 0, 1, 10**9))
    another.steer(mode)
    try:
        another.restore(state)
    except MemoryError:
        return
    except ValueError as error:
        totals["refused_states"] += 1
        if str(error).startswith(("it is ", "its format")):
            return
        raise
    totals["damaged_states"] += 1
    another.advance(0)
    must_make_sense(another)
    _look(rng, another)
    for number in rng.sample(another.peers, len(another.peers)):
        if number in another.peers:
            another.output(number)
        if number in another.peers and not another.held_back(number):
            another.feed(number, some_stream(rng))
        must_make_sense(another)
    another.deaths()
    another.advance(rng.choice((0.1, 10.0)))
    for number in rng.sample(another.peers, len(another.peers)):
        if number in another.peers:
            another.close(number)
        must_make_sense(another)
    another.advance(1e6)
    must_make_sense(another)
    another.deaths()
    if not another.counters["waiting"]:
        assert not any(another.live.values()), another.live


def must_make_sense(exchange: Exchange) -> None:
    counted = exchange.counters
    open_ones = counted["waiting"] + counted["in_flight"]
    ended = sum(counted[end] for end in ENDS)
    assert counted["received"] == open_ones + counted["kept"] + ended, counted
    assert counted["dead"] == sum(counted["died"])
    assert exchange.live["requests"] >= open_ones
    assert all(number >= 0 for number in exchange.live.values()), exchange.live
    assert not exchange.due or exchange.due > exchange.now, "due in the past"


def _end(rng: random.Random, exchange: Exchange, books: _Books) -> None:
    """Everybody leaves, nobody comes back, what is done for them all the same is done."""
    for number in rng.sample(exchange.peers, len(exchange.peers)):
        if number in exchange.peers:
            exchange.close(number)
        books.check(exchange)
    exchange.advance(1e6)
    books.check(exchange)
    exchange.steer(0)
    while exchange.counters["waiting"]:
        worker, reader = exchange.connect(BACKEND), Reader()
        exchange.feed(worker, handshake(b"DEALER"))
        while worker in exchange.peers and exchange.counters["in_flight"]:
            for frames in reader.feed(exchange.output(worker)):
                envelope = frames.index(b"", 1) + 1 if b"" in frames[1:-1] else 1
                if worker in exchange.peers:
                    exchange.feed(worker, message([*frames[:envelope], b"done"]))
            books.check(exchange)
        if worker in exchange.peers:
            exchange.close(worker)
        books.check(exchange)
    assert not any(exchange.live.values()), exchange.live
    assert not exchange.due
    counted = exchange.counters
    assert counted["connected"] == [0, 0]
    for name in _TOTALS:
        totals[name] += counted[name]


def _feed(rng: random.Random, exchange: Exchange, number: int, peer: _Peer) -> bytes:
    """Let it say something; what it said."""
    if exchange.held_back(number):
        return b""
    if not peer.pending:
        if peer.side == BACKEND and not peer.strays:
            return b""
        peer.say(rng, some_stream(rng, peer.calm))
    size = rng.choice((1, 2, 9, 64, 100, 3000, 10_000, len(peer.pending)))
    if peer.calm and rng.random() < 0.7:
        size = len(peer.pending)
    taken = bytes(peer.pending[:size])
    del peer.pending[:size]
    if taken:
        exchange.feed(number, taken)
    return taken


def _hear(rng: random.Random, exchange: Exchange, number: int, peer: _Peer) -> None:
    most = rng.choice((1, 10, 1000, *3 * (1 << 40,)))
    for frames in peer.reader.feed(exchange.output(number, most)):
        if peer.side == FRONTEND:
            continue
        wrong = rng.random() * (5 if peer.calm else 1)
        if wrong < 0.03:
            frames = frames[rng.randrange(len(frames)) :]
        elif wrong < 0.06:
            frames[rng.randrange(len(frames))] = rng.randbytes(5)
        elif wrong < 0.09:
            frames = [*frames, some_body(rng)]
        elif wrong < 0.12:
            continue
        peer.say(rng, message(frames, LONG if rng.random() < 0.1 else 0))
        if 0.12 < wrong < 0.15:
            peer.say(rng, message(frames))


Piece = tuple[Any, ...]


def decoded(data: bytes, most_bytes: int, most_frames: int) -> tuple[list[Piece], str | None]:
    """What :class:`Decoder` has to make of ``data``, and how it ends if it does; "no memory" is
    how it may end."""
    pieces: list[Piece] = []
    frames: list[bytes] = []
    at = size_so_far = envelope = 0
    while len(data) >= at + 2:
        flags = data[at]
        if flags & 0xF8 or (flags & COMMAND and flags & MORE):
            return pieces, "not a frame"
        head = 9 if flags & LONG else 2
        if len(data) < at + head:
            break
        length = int.from_bytes(data[at + 1 : at + head], "big")
        if flags & COMMAND:
            if length > LONGEST_COMMAND:
                return pieces, "not a frame"
        elif size_so_far + head + length > most_bytes:
            return pieces, "too large"
        if len(data) < at + head + length:
            return pieces, "no memory" if length > _MAY_NOT_BE_HAD else None
        body = data[at + head : at + head + length]
        at += head + length
        if flags & COMMAND:
            pieces.append(("command", body))
            continue
        frames.append(body)
        size_so_far += head + length
        if len(frames) > most_frames:
            return pieces, "too many frames"
        if not body and flags & MORE and not envelope:
            envelope = len(frames)
        if not flags & MORE:
            pieces.append(("message", frames, envelope))
            frames, size_so_far, envelope = [], 0, 0
    return pieces, None


def play_decoder(rng: random.Random) -> None:
    """One stream, split anywhere, must be what the plain decoder makes of it in one piece."""
    data = some_stream(rng)
    if rng.random() < 0.5:
        data = mutated(rng, data)
    if rng.random() < 0.05:
        data = rng.randbytes(rng.randrange(300))
    limits = rng.choice((100, 6000, 1 << 40)), rng.choice((1, 3, 1 << 20))
    wanted, error = decoded(data, *limits)
    decoder = Decoder(*limits)
    got: list[Piece] = []
    at = 0
    most = rng.choice((1, 2, 5, 50, 5000, 1 << 20))
    failed = None
    while at < len(data) and failed is None:
        size = rng.randrange(1, most + 1)
        try:
            got += decoder.feed(data[at : at + size])
        except ProtocolError as raised:
            failed = str(raised)
        at += size
    assert failed == error or (failed is None and error == "no memory"), (failed, error)
    assert got == wanted[: len(got)], "other pieces than the plain decoder's"
    assert failed or len(got) == len(wanted), "fewer pieces than the plain decoder's"
    assert decoder.bodies_out <= 1, decoder.bodies_out


SCENES: dict[str, Callable[[random.Random], None]] = {
    "exchange": play_exchange,
    "decoder": play_decoder,
}


def play(seed: int, number: int, only: str | None = None) -> None:
    """Scene ``number`` of a seed, which is always the same one."""
    rng = random.Random(f"{seed}/{number}")
    which = rng.choices(tuple(SCENES), weights=(2, 1))[0]
    # Where memory is made to fail there may be none for a queue to begin with.
    with contextlib.suppress(MemoryError):
        SCENES[only or which](rng)


def _play_on(arguments: argparse.Namespace, place: mmap.mmap) -> int:
    began = time.monotonic()
    number = arguments.first
    while time.monotonic() < began + arguments.seconds:
        if arguments.scenes is not None and number >= arguments.first + arguments.scenes:
            break
        place[:8] = struct.pack("<Q", number)
        try:
            play(arguments.seed, number, arguments.only)
        except Exception:
            traceback.print_exc()
            return 1
        number += 1
    print(
        f"{number - arguments.first} scenes in {time.monotonic() - began:.1f} s,"
        f" seed {arguments.seed}: nothing found"
    )
    print(", ".join(f"{name} {count}" for name, count in totals.items()), flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.wire.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--first", type=int, default=0, help="the scene to begin with")
    parser.add_argument("--scenes", type=int, help="play so many at most")
    parser.add_argument("--only", choices=tuple(SCENES), help="only scenes of this kind")
    parser.add_argument(
        "--starved",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="there is no memory in this share of the times, such as 0.02; for a debug build",
    )
    arguments = parser.parse_args()
    global starved
    starved = arguments.starved
    # The scenes are played by a child, so that one that kills the process can be told.
    place = mmap.mmap(-1, 8)
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os._exit(_play_on(arguments, place))
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended:
        (number,) = struct.unpack("<Q", place[:8])
        only = f" --only {arguments.only}" if arguments.only else ""
        only += f" --starved {starved}" if starved else ""
        how = f"was killed by signal {-ended}" if ended < 0 else f"failed ({ended})"
        print(
            f"scene {number} {how}; it is played again by: python -m tests.wire.fuzz"
            f" --seed {arguments.seed} --first {number} --scenes 1{only}"
        )
    return 1 if ended else 0


if __name__ == "__main__":
    sys.exit(main())
