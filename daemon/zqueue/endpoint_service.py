"""What zqueued serves besides the queues: each at one endpoint, which a reload may open, move or
close.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from zqueue import endpoints
from zqueue.config import Config
from zqueue.errors import EndpointError
from zqueue.events import EventBus
from zqueue.inherited import Inherited, Wish
from zqueue.listeners import Listener

_BACKLOG = 128


class EndpointService(ABC):
    """Something that is served where the config says, or nowhere.

    ``name`` is what its listening socket is kept and handed over by; ``key`` is the config's key.
    """

    name: ClassVar[str]
    key: ClassVar[str]

    def __init__(self, config: Config, bus: EventBus, inherited: Inherited) -> None:
        self.config = config
        self.bus = bus
        self._inherited = inherited
        self._claimed: Listener | None = None
        self._listener: Listener | None = None

    @abstractmethod
    def wanted(self, config: Config) -> str | None:
        """The endpoint that ``config`` names."""

    @abstractmethod
    async def start(self, listener: Listener) -> None:
        """Begin to serve.

        Raises:
            OSError, zmq.ZMQError: it cannot be served there.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Serve no more, if it was served; the listener is the caller's."""

    @abstractmethod
    def failed(self, error: str) -> None:
        """Say that it is not served, though the config wants it."""

    @property
    def listener(self) -> Listener | None:
        """Where it is served."""
        return self._listener

    def claim(self, config: Config) -> None:
        """Open what ``config`` wants and is not open yet, for :meth:`serve` to take.

        It is left to :meth:`serve` where the present one has the same path.

        Raises:
            EndpointError: it cannot be had; nothing has changed.
        """
        endpoint, present = self.wanted(config), self._present()
        if endpoint is None or endpoint == present:
            return
        try:
            if not self._has_path(endpoint):
                self._claimed = self._open(endpoint)
        except EndpointError as error:
            raise EndpointError(error.endpoint, error.reason, error.hint, where=self.key) from error

    def unclaim(self) -> None:
        """Close what was claimed: the config is refused for something else."""
        if self._claimed is not None:
            self._claimed.close()
            self._claimed = None

    async def serve(self, config: Config) -> None:
        """Do as ``config`` says from now on, on what was claimed for it."""
        self.config = config
        endpoint = self.wanted(config)
        if endpoint is not None and endpoint == self._present():
            return
        try:
            await self._end(Listener.close)
            if endpoint is None:
                return
            self._listener = self._claimed or self._open(endpoint)
            self._claimed = None
            await self.start(self._listener)
        except Exception as error:  # whatever it is, the rest of a reload does not depend on it
            self.unclaim()
            self.failed(str(error) or type(error).__name__)
            with contextlib.suppress(Exception):
                await self._end(Listener.close)
            return
        if endpoints.parse(endpoint, "bind").host in ("*", "0.0.0.0", "::"):
            self.bus.emit("daemon.open_to_anyone", endpoints=endpoint)

    async def close(self, close: Callable[[Listener], None]) -> None:
        """Serve no more, and have the listening socket closed by ``close``."""
        self.unclaim()
        await self._end(close)

    def wishes(self, config: Config) -> list[Wish]:
        """What it listens at with ``config``."""
        endpoint = self.wanted(config)
        return [] if endpoint is None else [Wish(self.name, endpoint)]

    def _present(self) -> str | None:
        return self._listener.asked if self._listener is not None else None

    def _has_path(self, endpoint: str) -> bool:
        wanted, present = endpoints.parse(endpoint, "bind"), self._present()
        return (
            present is not None
            and wanted.transport == "ipc"
            and endpoints.overlaps(wanted, endpoints.parse(present, "bind"))
        )

    def _open(self, endpoint: str) -> Listener:
        return self._inherited.open(Wish(self.name, endpoint), _BACKLOG)

    async def _end(self, close: Callable[[Listener], None]) -> None:
        try:
            await self.stop()
        finally:
            listener, self._listener = self._listener, None
            if listener is not None:
                close(listener)
