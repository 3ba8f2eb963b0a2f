"""Listens where ``[metrics] listen`` says, also after a reload."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from zqueue import endpoints
from zqueue.config import MetricsConfig
from zqueue.config_conflicts import listening_endpoint
from zqueue.errors import EndpointError
from zqueue.events import EventBus
from zqueue.inherited import Inherited
from zqueue.listeners import Listener, check_address, listen
from zqueue.web.looks import Ask

if TYPE_CHECKING:
    from zqueue.web.server import HttpServer

_BACKLOG = 128
_NAME = "metrics"


class WebService:
    """What zqueued shows over HTTP, or nothing where the config has no ``listen``.

    ``ask`` has the daemon do what the control socket could ask for; ``stalled`` tells which queues'
    threads do not answer.
    """

    def __init__(
        self, ask: Ask, stalled: Callable[[], list[str]], bus: EventBus, inherited: Inherited
    ) -> None:
        self._ask = ask
        self._stalled = stalled
        self._bus = bus
        self._inherited = inherited
        self._config = MetricsConfig()
        self._claimed: Listener | None = None
        self._listener: Listener | None = None
        self._server: HttpServer | None = None

    @property
    def listener(self) -> Listener | None:
        """Where it is served."""
        return self._listener

    def claim(self, config: MetricsConfig) -> None:
        """Open what ``config`` wants and is not open yet, for :meth:`serve` to take.

        Where the address is in the way of the present one, it is only checked.

        Raises:
            EndpointError: it cannot be had; nothing has changed.
        """
        if config.listen is None or (self._listener and config.listen == self._config.listen):
            return
        wanted = listening_endpoint(config.listen)
        try:
            if self._config.listen is not None and endpoints.overlaps(
                endpoints.parse(wanted, "bind"),
                endpoints.parse(listening_endpoint(self._config.listen), "bind"),
            ):
                check_address(wanted, ipv6=False)
            else:
                self._claimed = self._open(wanted)
        except EndpointError as error:
            where = "metrics.listen"
            raise EndpointError(error.endpoint, error.reason, error.hint, where=where) from error

    def unclaim(self) -> None:
        """Close what was claimed: the config is refused for something else."""
        if self._claimed is not None:
            self._claimed.close()
            self._claimed = None

    async def serve(self, config: MetricsConfig) -> None:
        """Do as ``config`` says from now on, on what was claimed for it."""
        before, self._config = self._config, config
        if self._listener is not None and config.listen == before.listen:
            return
        await self._end(Listener.close)
        if config.listen is None:
            return
        try:
            self._listener = self._claimed or self._open(listening_endpoint(config.listen))
            self._claimed = None
            await self._start(self._listener)
        except (EndpointError, OSError) as error:
            self._bus.emit("metrics.failed", error=str(error))

    async def close(self, close: Callable[[Listener], None]) -> None:
        """Serve no more, and have the listening socket closed by ``close``."""
        self.unclaim()
        await self._end(close)

    def _open(self, endpoint: str) -> Listener:
        listener = self._inherited.take(_NAME, endpoint, _BACKLOG)
        if listener is None:
            listener = listen(endpoint, backlog=_BACKLOG)
            self._inherited.keep(_NAME, listener)
        return listener

    async def _start(self, listener: Listener) -> None:
        # Here, so that who wants no metrics does not wait for what makes them.
        from zqueue.web.routes import Routes
        from zqueue.web.server import HttpServer

        routes = Routes(self._ask, self._stalled, with_workers=lambda: self._config.workers)
        self._server = HttpServer(routes.answer)
        await self._server.start(listener)
        url = listener.endpoint.replace("tcp://", "http://").replace("ipc://", "unix:")
        self._bus.emit("metrics.listening", url=url)
        if endpoints.parse(listener.asked, "bind").host in ("*", "0.0.0.0", "::"):
            self._bus.emit("daemon.open_to_anyone", endpoints=listener.asked)

    async def _end(self, close: Callable[[Listener], None]) -> None:
        server, self._server = self._server, None
        listener, self._listener = self._listener, None
        if server is not None:
            await server.stop()
        if listener is not None:
            close(listener)
