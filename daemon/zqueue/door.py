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

_TRIED_EVERY = 0.5


class Door:
    """Stops new connections to ``sock`` before libzmq runs out of descriptors for them, and lets
    them in again when there is room. Lives in the running loop.

    Make it before ``listener`` is attached. ``side`` is what events call it; ``callers`` is as for
    :class:`~zqueue.descriptors.Budget`.
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
        self._watched = sock
        self._emit = emit
        self._side = side
        self._gates = Gates((listener,), callers=callers)
        address = f"inproc://door-{side}"
        sock.monitor(address, zmq.EVENT_ACCEPTED | zmq.EVENT_ACCEPT_FAILED)
        monitor = sock.context.socket(zmq.PAIR)
        monitor.set(zmq.RCVHWM, 0)
        monitor.connect(address)
        self._monitor = LoopSocket(monitor, self._called)

    async def watch(self) -> None:
        """Let in who was kept out, as soon as there is room; ends only by being cancelled."""
        while True:
            await asyncio.sleep(_TRIED_EVERY)
            self._tell("listener.opened_gate", self._gates.reopen(), {})

    def close(self) -> None:
        """Stop watching; the socket is still open."""
        self._watched.disable_monitor()
        self._monitor.close(0)

    def _called(self, frames: list[zmq.Frame]) -> None:
        event, value = struct.unpack("=HI", frames[0].bytes)
        closed = self._gates.accepted(value) if event == zmq.EVENT_ACCEPTED else self._gates.close()
        fields = {"descriptors": value, "limit": self._gates.limit}
        self._tell("listener.closed_gate", closed, fields)

    def _tell(self, event: str, listeners: list[Listener], fields: dict[str, Any]) -> None:
        for listener in listeners:
            self._emit(event, side=self._side, endpoint=listener.asked, **fields)
