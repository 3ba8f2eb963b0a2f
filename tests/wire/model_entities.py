"""What there is in a model of a queue: its settings, peers, clients, workers and requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FLOWS, IN_LINE, BY_ITSELF = range(3)
RETURN_ADDRESS = 9
NUMBERED_ADDRESS = 13


@dataclass(frozen=True)
class Settings:
    """As those of an :class:`Exchange`: bytes, seconds, and 0 for no limit."""

    max_waiting: int
    max_waiting_bytes: int
    client_waiting: int
    client_unsent: int
    prefetch: int
    max_attempts: int
    redeliver: str
    when_full: str
    deadline: float
    max_waiting_time: float
    service_timeout: float
    client_grace: float
    keep_for_gone_clients: bool
    error_reply: tuple[tuple[bytes | str, ...], ...]
    handover: bool


@dataclass(eq=False)
class Absence:
    """What is kept for a client that has left and may come back."""

    since: int
    out: bytearray = field(default_factory=bytearray)
    answered: list[Request] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    weight: int = 1024


@dataclass(eq=False)
class Client:
    """Whoever asks; ``lasting``: what it asked for is done although nobody waits for it."""

    id: bytes
    named: bool
    peer: Peer | None = None
    absence: Absence | None = None
    lasting: bool = False
    waiting: int = 0
    waiting_bytes: int = 0
    latest: Request | None = None
    forgotten: tuple[int, bytes] | None = None
    leaving: list[Peer] = field(default_factory=list)
    unsent: list[Request] = field(default_factory=list)

    @property
    def is_req(self) -> bool:
        return self.peer is not None and self.peer.kind == b"REQ"

    @property
    def is_gone(self) -> bool:
        return self.peer is None and self.absence is None and not self.lasting

    @property
    def can_be_told(self) -> bool:
        return self.absence is not None or (self.peer is not None and not self.peer.ended)


@dataclass(eq=False)
class Request:
    number: int
    client: Client
    frames: list[bytes]
    raw: bytes
    received_at: int
    waiting_since: int = 0
    attempts: int = 0
    spared: int = 0
    suspect: bool = False
    probes: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    fate: str = ""

    def __post_init__(self) -> None:
        self.envelope = envelope_of(self.frames)
        self.raw_envelope = self.raw[: len(self.raw) - size_of(self.raw, len(self.envelope))]


@dataclass(eq=False)
class Task:
    """A request at a worker; ``over``: whatever the worker answers is nothing to anybody, since
    ``over_at``; ``written_off``: it is no more among what the worker has to do; ``isolated``: it
    may be why others were lost, and is to draw nothing into it. ``end``: how much its worker has
    been sent when it has all of it. ``doubts``: how many replies were taken for older ones like it,
    and may have been its own or a younger one's."""

    request: Request
    peer: Peer
    address: bytes
    given_at: int
    isolated: bool
    end: int
    over: bool = False
    over_at: int = 0
    written_off: bool = False
    doubts: int = 0

    @property
    def has_left(self) -> bool:
        return self.peer.sent >= self.end

    @property
    def worker(self) -> Worker:
        assert self.peer.worker is not None
        return self.peer.worker

    def is_like(self, other: Task) -> bool:
        mine, others = self.request, other.request
        return (self.address, mine.envelope) == (other.address, others.envelope)


@dataclass(eq=False)
class Worker:
    """``strict`` is a REP: it answers one for one and in order."""

    strict: bool
    credit: int
    tasks: list[Task] = field(default_factory=list)
    place: int | None = None
    draining: bool = False
    aside: bool = False
    tries: bool = False
    tries_at: int = 0
    passed: int = 0
    given: int = 0
    answered: int = 0
    answered_at: int = 0
    service: float = 0.0

    @property
    def live(self) -> list[Task]:
        """A request without an envelope may well be one that is never answered."""
        return [task for task in self.tasks if task.request.envelope and not task.over]

    @property
    def count(self) -> int:
        return sum(not task.written_off for task in self.tasks)

    @property
    def has_isolated(self) -> bool:
        return any(task.isolated and (self.strict or not task.over) for task in self.tasks)

    @property
    def bytes(self) -> int:
        return sum(len(task.request.raw) for task in self.live)

    @property
    def late_bytes(self) -> int:
        return sum(len(task.request.raw_envelope) for task in self.tasks if task.over)


@dataclass(eq=False)
class Peer:
    number: int
    side: int
    kind: bytes
    version: tuple[int, int] = (3, 1)
    client: Client | None = None
    worker: Worker | None = None
    out: bytearray = field(default_factory=bytearray)
    # A client's: what there is in ``out``, each with how much of it, and whether it is a message.
    parts: list[tuple[int, bytes, bool]] = field(default_factory=list)
    sent: int = 0
    spoke: bool = False
    items: list[tuple[bytes, list[bytes]]] = field(default_factory=list)
    have: int = 0
    fed: int = 0
    stalled: int = FLOWS
    leaving: bool = False
    ended: bool = False


def envelope_of(frames: list[bytes]) -> list[bytes]:
    """Up to the delimiter, which is among them; empty if there is none."""
    return frames[: frames.index(b"") + 1] if b"" in frames[:-1] else []


def is_address(id: bytes) -> bool:
    return len(id) in (RETURN_ADDRESS, NUMBERED_ADDRESS) and not id[0]


def routing_id(frames: list[bytes]) -> bytes:
    """Of the client that a ROUTER's or DEALER's message is for."""
    return b"\0" + frames[0][5:9] if is_address(frames[0]) else frames[0]


def shown_id(worker: Worker, task: Task | None, frames: list[bytes]) -> bytes:
    """What a worker's message is counted with: its client's routing id, as far as that is known."""
    if task is not None:
        return task.request.client.id
    return frames[0] if worker.strict or len(frames) == 1 else routing_id(frames)


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def size_of(raw: bytes, skipped: int) -> int:
    """How many bytes of a message are behind so many of its frames."""
    at = 0
    for _ in range(skipped):
        long = raw[at] & 2
        size = int.from_bytes(raw[at + 1 : at + (9 if long else 2)], "big")
        at += (9 if long else 2) + size
    return len(raw) - at
