"""The capture: a PUB of everything that passes through a queue, for as long as somebody listens.

libzmq's proxy copies what passes into an inproc PUB; from there each message is relayed, in Python,
to the XPUB that subscribers connect to, with a first frame that names the queue. While nobody
subscribes the proxy runs without a capture socket and all this costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import zmq

from zqueue.engine import Report
from zqueue.listeners import Listener

_ADDRESS = "inproc://capture"
_RELAYED_A_TURN = 500


class CaptureRelay:
    """Publishes ``[queue name][frames of the message …]`` at ``listener``, if there is one.

    A subscriber that reads too slowly, and a relay that cannot keep up, miss messages; neither
    holds up the queue.
    """

    def __init__(
        self, queue: str, listener: Listener | None, context: zmq.Context[zmq.Socket[bytes]]
    ) -> None:
        self._queue = queue.encode()
        self._subscriptions: set[bytes] = set()
        self._source: zmq.Socket[bytes] | None = None
        self._sink: zmq.Socket[bytes] | None = None
        self._publisher: zmq.Socket[bytes] | None = None
        if listener is None:
            return
        self._publisher = context.socket(zmq.XPUB)
        listener.attach(self._publisher)
        self._source = context.socket(zmq.PUB)
        self._source.bind(_ADDRESS)
        self._sink = context.socket(zmq.SUB)
        self._sink.connect(_ADDRESS)
        self._sink.subscribe(b"")

    @property
    def feed(self) -> zmq.Socket[bytes] | None:
        """Where the proxy is to copy messages to; ``None`` while nobody subscribes."""
        return self._source if self._subscriptions else None

    def pollables(self) -> Sequence[zmq.Socket[bytes]]:
        return [sock for sock in (self._publisher, self._sink) if sock is not None]

    def reports(self) -> Iterator[Report]:
        """Read subscriptions; a report for each time that :attr:`feed` begins or ends."""
        if self._publisher is None:
            return
        had = bool(self._subscriptions)
        while True:
            try:
                message = self._publisher.recv(zmq.DONTWAIT)
            except zmq.Again:
                break
            if message[:1] == b"\x01":
                self._subscriptions.add(message[1:])
            elif message[:1] == b"\x00":
                self._subscriptions.discard(message[1:])
        if self._subscriptions and not had:
            yield Report("capture.subscribed", {"subscriptions": len(self._subscriptions)})
        elif had and not self._subscriptions:
            yield Report("capture.unsubscribed")

    def relay(self) -> None:
        """Publish what has been captured, a bounded number of messages at a time."""
        if self._sink is None or self._publisher is None:
            return
        for _ in range(_RELAYED_A_TURN):
            try:
                message = self._sink.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self._publisher.send_multipart([self._queue, *message], zmq.DONTWAIT)

    def close(self) -> None:
        """Close the relay's own sockets; the data thread must have ended."""
        for sock in (self._publisher, self._source, self._sink):
            if sock is not None:
                sock.close(0)
