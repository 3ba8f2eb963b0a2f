"""Listens where ``[metrics] listen`` says, also after a reload."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from zqueue.config import Config
from zqueue.config_conflicts import listening_endpoint
from zqueue.endpoint_service import EndpointService
from zqueue.events import EventBus
from zqueue.inherited import Inherited
from zqueue.listeners import Listener
from zqueue.web import hosts
from zqueue.web.looks import Ask

if TYPE_CHECKING:
    from zqueue.web.server import HttpServer


class WebService(EndpointService):
    """What zqueued shows over HTTP.

    ``ask`` has the daemon do what the control socket could ask for; ``stalled`` tells which queues'
    threads do not answer; ``rebind_steps`` counts each time that a reload begins to replace
    sockets, and each time that it has done so.
    """

    name = "metrics"
    key = "metrics.listen"

    def __init__(
        self,
        ask: Ask,
        stalled: Callable[[], list[str]],
        rebind_steps: Callable[[], int],
        config: Config,
        bus: EventBus,
        inherited: Inherited,
    ) -> None:
        super().__init__(config, bus, inherited)
        self._ask = ask
        self._stalled = stalled
        self._rebind_steps = rebind_steps
        self._server: HttpServer | None = None

    def wanted(self, config: Config) -> str | None:
        listen = config.metrics.listen
        return listening_endpoint(listen) if listen is not None else None

    async def start(self, listener: Listener) -> None:
        # Here, so that who wants no metrics does not wait for what makes them.
        from zqueue.web.routes import Routes
        from zqueue.web.server import HttpServer

        routes = Routes(
            self._ask,
            self._stalled,
            self._rebind_steps,
            with_workers=lambda: self.config.metrics.workers,
        )
        by_path = listener.endpoint.startswith("ipc://")  # which no browser can reach
        self._server = HttpServer(routes.answer, lambda host: by_path or self._is_ours(host))
        await self._server.start(listener)
        url = listener.endpoint.replace("tcp://", "http://").replace("ipc://", "unix:")
        self.bus.emit("metrics.listening", url=url)

    def _is_ours(self, host: str) -> bool:
        metrics = self.config.metrics
        listen = (metrics.listen or "").rpartition(":")[0]
        return hosts.is_ours(host, (*metrics.hosts, self.config.daemon.name, listen))

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    def failed(self, error: str) -> None:
        self.bus.emit("metrics.failed", error=error)
