"""From a queue's config to what its engine works with: listening sockets and options."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from zqueue import endpoints, error_reply
from zqueue.config import QueueConfig, SocketConfig
from zqueue.engine import Dispatch, Plan, Side, SocketOptions, SocketPlan
from zqueue.handover import SocketState, socket_state
from zqueue.inherited import Inherited, Wish
from zqueue.listeners import Listener


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
        return inherited.open(self.wish(queue), self.backlog, self.mode)

    def wish(self, queue: str) -> Wish:
        return Wish(f"{queue}.{self.use}", self.endpoint, self.ipv6)


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
        """As :meth:`claim`, but leave out what ``others`` hold now and will hand over later, and
        paths at which they listen until then."""
        others = list(others)
        paths = [
            taken.endpoint
            for other in others
            for taken, listener in other._held.items()
            if not listener.port
        ]
        self._claim(
            wanted
            for wanted in self.wanted()
            if not any(self._may_have(wanted, other) for other in others)
            and not any(_overlap(wanted.endpoint, path) for path in paths)
        )

    def listeners(self) -> list[Listener]:
        """Those that are held."""
        return list(self._held.values())

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


def wishes(name: str, config: QueueConfig) -> list[Wish]:
    """What a queue wants to listen at."""
    return [wanted.wish(name) for wanted in Claims(name, config, Inherited()).wanted()]


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
    """The keys of the two have the same names, but for ``duplicate_id``; no limit is 0 there."""
    same = [each.name for each in dataclasses.fields(Dispatch) if each.name != "handover"]
    taken = {name: getattr(config, name) for name in same}
    taken |= {name: 0 for name, value in taken.items() if value is None or value == "auto"}
    taken["error_reply"] = tuple(error_reply.parse(frame) for frame in config.error_reply)
    return Dispatch(**taken, handover=config.duplicate_id == "handover")
