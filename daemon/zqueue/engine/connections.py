"""Who is connected to one side of a queue, as far as libzmq's socket monitor tells.

The monitor names a connection by its descriptor when it is accepted and when it ends, but not
when its handshake succeeds; of several that shake hands at once, the oldest is taken to be the one.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import parse_monitor_message

from zqueue import endpoints
from zqueue.engine import ConnectionCounts, Report, Side
from zqueue.engine.connects import Connects
from zqueue.engine.reasons import of_libzmq, told
from zqueue.gates import Gates
from zqueue.listeners import Listener
from zqueue.monitor import open_monitor

_WATCHED = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_ACCEPT_FAILED
    | zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_EVENTS_A_READ = 2000
_PROBED_FOR = 0.2
_SAYS_WITHIN = 0.1
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_LEFT = "it left, or was turned away, before its handshake was done"
_BROKE = "what it sent is not a ZMTP frame, or larger than max_message_size"


@dataclass
class _Connection:
    """``ours``: we connected, and ``endpoint`` is where to."""

    peer: str
    endpoint: str
    since: float
    ours: bool = False


class Connections:
    """Reads the monitor of one socket and turns what it says into reports.

    Its listeners' gates are closed when descriptors run out and opened when there is room again;
    ``many`` is as for :class:`~zqueue.descriptors.Budget`.
    """

    def __init__(
        self,
        side: Side,
        watched: zmq.Socket[bytes],
        listeners: tuple[Listener, ...],
        *,
        many: bool,
    ) -> None:
        self._side = side
        self._listeners = listeners
        # By descriptor, in the order in which they came.
        self._shaking: dict[int, _Connection] = {}
        self._ready: dict[int, _Connection] = {}
        self._handshake_failure: str | None = None
        self.connects = Connects()
        # Where we connected to, and libzmq has not said yet whether it does again: since when, and
        # why the connection ended.
        self._over: dict[str, tuple[float, str]] = {}
        self._gates = Gates(listeners, many=many)
        self.counts = ConnectionCounts()
        self.monitor = open_monitor(watched, f"inproc://monitor-{side}", _WATCHED, listeners)

    @property
    def established(self) -> int:
        """How many connections have finished their handshake."""
        return len(self._ready)

    def reports(self) -> Iterator[Report]:
        """What the monitor has to tell, without waiting for more."""
        for _ in range(_EVENTS_A_READ):
            try:
                message = self.monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            event = parse_monitor_message(message)
            endpoint = event["endpoint"].decode(errors="replace")
            yield from self._report(event["event"], event["value"], endpoint)

    def reopen_gates(self) -> Iterator[Report]:
        """Open the gates that were closed for want of descriptors, if there is room again."""
        for listener in self._gates.reopen():
            yield Report("listener.opened_gate", {"side": self._side, "endpoint": listener.asked})

    def given_up(self) -> Iterator[tuple[str, str]]:
        """The endpoints, each once, that libzmq does not connect to any more after the peer there
        has broken the protocol, and why. Elsewhere it says at once that it tries again."""
        now = time.monotonic()
        for endpoint, (since, why) in list(self._over.items()):
            if now - since > _SAYS_WITHIN:
                del self._over[endpoint]
                yield endpoint, why

    def close(self) -> None:
        """Stop watching. The socket and its context must be closed next: libzmq may wait for
        somebody to hear it."""
        self.monitor.close()

    def _report(self, event: int, value: int, endpoint: str) -> Iterator[Report]:
        side = self._side
        if event in (zmq.EVENT_CONNECTED, zmq.EVENT_CONNECT_RETRIED):
            self._over.pop(endpoint, None)
        if event in (zmq.EVENT_ACCEPTED, zmq.EVENT_CONNECTED):
            ours = event == zmq.EVENT_CONNECTED
            peer = endpoint if ours else peer_name(value, endpoint)
            self._shaking[value] = _Connection(peer, endpoint, time.monotonic(), ours)
            self.counts.accepted += 1
            yield from self._gates_closed(self._gates.accepted(value), value)
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            connection = self._shaken_hands(endpoint)
            if connection is not None:
                self.connects.came_up(connection.peer)
                yield Report("peer.connected", {"side": side, "peer": connection.peer})
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._handshake_failure = of_libzmq(value)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._handshake_failure = f"its authentication failed ({value})"
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            # Whichever end was the first to close, errno tells no more than that.
            self._handshake_failure = _LEFT
        elif event == zmq.EVENT_DISCONNECTED:
            yield from self._disconnected(value)
        elif event == zmq.EVENT_ACCEPT_FAILED:
            yield from self._accept_failed(value)
        elif event == zmq.EVENT_CONNECT_RETRIED:
            error = self.connects.last_error(endpoint) or "it cannot be connected to"
            if self.connects.is_due(endpoint):
                error = _why_not(endpoint) or error
            yield self.connects.failed(side, endpoint, error, f"tried again in {value} ms")

    def _shaken_hands(self, endpoint: str) -> _Connection | None:
        """Count as ready the one that has been shaking hands longest at ``endpoint``, or at all."""
        same = (number for number, each in self._shaking.items() if each.endpoint == endpoint)
        descriptor = next(same, next(iter(self._shaking), None))
        if descriptor is None:
            return None
        self._ready[descriptor] = connection = self._shaking.pop(descriptor)
        return connection

    def _disconnected(self, descriptor: int) -> Iterator[Report]:
        failure, self._handshake_failure = self._handshake_failure, None
        ready = self._ready.pop(descriptor, None)
        connection = ready or self._shaking.pop(descriptor, None)
        if connection is None:
            return
        if ready is not None and failure is not None and self._shaken_hands(ready.endpoint):
            # The handshake that failed was this one: the success was another's.
            ready = None
        if connection.ours:
            why = failure or (_LEFT if ready is None else _BROKE)
            self._over[connection.endpoint] = time.monotonic(), why
        if ready is not None:
            self.counts.disconnected += 1
            lasted = round(time.monotonic() - connection.since, 3)
            yield Report(
                "peer.disconnected",
                {"side": self._side, "peer": connection.peer, "connected_for": lasted},
            )
        else:
            self.counts.rejected += 1
            yield Report(
                "peer.rejected",
                {"side": self._side, "peer": connection.peer} | told(self._side, failure or _LEFT),
            )

    def _gates_closed(self, closed: list[Listener], descriptor: int) -> Iterator[Report]:
        for listener in closed:
            yield Report(
                "listener.closed_gate",
                {
                    "side": self._side,
                    "endpoint": listener.asked,
                    "descriptors": descriptor,
                    "limit": self._gates.limit,
                },
            )

    def _accept_failed(self, error: int) -> Iterator[Report]:
        if error not in _OUT_OF_DESCRIPTORS:
            return  # the connection had gone before it was accepted
        yield Report(
            "listener.accept_failed",
            {
                "side": self._side,
                "endpoint": ", ".join(listener.asked for listener in self._listeners),
                "error": os.strerror(error),
            },
        )
        yield from self._gates_closed(self._gates.close(), self._gates.limit)
        # It was said as often as libzmq tried; once is enough.
        while self.monitor.poll(0):
            message = self.monitor.recv_multipart()
            event = parse_monitor_message(message)
            if event["event"] != zmq.EVENT_ACCEPT_FAILED:
                endpoint = event["endpoint"].decode(errors="replace")
                yield from self._report(event["event"], event["value"], endpoint)
                return


def _why_not(endpoint: str) -> str:
    """Why nothing can be connected to there, which libzmq does not say: found by trying once."""
    parsed = endpoints.parse(endpoint, "connect")
    try:
        if parsed.transport == "ipc":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_PROBED_FOR)
                probe.connect("\0" + parsed.address[1:] if parsed.abstract else parsed.address)
        else:
            socket.create_connection((parsed.host, parsed.port or 0), _PROBED_FOR).close()
    except TimeoutError:
        return "nothing answers there"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def peer_name(descriptor: int, endpoint: str) -> str:
    """The address at the other end of a descriptor that was accepted at ``endpoint``.

    ``unknown`` if it is gone already, its number given to something else perhaps.
    """
    try:
        connection = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return "unknown"
    with connection:
        try:
            here = connection.getsockname()
            if connection.family == socket.AF_UNIX:
                raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                pid, uid, _ = array.array("i", raw)
                return f"ipc:pid={pid},uid={uid}" if endpoint.startswith("ipc://") else "unknown"
            peer = connection.getpeername()
        except OSError:
            return "unknown"
    if endpoint.rpartition(":")[2] != str(here[1]):
        return "unknown"
    host = f"[{peer[0]}]" if connection.family == socket.AF_INET6 else peer[0]
    return f"tcp://{host}:{peer[1]}"
