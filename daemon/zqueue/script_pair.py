"""The PAIR that a queue's config binds, for scripts written for ``zmq_proxy_steerable``.

A PAIR of libzmq's serves one peer. Another that it has accepted meanwhile it leaves connected and
without a pipe, for good. So there is one connection at a time: while it lasts the gate is closed,
and whoever comes tries again. When it ends the socket is made anew, for libzmq frees the
place of the one that left in its own time.

The context is that of others, too. So the monitor of a socket that was closed is read until libzmq
has done with both: it would wait for somebody to hear it, and with it all that the context serves.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Iterator

import zmq
from zmq.utils.monitor import parse_monitor_message

from zqueue.engine import Report
from zqueue.engine.connections import peer_name
from zqueue.engine.reasons import NO_PAIR, of_libzmq, told
from zqueue.listeners import Listener

# Words are short; what is longer than this costs its sender the connection.
_LONGEST_WORD = 16 << 20
_HANDSHAKE_WITHIN = 5000
_EVENTS_A_READ = 100
_WATCHED = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_MONITOR_STOPPED
)
_CLOSED_WITHIN = 2.0
_numbers = itertools.count()


class ScriptPair:
    """Serves one script after the other at ``listener``, which stays its owner's.

    Raises:
        zmq.ZMQError: it cannot be served there.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], listener: Listener) -> None:
        self._context = context
        self._listener = listener
        self._former: list[zmq.Socket[bytes]] = []
        self._open()

    def _open(self) -> None:
        self._there: dict[int, str] = {}
        self._ready = self._left = False
        self._failure = ""
        self._pair: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        self._pair.linger = 0
        self._pair.set(zmq.MAXMSGSIZE, _LONGEST_WORD)
        self._pair.set(zmq.HANDSHAKE_IVL, _HANDSHAKE_WITHIN)
        # As in door.py: one who speaks an older ZMTP must not come while it is being closed.
        self._pair.set(zmq.ZAP_DOMAIN, b"zqueue")
        address = f"inproc://script-pair-{next(_numbers)}"
        self._pair.monitor(address, _WATCHED)
        self._monitor: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        self._monitor.set(zmq.RCVHWM, 0)
        self._monitor.linger = 0
        self._monitor.connect(address)
        try:
            self._listener.attach(self._pair)
        except zmq.ZMQError:
            self.close()
            raise

    def let_in(self) -> None:
        """Leave the listener as it was made, for whoever takes it over."""
        if self._listener.gate_closed:
            self._listener.open_gate()

    def close(self) -> None:
        self._let_go()
        deadline = time.monotonic() + _CLOSED_WITHIN
        while self._former and time.monotonic() < deadline:
            self._former[0].poll(100)
            self._hear_former()
        for monitor in self._former:
            monitor.close(0)

    def _let_go(self) -> None:
        self._pair.close(0)
        self._former.append(self._monitor)
        self.let_in()

    def _hear_former(self) -> None:
        """Close the monitors of sockets that are no more."""
        for monitor in list(self._former):
            with contextlib.suppress(zmq.Again):
                while True:
                    message = monitor.recv_multipart(zmq.DONTWAIT)
                    if parse_monitor_message(message)["event"] == zmq.EVENT_MONITOR_STOPPED:
                        self._former.remove(monitor)
                        monitor.close(0)
                        break

    def pollables(self) -> tuple[zmq.Socket[bytes], ...]:
        return self._pair, self._monitor, *self._former

    def words(self, most: int) -> Iterator[list[zmq.Frame]]:
        """Messages of the script that is served, up to so many."""
        for _ in range(most):
            try:
                yield self._pair.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                if self._left:
                    # All that it had said is read.
                    self._let_go()
                    self._open()
                return

    def answer(self, frames: list[bytes]) -> None:
        """Send to the script that is served, unless it does not read."""
        with contextlib.suppress(zmq.Again):
            self._pair.send_multipart(frames, zmq.DONTWAIT)

    def reports(self) -> Iterator[Report]:
        """Take in who has come and gone; tell of those that were no script."""
        self._hear_former()
        for _ in range(_EVENTS_A_READ):
            try:
                message = self._monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            event = parse_monitor_message(message)
            yield from self._heard(event["event"], event["value"])

    def _heard(self, event: int, value: int) -> Iterator[Report]:
        if event == zmq.EVENT_ACCEPTED:
            if self._there:
                _end(value)  # it came before nothing was accepted any more, and tries again
            else:
                self._there[value] = peer_name(value, self._listener.endpoint)
                if self._listener.close_gate():
                    self._listener.turn_away()
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._ready = True
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._failure = of_libzmq(value)
        elif event == zmq.EVENT_DISCONNECTED and value in self._there:
            peer = self._there.pop(value)
            self._left = True
            if not self._ready:
                why = told("control", self._failure or NO_PAIR)
                yield Report("peer.rejected", {"side": "control", "peer": peer} | why)


def _end(descriptor: int) -> None:
    """End a connection that libzmq has, and closes."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
