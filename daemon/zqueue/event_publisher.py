"""Publishes events on ZeroMQ where ``[events] publish`` says, also after a reload."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import zmq

from zqueue.config import Config
from zqueue.control import messages
from zqueue.door import Door
from zqueue.endpoint_service import EndpointService
from zqueue.events import RANKS, Event, EventBus
from zqueue.inherited import Inherited
from zqueue.listeners import Listener
from zqueue.loop_socket import LoopSocket

_LONGEST_READ = 4096  # a subscription is a topic
_HANDSHAKE_WITHIN = 5000
_QUEUED_A_SUBSCRIBER = 1000
_LINGER = 100


class EventPublisher(EndpointService):
    """Sends each event as ``[topic][JSON]`` to those who subscribe. Who reads too slowly misses
    some, and holds up nobody; ``overtaken`` counts how often that began. How many events it misses
    then libzmq does not tell."""

    name = "events"
    key = "events.publish"

    def __init__(self, config: Config, bus: EventBus, inherited: Inherited) -> None:
        super().__init__(config, bus, inherited)
        self._loop = asyncio.get_running_loop()
        self._socket: _PublishingSocket | None = None
        self.overtaken = 0
        self._unsubscribe: Callable[[], None] = lambda: None

    def wanted(self, config: Config) -> str | None:
        return config.events.publish

    async def start(self, listener: Listener) -> None:
        self._socket = _PublishingSocket(listener, self.bus)
        self._unsubscribe = self.bus.subscribe(self._happened)
        self.bus.emit("events.publishing", endpoint=listener.endpoint)

    async def stop(self) -> None:
        self._unsubscribe()
        await asyncio.sleep(0)  # what was said before is published now
        if self._socket is not None:
            await self._socket.close()
            self._socket = None

    def failed(self, error: str) -> None:
        self.bus.emit("events.failed", error=error)

    def _happened(self, event: Event) -> None:
        """Called in whatever thread said it."""
        if RANKS[event.level] >= RANKS[self.config.events.level]:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._publish, event)

    def _publish(self, event: Event) -> None:
        if self._socket is not None:
            happened = messages.Happened.model_validate(event, from_attributes=True)
            sent = self._socket.send([_topic(event), happened.model_dump_json().encode()])
            self.overtaken += not sent


class _PublishingSocket:
    """A PUB on ``listener``, in the running loop.

    Raises:
        zmq.ZMQError: it cannot be served there.
    """

    def __init__(self, listener: Listener, bus: EventBus) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # An XPUB is a PUB to its peers, and their subscriptions have to be read from it: else what
        # they send would pile up for as long as nothing happens.
        publisher = self._context.socket(zmq.XPUB)
        publisher.set(zmq.MAXMSGSIZE, _LONGEST_READ)
        publisher.set(zmq.HANDSHAKE_IVL, _HANDSHAKE_WITHIN)
        publisher.set(zmq.SNDHWM, _QUEUED_A_SUBSCRIBER)
        # It tells then that somebody's line is full.
        publisher.set(zmq.XPUB_NODROP, 1)
        self._publisher = publisher
        door = Door(publisher, listener, bus.emit, "events")
        try:
            listener.attach(publisher)
        except zmq.ZMQError:
            self._context.destroy(linger=0)
            raise
        self._door = door
        self._socket = LoopSocket(publisher, lambda subscription: None)
        self._watching = asyncio.create_task(door.watch())

    def send(self, frames: list[bytes]) -> bool:
        """Send to all who have room for it; False if somebody had none."""
        # What cannot be published must not become the next event to publish.
        with contextlib.suppress(zmq.ZMQError):
            try:
                self._socket.send(frames)
            except zmq.Again:
                self._publisher.set(zmq.XPUB_NODROP, 0)
                try:
                    self._socket.send(frames)
                finally:
                    self._publisher.set(zmq.XPUB_NODROP, 1)
                return False
        return True

    async def close(self) -> None:
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        self._door.close()
        self._socket.close(_LINGER)
        try:
            await asyncio.to_thread(self._context.term)
        except RuntimeError:  # there is no thread to have: it takes as long as it lingers
            self._context.term()


def _topic(event: Event) -> bytes:
    """Each word of it ends with a space, so that a subscription can name a whole word."""
    words = (event.name,) if event.queue is None else (event.name, event.queue)
    return "".join(f"{word} " for word in words).encode()
