"""The capture: a PUB of everything that passes through a queue, for as long as somebody listens.

While nobody subscribes the engine copies nothing and all this costs nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import zmq

from zqueue.door import Door
from zqueue.engine import LONGEST_SUBSCRIPTION, Report
from zqueue.listeners import Listener

_ADDRESS = "inproc://capture"
_RELAYED_A_TURN = 500
_CALLS_A_TURN = 500


class CapturePublisher:
    """Publishes ``[queue name][frames of the message …]`` at ``listener``, if there is one.

    A subscriber that reads too slowly misses messages, and does not hold up the queue.
    """

    def __init__(
        self, queue: str, listener: Listener | None, context: zmq.Context[zmq.Socket[bytes]]
    ) -> None:
        self._queue = queue.encode()
        self._subscriptions: set[bytes] = set()
        self._socket: zmq.Socket[bytes] | None = None
        self._told: list[Report] = []
        if listener is not None:
            self._socket = context.socket(zmq.XPUB)
            self._socket.set(zmq.MAXMSGSIZE, LONGEST_SUBSCRIPTION)
            self._door = Door(self._socket, listener, self._tell, "capture")
            listener.attach(self._socket)

    @property
    def wanted(self) -> bool:
        """Whether somebody subscribes."""
        return bool(self._subscriptions)

    def pollables(self) -> Sequence[zmq.Socket[bytes]]:
        return [] if self._socket is None else [self._socket, self._door.monitor]

    def reports(self) -> Iterator[Report]:
        """Read subscriptions; a report for each time that :attr:`wanted` changes, and one when
        subscribers have to be kept out."""
        if self._socket is None:
            return
        self._watch_door()
        yield from self._told
        self._told.clear()
        had = self.wanted
        while True:
            try:
                message = self._socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                break
            if message[:1] == b"\x01":
                self._subscriptions.add(message[1:])
            elif message[:1] == b"\x00":
                self._subscriptions.discard(message[1:])
        if self.wanted and not had:
            yield Report("capture.subscribed", {"subscriptions": len(self._subscriptions)})
        elif had and not self.wanted:
            yield Report("capture.unsubscribed")

    def _watch_door(self) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(_CALLS_A_TURN):
                self._door.hear(self._door.monitor.recv_multipart(zmq.DONTWAIT, copy=False))
        self._door.reopen()

    def _tell(self, event: str, **fields: Any) -> None:
        self._told.append(Report(event, fields))

    def publish(self, message: list[bytes]) -> None:
        """Send one message to those who subscribe."""
        if self._socket is not None:
            self._socket.send_multipart([self._queue, *message], zmq.DONTWAIT)

    def close(self) -> None:
        if self._socket is not None:
            self._door.close()
            self._socket.close(0)


class CaptureRelay:
    """Publishes what libzmq's proxy copies: the proxy sends it to an inproc PUB, from where it is
    relayed in Python. A relay that cannot keep up misses messages, and does not hold up the queue.
    """

    def __init__(
        self, queue: str, listener: Listener | None, context: zmq.Context[zmq.Socket[bytes]]
    ) -> None:
        self._publisher = CapturePublisher(queue, listener, context)
        self._source: zmq.Socket[bytes] | None = None
        self._sink: zmq.Socket[bytes] | None = None
        if listener is None:
            return
        self._source = context.socket(zmq.PUB)
        self._source.bind(_ADDRESS)
        self._sink = context.socket(zmq.SUB)
        self._sink.connect(_ADDRESS)
        self._sink.subscribe(b"")

    @property
    def feed(self) -> zmq.Socket[bytes] | None:
        """Where the proxy is to copy messages to; ``None`` while nobody subscribes."""
        return self._source if self._publisher.wanted else None

    def pollables(self) -> Sequence[zmq.Socket[bytes]]:
        sink = [] if self._sink is None else [self._sink]
        return [*self._publisher.pollables(), *sink]

    def reports(self) -> Iterator[Report]:
        """Read subscriptions; a report for each time that :attr:`feed` begins or ends, and one when
        subscribers have to be kept out."""
        return self._publisher.reports()

    def relay(self) -> None:
        """Publish what has been captured, a bounded number of messages at a time."""
        if self._sink is None:
            return
        for _ in range(_RELAYED_A_TURN):
            try:
                self._publisher.publish(self._sink.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                return

    def close(self) -> None:
        """Close the relay's own sockets; the data thread must have ended."""
        self._publisher.close()
        for sock in (self._source, self._sink):
            if sock is not None:
                sock.close(0)
