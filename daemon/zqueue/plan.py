"""From a queue's config to what its engine works with: listening sockets and options."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from zqueue import endpoints, error_reply
from zqueue.config import QueueConfig, SocketConfig
from zqueue.engine import Dispatch, Plan, Side, SocketOptions, SocketPlan
from zqueue.handover import SocketState, socket_state
from zqueue.inherited import Inherited
from zqueue.listeners import Listener, check_address, listen


@dataclass(frozen=True)
class _Wanted:
    """A listening socket that a queue wants: for what, where, and how it is to be opened.

    ``number`` tells apart those that leave the choice of a port to the kernel.
    """

    use: str
    endpoint: str
    number: int = 0
    backlog: int = 1024
    ipv6: bool = False
    mode: int = 0o660

    def open(self, queue: str, inherited: Inherited) -> Listener:
        name = f"{queue}.{self.use}"
        listener = inherited.take(name, self.endpoint, self.backlog, mode=self.mode)
        if listener is None:
            listener = listen(self.endpoint, backlog=self.backlog, ipv6=self.ipv6, mode=self.mode)
            inherited.keep(name, listener)
        return listener


class Claims:
    """The listening sockets of one queue: claimed before it starts, released when it stops."""

    def __init__(self, name: str, config: QueueConfig, inherited: Inherited) -> None:
        self.name = name
        self.config = config
        self._inherited = inherited
        self._held: dict[_Wanted, Listener] = {}

    def claim(self) -> None:
        """Open every listening socket that is not open yet.

        Raises:
            EndpointError: one cannot be had; those opened by this call are closed again.
        """
        self._claim(self.wanted())

    def claim_free(self, others: Iterable[Claims]) -> None:
        """As :meth:`claim`, but leave out what ``others`` hold now and will hand over later."""
        others = list(others)
        held = [wanted for other in others for wanted in other._held]
        free = []
        for wanted in self.wanted():
            if any(self._may_have(wanted, other) for other in others):
                continue
            if any(_overlap(wanted.endpoint, taken.endpoint) for taken in held):
                check_address(wanted.endpoint, wanted.ipv6)
            else:
                free.append(wanted)
        self._claim(free)

    def take_over(self, other: Claims) -> None:
        """Take from ``other`` those of its open sockets that this queue wants just so."""
        for wanted in self.wanted():
            if self._may_have(wanted, other) and wanted not in self._held:
                self._held[wanted] = other._held.pop(wanted)

    def _may_have(self, wanted: _Wanted, other: Claims) -> bool:
        """Whether ``other`` has just this. A port that the kernel chose stays with its queue: its
        peers know it."""
        own = other.name == self.name or not _wild_port(wanted.endpoint)
        return own and wanted in other._held

    def release(self) -> None:
        """Close all sockets but that of the queue's own PAIR, which outlives a stop."""
        pair = self._pair_wanted()
        for wanted in [wanted for wanted in self._held if wanted != pair]:
            self._held.pop(wanted).close()

    def let_go(self) -> None:
        """Leave every socket to whoever keeps it; the others are closed."""
        for listener in self._held.values():
            listener.let_go()
        self._held.clear()

    def leave(self) -> None:
        """Close this process's descriptors only: another process has them all."""
        for listener in self._held.values():
            listener.leave()
        self._held.clear()

    def sockets(self) -> list[SocketState]:
        """What another process needs to go on with the sockets that are held."""
        return [
            socket_state(f"{self.name}.{wanted.use}", listener)
            for wanted, listener in self._held.items()
        ]

    def close(self) -> None:
        """Close every socket."""
        for listener in self._held.values():
            listener.close()
        self._held.clear()

    @property
    def pair(self) -> Listener | None:
        """Where the queue's own PAIR listens, if it has one."""
        wanted = self._pair_wanted()
        return self._held[wanted] if wanted is not None else None

    def plan(self) -> Plan:
        """What the engine needs; every socket must have been claimed."""
        config = self.config
        capture = self._capture_wanted()
        return Plan(
            name=self.name,
            type=config.type,
            frontend=self._side(Side.FRONTEND, config.frontend),
            backend=self._side(Side.BACKEND, config.backend),
            capture=self._held[capture] if capture is not None else None,
            engine=config.engine,
            dispatch=_dispatch(config),
        )

    def endpoints(self, use: Side) -> tuple[str, ...]:
        """The endpoints of one side: bound ones with the port that was really taken."""
        side = self.config.frontend if use is Side.FRONTEND else self.config.backend
        bound = (self._shown(wanted) for wanted in _side_wanted(use, side))
        return (*bound, *(f"connect {endpoint}" for endpoint in side.connect))

    def open_to_anyone(self) -> list[str]:
        """The listening endpoints that serve anybody who can reach this machine."""
        return [
            wanted.endpoint
            for wanted in self.wanted()
            if endpoints.parse(wanted.endpoint, "bind").host in ("*", "0.0.0.0", "::")
        ]

    def _shown(self, wanted: _Wanted) -> str:
        listener = self._held.get(wanted)
        chosen_by_kernel = listener is not None and _wild_port(wanted.endpoint)
        return listener.endpoint if listener and chosen_by_kernel else wanted.endpoint

    def _claim(self, wanted: Iterable[_Wanted]) -> None:
        opened: list[_Wanted] = []
        try:
            for each in wanted:
                if each not in self._held:
                    self._held[each] = each.open(self.name, self._inherited)
                    opened.append(each)
        except BaseException:
            for each in opened:
                self._held.pop(each).close()
            raise

    def wanted(self) -> Iterator[_Wanted]:
        """Every listening socket that the config wants."""
        yield from _side_wanted(Side.FRONTEND, self.config.frontend)
        yield from _side_wanted(Side.BACKEND, self.config.backend)
        for wanted in (self._capture_wanted(), self._pair_wanted()):
            if wanted is not None:
                yield wanted

    def _capture_wanted(self) -> _Wanted | None:
        return _Wanted("capture", self.config.capture) if self.config.capture else None

    def _pair_wanted(self) -> _Wanted | None:
        return _Wanted("control", self.config.control) if self.config.control else None

    def _side(self, use: Side, side: SocketConfig) -> SocketPlan:
        listeners = tuple(self._held[wanted] for wanted in _side_wanted(use, side))
        return SocketPlan(listeners, tuple(side.connect), _options(side))


def wishes(name: str, config: QueueConfig) -> list[tuple[str, str]]:
    """What a queue wants of a socket unit: ``(QUEUE.frontend, endpoint)`` and so on."""
    return [
        (f"{name}.{wanted.use}", wanted.endpoint)
        for wanted in Claims(name, config, Inherited()).wanted()
    ]


def _side_wanted(use: Side, side: SocketConfig) -> Iterator[_Wanted]:
    for place, endpoint in enumerate(side.bind):
        number = side.bind[:place].count(endpoint)
        yield _Wanted(use, endpoint, number, side.backlog, side.ipv6, int(side.mode, 8))


def _overlap(one: str, other: str) -> bool:
    return endpoints.overlaps(endpoints.parse(one, "bind"), endpoints.parse(other, "bind"))


def _wild_port(endpoint: str) -> bool:
    parsed = endpoints.parse(endpoint, "bind")
    return (parsed.transport == "tcp" and not parsed.port) or parsed.address == "*"


def _options(side: SocketConfig) -> SocketOptions:
    """The keys of the two have the same names."""
    return SocketOptions(
        **{each.name: getattr(side, each.name) for each in dataclasses.fields(SocketOptions)}
    )


def _dispatch(config: QueueConfig) -> Dispatch:
    return Dispatch(
        prefetch=0 if config.prefetch == "auto" else config.prefetch,
        max_waiting=config.max_waiting,
        max_waiting_bytes=config.max_waiting_bytes,
        max_unsent=config.max_unsent,
        max_frames=config.max_frames,
        max_attempts=config.max_attempts,
        redeliver=config.redeliver,
        when_full=config.when_full,
        deadline=config.deadline or 0.0,
        max_waiting_time=config.max_waiting_time or 0.0,
        service_timeout=config.service_timeout or 0.0,
        client_grace=config.client_grace,
        keep_for_gone_clients=config.keep_for_gone_clients,
        error_reply=tuple(error_reply.parse(frame) for frame in config.error_reply),
        max_connections=config.max_connections,
        max_connections_per_address=config.max_connections_per_address,
        handover=config.duplicate_id == "handover",
    )
