"""The thread that moves messages: in libzmq's proxy while traffic flows, in a pump otherwise.

libzmq's proxy (C, no Python for a message) is left whenever it would do harm: while requests are
held, because its own hold burns a core; while workers are missing or full, because it spins or
blocks then. The pump, in Python, does then what may be done: it returns replies, passes
subscriptions, and hands out requests one by one as far as workers take them.
"""

from __future__ import annotations

import contextlib
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import zmq

from zqueue.threads import name_this_thread

_BURST = 64
_CALM_AFTER = 1000
_SAMPLE = 8
_SAMPLE_ONE_WAY = 64
_COUNTED_FOR = 0.2
_GATHERED_FOR = 0.2
_GATHERED_BYTES = 64 << 20
_STACK = 16 << 20  # of which only what is used takes memory

Message = Sequence[bytes]
"""The frames of one message."""

LEFT = b"LEFT"
"""Sent on the control PAIR when the proxy has returned, after its last statistics."""
OBEYED = b"OBEYED"
"""Sent on the control PAIR when an order has been carried out."""
FAILED = b"FAILED"
"""Sent on the control PAIR, with the reason, when the thread ends by itself."""
OVERFLOW_ADDRESS = "inproc://overflow"
"""Where the backend is bound besides its endpoints, so that a blocked send can be let out."""


@dataclass
class PumpTraffic:
    """What the pump has moved one way; written by the data thread only."""

    messages: int = 0
    frames: int = 0
    bytes: int = 0

    def add(self, message: Message) -> None:
        self.messages += 1
        self.frames += len(message)
        self.bytes += sum(map(len, message))


class Shape:
    """How many frames a message has, as seen on those that went through the pump."""

    def __init__(self, usual: int) -> None:
        self._usual = usual
        self._seen: deque[int] = deque(maxlen=8 * _SAMPLE)

    def see(self, message: Message) -> None:
        self._seen.append(len(message))

    @property
    def frames_a_message(self) -> int:
        """The median, so that a few odd messages do not count."""
        seen = list(self._seen)
        return statistics.median_low(seen) if len(seen) >= _SAMPLE else self._usual


class ProxyThread:
    """Owns the two data sockets for as long as it runs.

    Its orders (:meth:`forward`, :meth:`hold`, …) come from one other thread. Each returns at once,
    True if the thread is in libzmq's proxy and must be made to leave it, by the words of the
    proxy's PAIR, before it can obey. What the thread has to say goes out on ``control``, that PAIR,
    in order with the proxy's own statistics.
    """

    def __init__(
        self,
        name: str,
        frontend: zmq.Socket[bytes],
        backend: zmq.Socket[bytes],
        control: zmq.Socket[bytes],
        wake: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
        *,
        answers: bool,
        two_way: bool,
        holds_senders: bool,
        frames_a_message: int,
    ) -> None:
        self._frontend = frontend
        self._backend = backend
        self._control = control
        self._wake, self._poke = wake
        self._answers = answers
        self._two_way = two_way
        self._holds_senders = holds_senders
        self._capture: zmq.Socket[bytes] | None = None
        self._lock = threading.Lock()
        self._orders: deque[Callable[[], None]] = deque()
        self._inside = False
        self._hold = True
        self._draining = False
        self._closing = False
        self._parked: deque[list[bytes]] = deque()
        self._to_sample = _SAMPLE
        self._replies_to_sample = _SAMPLE
        self._streak = 0
        self.requests = PumpTraffic()
        self.replies = PumpTraffic()
        self.request_shape = Shape(frames_a_message)
        self.reply_shape = Shape(frames_a_message)
        self.held = False
        self.stuck = False
        self.backlog = False
        self.dry = False
        self.left_over: int | None = 0
        self._thread = threading.Thread(target=self._run, name=f"zq-{name}", daemon=True)

    # -- for the steering thread -------------------------------------------------------------

    def start(self, hold: bool) -> None:
        self._hold = self.held = hold
        # An XSUB goes through a topic by recursion, some 80 bytes of stack for each byte of it, and
        # ``ulimit -s`` may be small.
        usual = threading.stack_size(_STACK)
        try:
            self._thread.start()
        finally:
            threading.stack_size(usual)

    def forward(self) -> bool:
        """Pass requests."""
        return self._order(self._begin_to_forward)

    def hold(self) -> bool:
        """Return replies and pass subscriptions, but hand out no request."""
        return self._order(self._begin_to_hold)

    def drain(self) -> bool:
        """As :meth:`hold`, but hand out what has come already: what can be read now is parked for
        that. Of senders that are held and lose nothing all is handed out, for as long as they send.
        ``dry`` is True once nothing of it is left."""
        return self._order(self._begin_to_drain)

    def review(self) -> bool:
        """Look whether the proxy is the right place to be."""
        return self._order(lambda: None)

    def capture_to(self, capture: zmq.Socket[bytes] | None) -> bool:
        """Copy all that passes to ``capture``, or to nobody."""
        return self._order(lambda: setattr(self, "_capture", capture))

    def take_in(self, overflow: zmq.Socket[bytes]) -> bool:
        """Park what a blocked send was let out into, and close that way out."""
        return self._order(lambda: self._take_in(overflow))

    def work_on(self, work: Callable[[], None]) -> bool:
        """Do ``work`` with the sockets."""
        return self._order(work)

    def end(self) -> bool:
        """Let the thread end; the sockets are the caller's again once it has."""
        return self._order(lambda: setattr(self, "_closing", True))

    def _order(self, order: Callable[[], None]) -> bool:
        with self._lock:
            self._orders.append(order)
            inside = self._inside
        if not inside:
            with contextlib.suppress(zmq.Again):
                self._poke.send(b"", zmq.DONTWAIT)
        return inside

    def tell_proxy(self, steer: zmq.Socket[bytes], *words: bytes) -> bool:
        """Send ``words`` to the proxy, if the thread is in it; False if it is not."""
        with self._lock:
            if not self._inside:
                return False
            for word in words:
                steer.send(word, zmq.DONTWAIT)
            return True

    @property
    def inside(self) -> bool:
        """True while the thread is in libzmq's proxy."""
        return self._inside

    @property
    def parked(self) -> int:
        """Requests that were taken from clients and are kept here until workers take them."""
        return len(self._parked)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def ident(self) -> int:
        return self._thread.ident or 0

    def join(self, timeout: float) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        name_this_thread(self._thread.name)
        # A signal that this thread caught would make the proxy return in the middle of a message.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            while True:
                self._pump()
                if self._closing:
                    self.left_over = self._count_left_over()
                    return
                with self._lock:
                    if self._orders:
                        continue
                    self._inside = True
                self._proxy()
        except Exception as error:  # whatever it is, the queue's thread has to hear of it
            with contextlib.suppress(zmq.ZMQError):
                self._control.send_multipart([FAILED, str(error).encode()], zmq.DONTWAIT)

    def _proxy(self) -> None:
        try:
            zmq.proxy_steerable(self._frontend, self._backend, self._capture, self._control)
        except zmq.Again:
            # A peer vanished between poll and recv; nothing is wrong, and nothing was lost.
            pass
        finally:
            with self._lock:
                self._inside = False
                while self._control.poll(0):
                    self._control.recv_multipart()
            self._control.send(LEFT, zmq.DONTWAIT)

    def _pump(self) -> None:
        """Move what may be moved, until the proxy can take over or the queue closes."""
        self._streak = 0
        poller = zmq.Poller()
        poller.register(self._wake, zmq.POLLIN)
        while True:
            self._carry_out_orders()
            if self._closing:
                return
            writable = bool(_events(self._backend) & zmq.POLLOUT)
            passing = not self._hold
            if passing and writable and self._may_leave():
                self.stuck = self.backlog = False
                return
            taking = passing or (self._draining and self._holds_senders)
            giving = taking or bool(self._draining and self._parked)
            self.backlog = bool(_events(self._frontend) & zmq.POLLIN)
            self.stuck = giving and not writable and bool(self._parked or self.backlog)
            self.dry = self._draining and not self._parked and not (taking and self.backlog)
            self._interest(poller, giving, taking and writable and not self._parked)
            ready = dict(poller.poll())
            if self._wake in ready:
                self._empty_wake()
            if self._two_way:
                self._return_replies()
            if giving:
                self._hand_out_requests(taking)

    def _may_leave(self) -> bool:
        """True when the proxy would neither spin nor block: workers keep up with clients."""
        if self._parked:
            return False
        if self._to_sample > 0 or (self._answers and self._replies_to_sample > 0):
            one_way = self.requests.messages - self.replies.messages >= _SAMPLE_ONE_WAY
            if not (self._to_sample <= 0 and one_way):
                return False
        return self._streak >= _CALM_AFTER or not _events(self._frontend) & zmq.POLLIN

    def _interest(self, poller: zmq.Poller, giving: bool, taking: bool) -> None:
        backend = zmq.POLLIN if self._two_way else 0
        frontend = zmq.POLLIN if taking else 0
        if giving and not taking:
            backend |= zmq.POLLOUT
        for sock, events in ((self._frontend, frontend), (self._backend, backend)):
            if events:
                poller.register(sock, events)
            elif sock in poller:
                poller.unregister(sock)

    def _empty_wake(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                self._wake.recv(zmq.DONTWAIT)

    def _return_replies(self) -> None:
        for _ in range(_BURST):
            try:
                message = self._backend.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            # A ROUTER drops what it cannot send at once, an XSUB likewise.
            with contextlib.suppress(zmq.Again):
                self._frontend.send_multipart(message, zmq.DONTWAIT)
            self.replies.add(message)
            self.reply_shape.see(message)
            self._replies_to_sample -= 1
            self._copy_to_capture(message)

    def _hand_out_requests(self, from_clients: bool) -> None:
        for _ in range(_BURST):
            if not _events(self._backend) & zmq.POLLOUT:
                self._streak = 0
                return
            if self._parked:
                # Counted, sampled and captured when it was taken from its client.
                if not self._give(self._parked.popleft()):
                    return
                continue
            if not from_clients:
                return
            try:
                message = self._frontend.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            given = self._give(message)
            self._taken(message)
            self._streak += 1
            if not given:
                return

    def _taken(self, message: list[bytes]) -> None:
        """Count what was taken from a client."""
        self.requests.add(message)
        self.request_shape.see(message)
        self._to_sample -= 1
        self._copy_to_capture(message)

    def _give(self, message: list[bytes]) -> bool:
        """Send to a worker, or park at the head of the line if the last one has just left."""
        try:
            self._backend.send_multipart(message, zmq.DONTWAIT)
        except zmq.Again:
            self._parked.appendleft(message)
            return False
        return True

    def _copy_to_capture(self, message: list[bytes]) -> None:
        if self._capture is not None:
            self._capture.send_multipart(message)

    def _carry_out_orders(self) -> None:
        while True:
            with self._lock:
                if not self._orders:
                    return
                order = self._orders.popleft()
            order()
            self._control.send(OBEYED, zmq.DONTWAIT)

    def _begin_to_hold(self) -> None:
        self._hold = self.held = True
        self._draining = self.dry = False

    def _begin_to_drain(self) -> None:
        self.dry = False
        self._hold = self.held = self._draining = True
        if not self._holds_senders:
            self._gather()

    def _gather(self) -> None:
        """Park what can be read. Who goes on sending is not waited for, and costs no memory."""
        deadline, room = time.monotonic() + _GATHERED_FOR, _GATHERED_BYTES
        with contextlib.suppress(zmq.Again):
            while time.monotonic() < deadline and room > 0:
                message = self._frontend.recv_multipart(zmq.DONTWAIT)
                room -= sum(map(len, message))
                self._taken(message)
                self._parked.append(message)

    def _begin_to_forward(self) -> None:
        self._hold = self.held = self._draining = self.dry = False
        self._to_sample = self._replies_to_sample = _SAMPLE

    def _take_in(self, overflow: zmq.Socket[bytes]) -> None:
        self._receive_all(overflow)
        overflow.disconnect(OVERFLOW_ADDRESS)
        # Reading the events makes the backend notice that the pipe is gone.
        self._backend.get(zmq.EVENTS)
        self._receive_all(overflow)
        overflow.close(0)

    def _receive_all(self, overflow: zmq.Socket[bytes]) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                self._parked.append(overflow.recv_multipart(zmq.DONTWAIT))

    def _count_left_over(self) -> int | None:
        """How many requests were taken from clients, or stand in their line, and go no further;
        ``None`` where that cannot be known."""
        count = len(self._parked)
        if not self._answers:
            # To read on would take from producers what they could keep.
            return None if _events(self._frontend) & zmq.POLLIN else count
        deadline = time.monotonic() + _COUNTED_FOR
        with contextlib.suppress(zmq.ZMQError):
            while time.monotonic() < deadline:
                self._frontend.recv_multipart(zmq.DONTWAIT, copy=False)
                count += 1
        return count


def _events(sock: zmq.Socket[bytes]) -> int:
    return int(sock.get(zmq.EVENTS))
