"""A ZeroMQ socket in an event loop: what comes is handed on, no send is waited for.

``zmq.asyncio`` knows no send that fails at once where it would have to wait, which is just what a
server needs whose callers may not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import zmq

_READ_A_TURN = 20


class LoopSocket:
    """Reads ``sock`` in the running loop and calls ``on_message(frames)`` for each message."""

    def __init__(
        self, sock: zmq.Socket[bytes], on_message: Callable[[list[zmq.Frame]], None]
    ) -> None:
        self._socket = sock
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._descriptor = int(sock.get(zmq.FD))
        self._scheduled = False
        self._reads = True
        self._loop.add_reader(self._descriptor, self._read)
        self._read_soon()

    def send(self, frames: Sequence[bytes]) -> None:
        """Send now.

        Raises:
            zmq.Again: it would have to wait.
            zmq.ZMQError: as for ``zmq_msg_send(3)``.
        """
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        finally:
            # Sending may have taken the one hint that there is something to read (ZMQ_FD).
            self._read_soon()

    def stop_reading(self) -> None:
        """Leave the socket to whoever reads it next."""
        self._loop.remove_reader(self._descriptor)
        self._reads = False

    def close(self, linger: int) -> None:
        """Stop reading and close the socket; ``linger`` in milliseconds."""
        self.stop_reading()
        self._socket.close(linger)

    def _read_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._scheduled = False
        for _ in range(_READ_A_TURN):
            if not self._reads:
                return
            try:
                frames = self._socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            try:
                self._on_message(frames)
            except Exception as error:  # one message must not keep the next from being read
                context = {"message": "a message was not dealt with", "exception": error}
                self._loop.call_exception_handler(context)
        # Others have their turn first.
        if self._reads:
            self._read_soon()
