"""Throughput: clients that keep the broker busy, workers that echo, both without libzmq.

Both know ZMTP's frames only as bytes. The clients send the same encoded requests again and again
and count replies by their length. The workers send back whatever they read, which is a valid
reply: the routing id, the delimiter and the body, unchanged.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks import cpu, zmtp

_READ_AT_MOST = 1 << 18
_FEW_CLIENTS = 4
_LAST_REPLIES_WITHIN = 20.0


@dataclass(frozen=True)
class Measured:
    """What one round gave. ``answered`` is within the window; the totals are of the whole round."""

    answered: int
    used: cpu.Sample
    total_sent: int
    total_answered: int


@dataclass(frozen=True)
class Clients:
    """Job: ``clients`` DEALERs with up to ``window`` requests each outstanding.

    Every client asks once before and once after, and compares the reply byte by byte: so all are
    connected when the window begins, and the replies counted between were whole.
    """

    endpoint: str
    broker_pid: int
    workers_pid: int
    cpus: frozenset[int]
    body_bytes: int
    clients: int
    window: int
    warm_up: float
    seconds: float

    def run(self, ready: Callable[[], None], orders: Connection) -> Measured:
        request = zmtp.request(os.urandom(self.body_bytes))
        with contextlib.ExitStack() as stack:
            poll = stack.enter_context(select.epoll())
            clients: dict[int, _Client] = {}
            for _ in range(self.clients):
                connection = stack.enter_context(zmtp.connect(self.endpoint, "DEALER"))
                clients[connection.fileno()] = _Client(connection, poll, request, self._together())
            _ask_each(clients, request)
            for client in clients.values():
                client.begin(self.window)
            _exchange(poll, clients, self.warm_up)
            begin, answered = self._sample(), _answered(clients)
            _exchange(poll, clients, self.seconds)
            end, answered = self._sample(), _answered(clients) - answered
            if not answered:
                raise TimeoutError(f"not one request was answered in {self.seconds:g} s")
            if _take_last_replies(poll, clients):
                _ask_each(clients, request)
            return Measured(
                answered=answered,
                used=begin.until(end),
                total_sent=sum(client.sent for client in clients.values()),
                total_answered=_answered(clients),
            )

    def _sample(self) -> cpu.Sample:
        return cpu.Sample.take(self.broker_pid, (os.getpid(), self.workers_pid), self.cpus)

    def _together(self) -> int:
        """How many requests a client sends at once: all, where others keep the broker busy."""
        return self.window if self.clients >= _FEW_CLIENTS else max(1, self.window // 16)


@dataclass(frozen=True)
class Workers:
    """Job: ``workers`` connections, each a REP to the broker, until told to stop."""

    endpoint: str
    workers: int

    def run(self, ready: Callable[[], None], orders: Connection) -> None:
        with contextlib.ExitStack() as stack:
            poll = stack.enter_context(select.epoll())
            workers: dict[int, _Worker] = {}
            for _ in range(self.workers):
                connection = stack.enter_context(zmtp.connect(self.endpoint, "REP"))
                workers[connection.fileno()] = _Worker(connection, poll)
            poll.register(orders.fileno(), select.EPOLLIN)
            ready()
            while not orders.poll():
                for fd, _ in poll.poll():
                    if fd in workers:
                        workers[fd].echo()
            orders.recv()


class _Client:
    """One connection: how many bytes of replies it is owed, and what it has yet to send."""

    def __init__(
        self, connection: socket.socket, poll: select.epoll, request: bytes, together: int
    ) -> None:
        self._socket, self._poll = connection, poll
        self._request_bytes = len(request)
        self._chunk = memoryview(request * together)
        self._window_bytes = 0
        self._sent_bytes = 0
        self._unsent = memoryview(b"")
        self._waits_to_send = False
        self.owed_bytes = 0

    @property
    def sent(self) -> int:
        return self._sent_bytes // self._request_bytes

    @property
    def answered(self) -> int:
        return (self._sent_bytes - self.owed_bytes) // self._request_bytes

    def ask(self, request: bytes) -> bytes:
        """One request, and what came back."""
        self._socket.settimeout(_LAST_REPLIES_WITHIN)
        self._socket.sendall(request)
        return zmtp.receive(self._socket, len(request))

    def begin(self, window: int) -> None:
        self._socket.setblocking(False)
        # SO_RCVLOWAT would save wake-ups, but it also holds back acknowledgements: a broker that
        # sends small segments then stalls at its congestion window.
        self._poll.register(self._socket.fileno(), select.EPOLLIN)
        self._window_bytes = window * self._request_bytes
        self._send()

    def end(self) -> None:
        """Begin no further request."""
        self._window_bytes = 0

    def handle(self, events: int) -> None:
        if events & ~select.EPOLLOUT:
            # TCP throws away what MSG_TRUNC asks for, and copies nothing.
            received = self._socket.recv_into(_SINK, 0, socket.MSG_TRUNC)
            if not received:
                raise ConnectionError("the broker closed a client's connection")
            self.owed_bytes -= received
        self._send()

    def _send(self) -> None:
        while self._unsent or self.owed_bytes + len(self._chunk) <= self._window_bytes:
            if not self._unsent:
                self._unsent = self._chunk
                self._sent_bytes += len(self._chunk)
                self.owed_bytes += len(self._chunk)
            self._unsent = self._unsent[_send_some(self._socket, self._unsent) :]
            if self._unsent:
                break
        if bool(self._unsent) != self._waits_to_send:
            self._waits_to_send = bool(self._unsent)
            wanted = select.EPOLLIN | (select.EPOLLOUT if self._waits_to_send else 0)
            self._poll.modify(self._socket.fileno(), wanted)


class _Worker:
    """One connection that sends back what it reads, and reads on once that is sent."""

    def __init__(self, connection: socket.socket, poll: select.epoll) -> None:
        self._socket, self._poll = connection, poll
        self._buffer = memoryview(bytearray(_READ_AT_MOST))
        self._unsent = self._buffer[:0]
        connection.setblocking(False)
        poll.register(connection.fileno(), select.EPOLLIN)

    def echo(self) -> None:
        """Go on with what was left, else read and send as much as can be."""
        waited = bool(self._unsent)
        if not waited:
            received = self._socket.recv_into(self._buffer)
            if not received:
                raise ConnectionError("the broker closed a worker's connection")
            self._unsent = self._buffer[:received]
        self._unsent = self._unsent[_send_some(self._socket, self._unsent) :]
        if bool(self._unsent) != waited:
            wanted = select.EPOLLOUT if self._unsent else select.EPOLLIN
            self._poll.modify(self._socket.fileno(), wanted)


_SINK = bytearray(_READ_AT_MOST)


def _send_some(connection: socket.socket, data: memoryview) -> int:
    try:
        return connection.send(data)
    except BlockingIOError:
        return 0


def _ask_each(clients: dict[int, _Client], request: bytes) -> None:
    for client in clients.values():
        if client.ask(request) != request:
            raise ConnectionError("a reply is not what was asked")


def _answered(clients: dict[int, _Client]) -> int:
    return sum(client.answered for client in clients.values())


def _exchange(poll: select.epoll, clients: dict[int, _Client], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        for fd, events in poll.poll(left):
            clients[fd].handle(events)


def _take_last_replies(poll: select.epoll, clients: dict[int, _Client]) -> bool:
    """True once every request is answered; False if some were not in all that time."""
    for client in clients.values():
        client.end()
    deadline = time.monotonic() + _LAST_REPLIES_WITHIN
    while any(client.owed_bytes for client in clients.values()):
        if time.monotonic() > deadline:
            return False
        for fd, events in poll.poll(0.1):
            clients[fd].handle(events)
    return True
