"""Whether work grows faster than its load: what the wire engine's state machine needs for each of
n, and for each of many times n."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import click

from zqueue.engine.wire.exchange import Exchange

NS = 1_000_000_000
EACH = 100
FRONTEND, BACKEND = 0, 1


def _peer(exchange: Exchange, side: int, kind: bytes, identity: bytes = b"") -> int:
    """Connect one; its number."""
    ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    ready += b"\x08Identity" + len(identity).to_bytes(4, "big") + identity
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)
    number = exchange.connect(side)
    exchange.feed(number, greeting + bytes([4, len(ready)]) + ready)
    exchange.output(number)
    return number


def _close(exchange: Exchange, peers: list[int]) -> None:
    """The latest first, which are found at once."""
    for each in reversed(peers):
        exchange.close(each)


def _request(body: bytes = b"x") -> bytes:
    return b"\x01\x00\x00" + bytes([len(body)]) + body


def workers_lost(n: int) -> tuple[Callable[[], None], int]:
    """REPs that have a hundred requests each are lost, one after the other."""
    exchange = Exchange(prefetch=EACH, max_waiting=0, max_attempts=0)
    workers = [_peer(exchange, BACKEND, b"REP") for _ in range(n)]
    asker = _peer(exchange, FRONTEND, b"DEALER")
    exchange.feed(asker, _request() * (n * EACH))
    return lambda: _close(exchange, workers), n * EACH


def twice_lost(n: int) -> tuple[Callable[[], None], int]:
    """What was lost twice is given to DEALERs, each of which may have one of that at a time."""
    exchange = Exchange(max_waiting=0, max_attempts=0)
    asker = _peer(exchange, FRONTEND, b"DEALER")
    exchange.feed(asker, _request() * n)
    for _ in range(2):
        exchange.close(_peer(exchange, BACKEND, b"DEALER"))
    exchange.steer(1)
    for _ in range(n):
        _peer(exchange, BACKEND, b"DEALER")
    return lambda: exchange.steer(0), n


def oldest_dropped(n: int) -> tuple[Callable[[], None], int]:
    """As much waits as may, all of it returned once, and each new request drops the oldest."""
    exchange = Exchange(max_waiting=n, max_attempts=0, when_full="oldest")
    asker = _peer(exchange, FRONTEND, b"DEALER")
    exchange.feed(asker, _request() * n)
    exchange.close(_peer(exchange, BACKEND, b"DEALER"))
    more = _request() * n

    def drop() -> None:
        exchange.feed(asker, more)
        exchange.deaths()

    return drop, n


def clients_leave(n: int) -> tuple[Callable[[], None], int]:
    """Clients leave whose requests were returned."""
    exchange = Exchange(max_waiting=0, max_attempts=0)
    askers = [_peer(exchange, FRONTEND, b"DEALER") for _ in range(n)]
    for each in askers:
        exchange.feed(each, _request() * 10)
    exchange.close(_peer(exchange, BACKEND, b"DEALER"))
    return lambda: _close(exchange, askers), 10 * n


def extra_replies(n: int) -> tuple[Callable[[], None], int]:
    """A DEALER answers once more; n others that one client had asked were lost."""
    exchange = Exchange(max_waiting=0, max_attempts=0)
    asker = _peer(exchange, FRONTEND, b"DEALER", b"me")
    lost = _peer(exchange, BACKEND, b"DEALER")
    for number in range(n):
        exchange.feed(asker, b"\x01\x04" + number.to_bytes(4, "big") + _request())
    exchange.output(lost)
    exchange.steer(1)
    exchange.close(lost)
    serving = _peer(exchange, BACKEND, b"DEALER")
    extra = (b"\x01\x02me" + b"\x01\x05extra" + _request()) * 2000
    return lambda: exchange.feed(serving, extra), 2000


def left_unanswered(n: int) -> tuple[Callable[[], None], int]:
    """DEALERs never answer what they are given, and the oldest of it is forgotten."""
    exchange = Exchange(max_waiting=0, max_waiting_bytes=100 * n)
    asker = _peer(exchange, FRONTEND, b"DEALER")
    for _ in range(max(1, n // 100)):
        _peer(exchange, BACKEND, b"DEALER")
    exchange.feed(asker, _request(bytes(30)) * n * 2)
    more = _request(bytes(30)) * 2000
    return lambda: exchange.feed(asker, more), 2000


@dataclass(frozen=True)
class Scene:
    name: str
    of: Callable[[int], tuple[Callable[[], None], int]]
    n: int


SCENES = (
    Scene("workers lost", workers_lost, 20),
    Scene("given after two losses", twice_lost, 40),
    Scene("oldest dropped", oldest_dropped, 2000),
    Scene("clients leave", clients_leave, 20),
    Scene("extra replies", extra_replies, 80),
    Scene("left unanswered", left_unanswered, 400),
)


def _nanoseconds(scene: Scene, n: int) -> float:
    """What each takes, the best of some."""
    best = float("inf")
    for _ in range(3):
        work, count = scene.of(n)
        gc.collect()
        began = time.perf_counter_ns()
        work()
        best = min(best, (time.perf_counter_ns() - began) / count)
    return best


@click.command()
@click.option("--times", default=50, show_default=True, help="How many times n there are.")
def growth(times: int) -> None:
    """Show what each of n costs the wire engine, and each of many times n: it should be the same,
    but for what the processor's caches do not hold."""
    print(f"{'':<24}{'n':>8}{'ns each':>10}{'ns, x' + str(times):>10}{'ratio':>8}")
    for scene in SCENES:
        few = _nanoseconds(scene, scene.n)
        many = _nanoseconds(scene, scene.n * times)
        print(f"{scene.name:<24}{scene.n:>8}{few:>10.0f}{many:>10.0f}{many / few:>8.1f}")
