"""What moves the messages of one queue.

An engine owns the queue's data sockets and the thread that works on them. It knows nothing of
config files, logs or systemd: the queue's own thread steers it by the methods of :class:`Engine`,
polls what :meth:`Engine.pollables` names, and hears from it by the reports that
:meth:`Engine.reports` returns. No method waits for data to move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias

if TYPE_CHECKING:
    import zmq

    from zqueue.error_reply import Frame
    from zqueue.listeners import Listener


class Side(StrEnum):
    """Which side of a queue: ``frontend`` faces clients, ``backend`` faces workers."""

    FRONTEND = "frontend"
    BACKEND = "backend"


LONGEST_SUBSCRIPTION = 16 << 10
"""How many bytes a subscriber may send in one frame, unless the config says otherwise: libzmq goes
through a topic by recursion, one call a byte, and would end the process at a longer one."""

LARGEST_SUBSCRIPTION = 64 << 10
"""How many bytes the config may allow at most, for the same reason."""


@dataclass(frozen=True)
class SocketOptions:
    """How the sockets of one side are made. Durations are seconds, sizes bytes.

    ``None`` leaves something to the engine or the kernel, 0 is no limit; ``tcp_keepalive`` of
    ``False`` is off; the two behind it count only with a duration. ``reply_high_water_mark`` is for
    the frontend of a ``queue`` alone.
    """

    high_water_mark: int = 1000
    reply_high_water_mark: int = 0
    linger: float = 0.0
    tcp_keepalive: float | Literal[False] | None = None
    tcp_keepalive_interval: float | None = None
    tcp_keepalive_count: int | None = None
    heartbeat: float | None = None
    heartbeat_timeout: float | None = None
    handshake_timeout: float = 30.0
    max_message_size: int | None = None
    ipv6: bool = False
    reconnect: float = 0.1
    reconnect_max: float = 10.0
    send_buffer: int | None = None
    receive_buffer: int | None = None


@dataclass(frozen=True)
class SocketPlan:
    """One side of a queue as the engine is to build it.

    ``listeners`` are sockets already listening, ``connect`` are endpoints to connect to.
    """

    listeners: tuple[Listener, ...]
    connect: tuple[str, ...]
    options: SocketOptions = SocketOptions()


@dataclass(frozen=True)
class Dispatch:
    """Who gets what, and how much is kept: for the wire engine. 0 is no limit, and never.

    ``prefetch``: how many requests a worker may have at once; 0 is measured, by its service time.
    ``max_unsent`` is bytes of replies for one client, ``max_attempts`` how many workers a request
    is given to at most. ``redeliver``: which requests of a lost worker go to others, ``unstarted``
    being those that a REP cannot have begun. ``when_full``: what a request is met with at
    ``max_waiting``; ``oldest``: the one that has waited longest dies. Times are seconds:
    ``deadline`` from receipt to reply, ``max_waiting_time`` from receipt until it is given to a
    worker, ``service_timeout`` for one request at a worker, ``client_grace`` for a client with a
    routing id of its own to come back, ``slow_request`` what is reported as slow. ``error_reply``:
    the frames that answer a request that died; none, and nothing does. ``handover``: a client with
    a routing id that is in use takes it over. ``reserved_for_workers``: how many of
    ``max_connections``, and of descriptors, clients may not have; 0 is a part of them.
    """

    prefetch: int = 0
    max_waiting: int = 100_000
    max_waiting_bytes: int = 256 << 20
    max_unsent: int = 64 << 20
    max_frames: int = 100_000
    max_attempts: int = 3
    redeliver: Literal["all", "unstarted", "none"] = "all"
    when_full: Literal["hold", "reject", "oldest"] = "hold"
    deadline: float = 0.0
    max_waiting_time: float = 0.0
    service_timeout: float = 0.0
    client_grace: float = 0.0
    slow_request: float = 0.0
    keep_for_gone_clients: bool = False
    error_reply: tuple[Frame, ...] = ()
    max_connections: int = 0
    reserved_for_workers: int = 0
    max_connections_per_address: int = 0
    handover: bool = False


@dataclass(frozen=True)
class Plan:
    """All an engine needs to know to serve one queue. ``engine`` is the one that is wanted."""

    name: str
    type: str
    frontend: SocketPlan
    backend: SocketPlan
    capture: Listener | None = None
    engine: Literal["auto", "wire", "libzmq"] = "auto"
    dispatch: Dispatch = Dispatch()


@dataclass(frozen=True)
class Traffic:
    """What has passed one way since the queue was created.

    ``messages`` is whole messages, an estimate where :attr:`Statistics.estimated` says so.
    """

    messages: int = 0
    frames: int = 0
    bytes: int = 0


class _Counts:
    """Counters that are added up one by one."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*map(sum, zip(astuple(self), astuple(other), strict=True)))  # type: ignore[call-overload]


@dataclass(frozen=True)
class Ends(_Counts):
    """How requests have ended, each in one way; what they add up to with those ``waiting``, ``in
    flight`` and ``kept`` is every request that was received.

    ``replied``: its reply went to its client. ``unclaimed``: it was answered, and its client had
    left. ``withdrawn``: its client left before. ``dead``: it was given up, see
    :class:`DeadRequest`. ``rejected``: there was no room for it. ``malformed``: it has no
    delimiter, and every worker is a REP, which would discard it. ``unanswered``: it was given to a
    ROUTER or DEALER that need not answer it.
    """

    replied: int = 0
    unclaimed: int = 0
    withdrawn: int = 0
    dead: int = 0
    rejected: int = 0
    malformed: int = 0
    unanswered: int = 0


Cause: TypeAlias = Literal[
    "max_attempts", "worker_lost", "service_timeout", "deadline", "max_waiting_time", "queue_full"
]
"""Why a request died: it was given to ``max_attempts`` workers; its worker was lost, or late, and
it may not be given to another (``redeliver``); it was too old; the queue was full."""


@dataclass(frozen=True)
class Died(_Counts):
    """The requests that died, by :data:`Cause`."""

    max_attempts: int = 0
    worker_lost: int = 0
    service_timeout: int = 0
    deadline: int = 0
    max_waiting_time: int = 0
    queue_full: int = 0


@dataclass(frozen=True)
class Incidents(_Counts):
    """What else was counted; none of it is an end.

    ``returned``: requests that a worker gave back when it was lost or late. ``retried``: those that
    :meth:`Engine.submit` asked again. Replies: ``late``, to a request that had been given up;
    ``dropped``, with no client to go to, late ones among them; ``extra``, passed on though no
    request was open for them; ``error``, made by the broker for a request that died.
    ``unrecorded``: dead requests of which no :class:`DeadRequest` could be kept.
    """

    returned: int = 0
    retried: int = 0
    late_replies: int = 0
    dropped_replies: int = 0
    extra_replies: int = 0
    error_replies: int = 0
    unrecorded: int = 0


@dataclass(frozen=True)
class Attempt:
    """A worker that had a request in vain. Times are seconds since the epoch."""

    worker: int
    peer: str
    given_at: float
    ended_at: float
    cause: Literal["worker_lost", "service_timeout"]


@dataclass(frozen=True)
class DeadRequest:
    """A request that was given up. Times are seconds since the epoch.

    ``number`` counts the requests of this run of the queue; ``client`` is the routing id of whoever
    sent it, which it gave itself if ``named``; ``peer`` is its address if it was still connected.
    ``frames`` is the message as it was received: ``envelope`` frames, the delimiter the last of
    them, and the body. ``attempts`` is how many workers had it, ``history`` those that were lost or
    late; a request that died by its deadline may be at one more.
    """

    number: int
    cause: Cause
    received_at: float
    died_at: float
    client: bytes
    named: bool
    peer: str
    attempts: int
    history: tuple[Attempt, ...]
    frames: tuple[bytes, ...]
    envelope: int


LATENCY_BOUNDS = (
    *(0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5),
    *(0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
"""The steps, in seconds, by which :class:`Latency` counts. They stay: counts are handed over."""


@dataclass(frozen=True)
class Latency:
    """How long requests took, in seconds: half of them, and 99 of 100, at most so long, all of them
    together ``seconds``.

    ``counts``: how many took at most each of :data:`LATENCY_BOUNDS` and more than the one before,
    and the last: how many took longer than all of these.
    """

    p50: float
    p99: float
    seconds: float
    counts: tuple[int, ...]

    def __add__(self, later: Latency) -> Latency:
        """The counts of both; half and 99 of 100 are those of the later ones."""
        return Latency(
            p50=later.p50,
            p99=later.p99,
            seconds=self.seconds + later.seconds,
            counts=tuple(map(sum, zip(self.counts, later.counts, strict=True))),
        )


@dataclass(frozen=True)
class Statistics:
    """An engine's counters. ``kept`` are requests that were answered while their client was away,
    which may come back. ``waiting``, ``in_flight``, ``lost``, ``ends``, ``died`` and ``incidents``
    are ``None`` where it cannot know; ``queueing`` and ``service`` where it does not, or nothing
    has passed yet."""

    requests: Traffic = Traffic()
    replies: Traffic = Traffic()
    waiting: int | None = None
    in_flight: int | None = None
    kept: int = 0
    lost: int | None = 0
    estimated: bool = True
    taken_at: float = 0.0
    ends: Ends | None = None
    died: Died | None = None
    incidents: Incidents | None = None
    queueing: Latency | None = None
    service: Latency | None = None


@dataclass
class ConnectionCounts:
    """Connections of one side, counted since the engine was opened."""

    accepted: int = 0
    disconnected: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class Connection:
    """One connection, open, or closed of late. Durations are seconds, ``None`` where not known.

    ``identity`` is the routing id, in hex, that a client gave itself or was given, and what a
    worker calls itself. ``state``: ``handshake``; ``ready``; ``held`` (a client is not read from:
    back-pressure, or it does not read its replies); ``draining`` and ``aside`` (a worker gets
    nothing more, until it answers); ``closed``, ``closed_for`` so long, for this ``reason``.
    ``connected_for`` and ``silent_for`` (since something was heard) end when it does.

    ``requests`` have come from a client, or were given to a worker; ``replies`` went to it, or came
    from it. ``broker``: which queue of a zqueued it is, empty if it is none. ``waiting`` is of a
    client alone. ``unasked`` are messages of a worker that answered nothing and were dropped, since
    this process has its connection. ``ahead`` is how many requests a worker may have at once,
    ``None`` for no limit; ``service`` how long a request takes it of late, ``p50`` and ``p99`` what
    half of its latest thousands took, and 99 of 100. ``unsent_bytes`` are on their way to it.
    """

    id: int
    side: Side
    peer: str
    identity: str
    type: str
    zmtp: str
    state: Literal["handshake", "ready", "held", "draining", "aside", "closed"]
    connected_for: float
    silent_for: float
    requests: int
    replies: int
    waiting: int
    in_flight: int
    ahead: int | None
    service: float | None
    p50: float | None
    p99: float | None
    received_bytes: int
    sent_bytes: int
    unsent_bytes: int
    closed_for: float | None
    reason: str
    broker: str = ""
    unasked: int = 0


@dataclass(frozen=True)
class OpenRequest:
    """A request that has not come to an end. Durations are seconds.

    It is ``waiting`` or ``in_flight``, for ``state_for`` by now; it came ``age`` ago.
    ``client_identity`` is in hex; ``client`` and ``worker`` are the ids of connections, ``None``
    for a client that has left, and for no worker.
    """

    id: int
    state: Literal["waiting", "in_flight"]
    age: float
    state_for: float
    attempts: int
    size: int
    client: int | None
    client_peer: str
    client_identity: str
    worker: int | None
    worker_peer: str


@dataclass(frozen=True)
class Tapped:
    """A message that has passed. ``at`` is seconds since the epoch, durations are seconds.

    ``number`` is its request's, 0 for a reply that nothing was open for. A reply has ``waited``,
    how long its request waited for a worker, and ``service``, how long that had it. ``identity`` is
    the client's routing id, of ``identity_size`` bytes; in a reply that nothing was open for it is
    the first frame, whatever that is, as far as it was copied. ``frames`` is how many there are
    behind it, ``sizes`` and ``bodies`` are of these, as far as they were copied; ``whole``: all of
    them were.
    """

    way: Literal["request", "reply"]
    number: int
    at: float
    waited: float | None
    service: float | None
    client: int | None
    client_peer: str
    identity: bytes
    identity_size: int
    worker: int | None
    worker_peer: str
    frames: int
    sizes: tuple[int, ...]
    bodies: tuple[bytes, ...]
    whole: bool

    @property
    def size(self) -> int:
        """Bytes of its frames, as far as their sizes are known, less the client's routing id."""
        return sum(self.sizes) + (0 if self.number else self.identity_size)

    @property
    def copied(self) -> tuple[bytes, ...]:
        """What was copied of its frames, less the client's routing id."""
        return self.bodies if self.number else (self.identity, *self.bodies)


@dataclass(frozen=True)
class Report:
    """Something that happened in the engine: an event's name and its fields; ``level`` where it
    matters more or less than others of its kind."""

    event: str
    fields: dict[str, Any] = field(default_factory=dict)
    level: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """All there is of a queue that was frozen, for the engine that takes it up.

    ``state`` is the engine's own; ``descriptors`` are its connections'. They belong to the engine
    that was frozen until it is closed: duplicate them to keep them. ``requests`` is how many there
    are in it, ``None`` where that is not known.
    """

    state: bytes
    descriptors: tuple[int, ...]
    requests: int | None = None


class Engine(Protocol):
    """One queue's data path. All methods are called from the queue's thread only."""

    name: str
    because: str
    """Why it is this engine and no faster one, where ``auto`` had a choice; or nothing."""
    not_promised: tuple[str, ...]
    """What zqueue promises elsewhere and this engine cannot."""

    def open(self, hold: bool, taken_up: Snapshot | None = None, *, frozen: bool = False) -> None:
        """Make the sockets and begin to forward, or with ``hold`` only to return replies.

        With ``taken_up`` it begins with these connections and requests; the descriptors are its own
        from then on. With ``frozen`` it touches none of them until :meth:`thaw`.

        Raises:
            EndpointError: an endpoint cannot be had; nothing is left open.
            ValueError: what is to be taken up cannot be read, for this reason; nothing is left
                open, and the descriptors still are the caller's.
        """

    def freeze(self) -> Snapshot:
        """Stop, and leave every connection and request as it is; tell what there is.

        After it only :meth:`thaw`, :meth:`reports`, :meth:`deaths` or :meth:`close` may follow.
        Peers notice nothing but a pause.

        Raises:
            LookupError: the engine cannot.
            TimeoutError: the data path does not answer; it is not frozen.
        """

    def thaw(self) -> None:
        """Go on after :meth:`freeze`, as if it had not been, or begin after a frozen ``open``."""

    def hold(self) -> None:
        """Give no further request to a worker; go on returning replies. Idempotent."""

    def drain(self) -> None:
        """As :meth:`hold`, but workers still get what was taken from clients already."""

    def forward(self) -> None:
        """Pass requests again. Idempotent."""

    @property
    def not_connected(self) -> dict[str, str]:
        """Endpoints to connect to that have not come up for some tries, and why."""

    @property
    def held(self) -> bool:
        """True once the hold has taken effect: no request has gone out since."""

    @property
    def dry(self) -> bool:
        """True once a drain has handed out all that it is to hand out."""

    @property
    def orphans(self) -> int:
        """How many of those in flight may have gone with workers that left, at most."""

    def close(self, flush: float, meanwhile: Callable[[], bool] = ...) -> int | None:
        """Close the sockets now, whatever is under way; returns how many requests were let go,
        ``None`` where that cannot be known.

        What is on its way to peers already may take up to ``flush`` seconds to get out;
        ``meanwhile`` is called now and then until then, and says whether to go on waiting.
        """

    @property
    def settling(self) -> bool:
        """True while an order has not taken effect; tick more often then."""

    def write_off_orphans(self, reason: str) -> Iterable[Report]:
        """Give up for lost what workers that left may have taken with them."""

    def refresh(self) -> None:
        """Ask for fresh counters; ``statistics.taken_at`` tells when they came."""

    def pollables(self) -> Sequence[zmq.Socket[bytes] | int]:
        """The sockets, or descriptors, that become readable when :meth:`reports` has work to do."""

    def reports(self) -> Iterable[Report]:
        """Read what is readable, without waiting, and tell what happened."""

    def tick(self) -> Iterable[Report]:
        """Called some four times a second: ask for fresh counters, look for a stuck data path."""

    @property
    def statistics(self) -> Statistics:
        """The latest counters."""

    def peers(self) -> dict[Side, int]:
        """How many connections each side has now, their handshake done."""

    def connection_counts(self) -> dict[Side, ConnectionCounts]:
        """How many connections each side has had."""

    def connections(self, side: Side | None = None) -> list[Connection]:
        """The connections of one side that are open, or of both, and then those that have ended of
        late, too.

        Raises:
            LookupError: the engine cannot tell connections apart.
            TimeoutError: the data path does not answer.
        """

    def requests(self) -> tuple[list[OpenRequest], int]:
        """The requests that wait and that are in flight, or if there are very many the oldest of
        them, and how many there are.

        Raises:
            LookupError: the engine cannot tell them apart.
            TimeoutError: the data path does not answer.
        """

    def tap(self, most: int | None) -> None:
        """Copy ``most`` bytes of each message that passes, for :meth:`tapped`; ``None``: no more.

        Raises:
            LookupError: the engine cannot.
        """

    def allow_tap(self, exchanges: int | None) -> None:
        """Copy no more than so many of the requests that come from now on, each with its replies;
        ``None``, as it is at first: what there is room for."""

    def tapped(self, most: int) -> list[Tapped]:
        """Up to ``most`` messages that were copied; those that were not are in
        :attr:`tap_missed`."""

    def skip_tapped(self) -> int:
        """Leave out those that were copied already; returns how many."""

    @property
    def tap_missed(self) -> int:
        """How many messages were not copied, for want of room or because they were not allowed."""

    def kick(self, number: int) -> None:
        """End a connection.

        Raises:
            LookupError: there is no such one, or the engine cannot tell connections apart.
            TimeoutError: the data path does not answer.
        """

    def drain_worker(self, number: int) -> None:
        """Give one worker nothing more and let it finish what it has.

        Raises:
            LookupError: there is no such worker, or the engine cannot tell workers apart.
        """

    def deaths(self) -> Iterable[DeadRequest]:
        """The requests that died since the last call."""

    def submit(self, client: bytes, frames: Sequence[bytes]) -> None:
        """Ask again in the name of the client with this routing id, which hears the reply if it is
        there. ``frames`` is as in :class:`DeadRequest`.

        Raises:
            LookupError: the engine cannot.
            BlockingIOError: not now: as much waits as may, or there is too much to do.
        """

    @property
    def busy_for(self) -> float:
        """Seconds of CPU that the data path has used so far."""

    @property
    def responds(self) -> bool:
        """False while the data path does not come round, although it is asked to."""

    @property
    def failure(self) -> str | None:
        """Why the data path ended by itself, or ``None`` while it has not."""
