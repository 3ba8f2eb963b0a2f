"""Who comes to a socket of zqueued's own that libzmq accepts on, besides those of the queues."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import zmq

from zqueue.gates import Gates
from zqueue.listeners import Listener
from zqueue.loop_socket import LoopSocket
from zqueue.monitor import open_monitor

_TRIED_EVERY = 0.5


class Door:
    """Stops new connections to ``sock`` before libzmq runs out of descriptors for them, and lets
    them in again when there is room. Whoever speaks an older ZMTP than 3.0 is refused.

    Make it before ``listener`` is attached. ``side`` is what events call it; ``callers`` is as for
    :class:`~zqueue.descriptors.Budget`. Whoever made it has :meth:`hear` called with what is read
    from ``monitor``, and :meth:`reopen` now and then; :meth:`watch` does so in an event loop.
    """

    def __init__(
        self,
        sock: zmq.Socket[bytes],
        listener: Listener,
        emit: Callable[..., None],
        side: str,
        *,
        callers: bool = False,
    ) -> None:
        # libzmq (4.3.5, ``zmtp_engine.cpp``) ends the process when one who speaks ZMTP 2 or none
        # at all, such as a health check, says more while the socket is being closed. A ZAP domain
        # makes it refuse them in their greeting; without a ZAP handler it does nothing else.
        sock.set(zmq.ZAP_DOMAIN, b"zqueue")
        self._emit = emit
        self._side = side
        self._gates = Gates((listener,), callers=callers)
        wanted = zmq.EVENT_ACCEPTED | zmq.EVENT_ACCEPT_FAILED
        self.monitor = open_monitor(sock, f"inproc://door-{side}", wanted, (listener,))

    def hear(self, frames: list[zmq.Frame]) -> None:
        """Take in one message of the monitor."""
        event, value = struct.unpack("=HI", frames[0].bytes)
        closed = self._gates.accepted(value) if event == zmq.EVENT_ACCEPTED else self._gates.close()
        fields = {"descriptors": value, "limit": self._gates.limit}
        self._tell("listener.closed_gate", closed, fields)

    def reopen(self) -> None:
        """Let in who was kept out, if there is room."""
        self._tell("listener.opened_gate", self._gates.reopen(), {})

    async def watch(self) -> None:
        """Do all this in the running loop; ends only by being cancelled."""
        monitor = LoopSocket(self.monitor, self.hear)
        try:
            while True:
                await asyncio.sleep(_TRIED_EVERY)
                self.reopen()
        finally:
            monitor.stop_reading()

    def close(self) -> None:
        """Stop watching. The socket and its context must be closed next: libzmq may wait for
        somebody to hear it."""
        self.monitor.close()

    def _tell(self, event: str, listeners: list[Listener], fields: dict[str, Any]) -> None:
        for listener in listeners:
            self._emit(event, side=self._side, endpoint=listener.asked, **fields)
