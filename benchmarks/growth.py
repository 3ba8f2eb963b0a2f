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


def answered_backwards(n: int) -> tuple[Callable[[], None], int]:
    """A REP answers the latest of what it was given first; it may have n, and is given more."""
    exchange = Exchange(max_waiting=0, prefetch=n)
    serving = _peer(exchange, BACKEND, b"REP")
    asker = _peer(exchange, FRONTEND, b"DEALER")
    exchange.feed(asker, _request() * n)
    given = exchange.output(serving)
    size = len(given) // n
    # What it was given, with the address before it, is what it answers.
    answers = b"".join(given[at : at + size] for at in range(len(given) - size, -1, -size))
    return lambda: exchange.feed(serving, answers), n


def suspects_given(n: int) -> tuple[Callable[[], None], int]:
    """Of many DEALERs all but one have a request that was lost twice, and that one is to get 2000
    that were lost once."""
    exchange = Exchange(max_waiting=0, max_attempts=0)
    asker = _peer(exchange, FRONTEND, b"DEALER")
    exchange.feed(asker, _request() * n)
    exchange.close(_peer(exchange, BACKEND, b"DEALER"))
    lost = _peer(exchange, BACKEND, b"DEALER")
    exchange.feed(asker, _request() * 2000)
    exchange.steer(1)
    exchange.close(lost)
    for _ in range(n + 1):
        _peer(exchange, BACKEND, b"DEALER")
    return lambda: exchange.steer(0), n + 2000


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
    Scene("answered backwards", answered_backwards, 80),
    Scene("suspects given", suspects_given, 20),
)


BACKLOG = 400_000
SECONDS = 30
PARTS_A_SECOND = 100


def _returned() -> tuple[list[int], int, int]:
    """How long each part of the return of memory takes, as the loop does it, after a backlog of
    requests of 100 bytes: nanoseconds of processor time; and bytes before and after."""
    exchange = Exchange(max_waiting=0, max_waiting_bytes=1 << 40)
    asker = _peer(exchange, FRONTEND, b"DEALER")
    exchange.feed(asker, _request(bytes(100)) * BACKLOG)
    before = exchange.mapped_bytes
    exchange.close(asker)
    parts = []
    for _ in range(SECONDS):
        began = time.thread_time_ns()
        exchange.judge_memory()
        for _ in range(PARTS_A_SECOND):
            more = exchange.unmap()
            parts.append(time.thread_time_ns() - began)
            if not more:
                break
            began = time.thread_time_ns()
    return parts, before, exchange.mapped_bytes


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
    parts, before, after = _returned()
    parts.sort()
    print(
        f"memory returned after {BACKLOG} requests: {before >> 20} MiB become {after >> 20} MiB in"
        f" {len(parts)} parts; a part takes {parts[len(parts) // 2] / 1000:.0f} us (median),"
        f" {parts[-1] / 1000:.0f} us at most"
    )
