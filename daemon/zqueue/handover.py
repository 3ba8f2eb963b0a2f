"""What one run of zqueued leaves to the next: every queue with its connections and requests.

It is written as ``MAGIC``, the length of a header as 8 bytes, the header in JSON, and behind it the
states of the engines, each in a format of its own. The descriptors that belong to it are those of
the listening sockets, then each queue's connections, in the header's order. What is only added to
the header needs no new :data:`FORMAT`: an older version passes over what it does not know.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter, ValidationError

import zqueue
from zqueue.config import Config, QueueConfig
from zqueue.drain import DrainState
from zqueue.engine import Snapshot
from zqueue.engine.choice import engine_for
from zqueue.engine.wire import support
from zqueue.event_history import HistoryState
from zqueue.figures import Totals, sum_known
from zqueue.listeners import Listener
from zqueue.plurals import counted
from zqueue.states import Standing

FORMAT = 1
"""The format that is written. It changes when an older version could not read it."""

FORMATS = range(1, FORMAT + 1)
"""The formats that this version can read."""

_MAGIC = b"zqueue hand-over\n"


@dataclass(frozen=True)
class QueueState:
    """One queue. ``snapshot`` is its engine's, if that could hand over its connections.
    ``opened_at`` is seconds since the epoch, ``opened_monotonic`` the same on the monotonic clock
    (``None``: another version left it without)."""

    name: str
    standing: Standing
    totals: Totals = field(default_factory=Totals)
    restarts: int = 0
    opened_at: float = 0.0
    drain: DrainState | None = None
    snapshot: Snapshot | None = None
    opened_monotonic: float | None = None

    @property
    def connections(self) -> int:
        return len(self.snapshot.descriptors) if self.snapshot is not None else 0

    @property
    def requests(self) -> int | None:
        """How many go along, ``None`` where the version that left them does not say."""
        return self.snapshot.requests if self.snapshot is not None else 0


@dataclass(frozen=True)
class SocketState:
    """A listening socket by its name (``QUEUE.frontend``, ``control``), opened for the endpoint
    ``asked``. ``inode`` is that of an ipc socket's path, which belongs to whoever is ``ours``."""

    name: str
    asked: str
    ours: bool
    inode: int | None
    descriptor: int = -1

    @property
    def is_tcp(self) -> bool:
        return self.asked.startswith("tcp:")


def socket_state(name: str, listener: Listener) -> SocketState:
    """What another process needs to go on with ``listener``, which stays who it is."""
    return SocketState(name, listener.asked, listener.ours, listener.inode, listener.fileno())


@dataclass(frozen=True)
class State:
    """A whole daemon. ``frozen_at`` is since when some queue takes no request, on the monotonic
    clock; ``events`` are those that it remembers."""

    version: str
    frozen_at: float
    sockets: tuple[SocketState, ...] = ()
    queues: tuple[QueueState, ...] = ()
    events: HistoryState | None = None

    @property
    def connections(self) -> int:
        return sum(queue.connections for queue in self.queues)

    def descriptors(self) -> Iterator[int]:
        """All that belong to it, in the order in which :func:`read` wants them."""
        for each in self.sockets:
            yield each.descriptor
        for queue in self.queues:
            if queue.snapshot is not None:
                yield from queue.snapshot.descriptors


# -- written -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Size:
    """How much of what follows the header is an engine's state, and its connections; and how many
    requests are in it, which a version may not say."""

    state: int
    connections: int
    requests: int | None = None


@dataclass(frozen=True)
class _Header:
    state: State
    format: int = FORMAT
    sizes: dict[str, _Size] = field(default_factory=dict)


_HEADER = TypeAdapter(_Header)


def write(state: State) -> Iterator[bytes]:
    """The state without its descriptors."""
    snapshots = {queue.name: queue.snapshot for queue in state.queues if queue.snapshot is not None}
    header = _Header(
        state=replace(state, queues=tuple(replace(queue, snapshot=None) for queue in state.queues)),
        sizes={
            name: _Size(len(snapshot.state), len(snapshot.descriptors), snapshot.requests)
            for name, snapshot in snapshots.items()
        },
    )
    encoded = _HEADER.dump_json(header)
    yield _MAGIC + len(encoded).to_bytes(8, "little") + encoded
    for snapshot in snapshots.values():
        yield snapshot.state


class Unreadable(ValueError):
    """A state cannot be read; ``requests`` is how many were in it, if that is known."""

    def __init__(self, why: str, requests: int | None = None) -> None:
        super().__init__(why)
        self.requests = requests


def read(content: bytes, descriptors: Sequence[int]) -> State:
    """What :func:`write` has written.

    Raises:
        Unreadable: it cannot be, for this reason; the descriptors are still the caller's.
    """
    begin = len(_MAGIC) + 8
    if not content.startswith(_MAGIC) or len(content) < begin:
        raise Unreadable("it is no state of a zqueued")
    end = begin + int.from_bytes(content[begin - 8 : begin], "little")
    try:
        format = _FORMAT.validate_json(content[begin:end]).format
        if format not in FORMATS:
            raise Unreadable(f"its format is {format}, and this version reads {FORMAT}")
        header = _HEADER.validate_json(content[begin:end])
    except ValidationError as error:
        raise Unreadable(f"it is damaged: {error.errors(include_url=False)[0]['msg']}") from None
    return _put_together(header, memoryview(content)[end:], list(descriptors))


@dataclass(frozen=True)
class _Format:
    format: int


_FORMAT = TypeAdapter(_Format)


def _put_together(header: _Header, states: memoryview, descriptors: list[int]) -> State:
    state, sizes = header.state, header.sizes
    expected = len(state.sockets) + sum(size.connections for size in sizes.values())
    if any(min(size.state, size.connections, size.requests or 0) < 0 for size in sizes.values()):
        raise Unreadable("it is damaged: nothing has fewer bytes than none")
    requests = sum_known(*(size.requests for size in sizes.values()))
    if len(descriptors) != expected:
        belong = counted(expected, "descriptor belongs", "descriptors belong")
        raise Unreadable(f"{belong} to it, and {len(descriptors)} came with it", requests)
    if len(states) != sum(size.state for size in sizes.values()):
        raise Unreadable("it is not all there", requests)
    sockets = tuple(
        replace(each, descriptor=descriptors[place]) for place, each in enumerate(state.sockets)
    )
    rest = iter(descriptors[len(sockets) :])
    queues = []
    for queue in state.queues:
        size = sizes.get(queue.name)
        if size is not None:
            own = tuple(next(rest) for _ in range(size.connections))
            snapshot = Snapshot(bytes(states[: size.state]), own, size.requests)
            queue = replace(queue, snapshot=snapshot)
            states = states[size.state :]
        queues.append(queue)
    return replace(state, sockets=sockets, queues=tuple(queues))


def duplicated(state: QueueState) -> QueueState:
    """The same with duplicates of its connections.

    Raises:
        OSError: there is no room for them.
    """
    if state.snapshot is None:
        return state
    copies: list[int] = []
    try:
        for descriptor in state.snapshot.descriptors:
            copies.append(os.dup(descriptor))
    except OSError:
        close(copies)
        raise
    return replace(state, snapshot=replace(state.snapshot, descriptors=tuple(copies)))


def close_connections(state: QueueState) -> None:
    """Close those that nobody took."""
    if state.snapshot is not None:
        close(state.snapshot.descriptors)


def connections_among(descriptors: Iterable[int]) -> int:
    """How many of these are connections, and not listening sockets."""
    count = 0
    for descriptor in descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as each:
            count += not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return count


def close(descriptors: Iterable[int]) -> None:
    """Close descriptors that nobody took."""
    for descriptor in descriptors:
        os.close(descriptor)


# -- what a version can take up ------------------------------------------------------------------


@dataclass(frozen=True)
class Offer:
    """What the installed version, with the config as it is now, would take up: states in these
    formats, and the connections of these queues."""

    version: str
    formats: tuple[int, ...]
    wire_formats: tuple[int, ...]
    queues: tuple[str, ...]

    def refusal(self) -> str:
        """Why it could not take up what this version writes, or nothing."""
        if FORMAT not in self.formats:
            return f"zqueue {self.version} cannot read a state in format {FORMAT}"
        if support.STATE_FORMAT not in self.wire_formats:
            return f"zqueue {self.version} cannot read a queue in format {support.STATE_FORMAT}"
        return ""


OFFER = TypeAdapter(Offer)


def _hands_over(queue: QueueConfig) -> bool:
    name, _ = engine_for(queue.engine, queue.type, queue.frontend.reply_high_water_mark)
    return name == "wire"


def offer(config: Config) -> Offer:
    """What this version with this config would take up."""
    return Offer(
        version=zqueue.__version__,
        formats=tuple(FORMATS),
        wire_formats=tuple(support.STATE_FORMATS),
        queues=tuple(name for name, queue in config.queues.items() if _hands_over(queue)),
    )
