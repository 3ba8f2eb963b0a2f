"""The taps of one queue: each shows somebody the messages that pass and are as he asks for.

A tap is read, again and again; one that is not read for a while ends. What it has found is kept
within a bound until then, and what is too much is counted and left out: nothing waits for a reader.
Nor do taps take the CPU away from a data path that needs it: they have a share of the time, and a
small one where that is busy.
"""

from __future__ import annotations

import base64
import time
from collections import OrderedDict, deque
from typing import Any

from zqueue.engine import Engine, Tapped
from zqueue.tap_wish import TapWish

_ENDS_UNREAD = 5.0
_MOST_TAPS = 8
_KEPT = 20_000
_KEPT_BYTES = 32 << 20
_A_READ = 1000
_A_READ_BYTES = 2 << 20
_AT_ONCE = 50
_SHARE = 0.25
_SHARE_BESIDE_BUSY = 0.02
_BUSY = 0.25
LOOKED_AT_EVERY = 0.05
"""Seconds from one look at what has passed to the next."""


class TooManyTaps(LookupError):
    """There are as many as may be."""


class Taps:
    """Those that are open. ``if taps`` tells whether there is one."""

    def __init__(self) -> None:
        self._open: dict[str, _Tap] = {}
        self._missed = 0
        self._share = _SHARE_BESIDE_BUSY
        self._looked_at = self._looked_again_at = 0.0
        self._busy_for = 0.0

    def __bool__(self) -> bool:
        return bool(self._open)

    def read(self, engine: Engine, tap: str, **wish: Any) -> dict[str, Any]:
        """What the tap of this name has found since it was last read: ``{"messages": […],
        "dropped": how many were left out}``. It is opened if it is not open yet; ``wish`` is as in
        :class:`zqueue.control.messages.Tap`.

        Raises:
            LookupError: the engine cannot, or there are too many taps.
        """
        if tap not in self._open:
            if len(self._open) >= _MOST_TAPS:
                raise TooManyTaps(f"there are {_MOST_TAPS} taps already")
            if not self._open:
                self._missed = engine.tap_missed
            self._open[tap] = _Tap(TapWish(**wish))
            self._switch(engine)
        return self._open[tap].read()

    def take(self, engine: Engine) -> None:
        """Let every tap see what has passed, and end those that nobody reads."""
        began = time.monotonic()
        if began < self._looked_again_at:
            return
        missed, self._missed = engine.tap_missed - self._missed, engine.tap_missed
        for tap in self._open.values():
            tap.dropped += missed
        within = self._share_of_time(engine, began) * LOOKED_AT_EVERY
        while found := engine.tapped(_AT_ONCE):
            for message in found:
                for tap in self._open.values():
                    tap.see(message)
            if time.monotonic() - began > within:
                break
        now = time.monotonic()
        # What a batch takes too long is made up for by a longer pause.
        self._looked_again_at = began + max(LOOKED_AT_EVERY, (now - began) / self._share)
        for name in [name for name, tap in self._open.items() if now - tap.read_at > _ENDS_UNREAD]:
            self.end(engine, name)

    def _share_of_time(self, engine: Engine, now: float) -> float:
        busy_for = engine.busy_for
        if now - self._looked_at > 0:
            busy = (busy_for - self._busy_for) / (now - self._looked_at)
            self._share = _SHARE_BESIDE_BUSY if busy > _BUSY else _SHARE
        self._looked_at, self._busy_for = now, busy_for
        return self._share

    def end(self, engine: Engine | None, name: str) -> None:
        """End a tap, if it is open."""
        if self._open.pop(name, None) is not None and engine is not None:
            self._switch(engine)

    def forget(self) -> None:
        """The engine has ended."""
        self._open.clear()

    def _switch(self, engine: Engine) -> None:
        engine.tap(max((tap.wish.copies for tap in self._open.values()), default=None))


class _Tap:
    """What is kept for one reader."""

    def __init__(self, wish: TapWish) -> None:
        self.wish = wish
        self.read_at = time.monotonic()
        self.dropped = 0
        self._found: deque[tuple[int, dict[str, Any]]] = deque()
        self._found_bytes = 0
        # Requests that only their reply can decide on.
        self._undecided: OrderedDict[int, Tapped] = OrderedDict()
        self._undecided_bytes = 0
        # Requests that were shown: their replies are, too.
        self._shown: OrderedDict[int, None] = OrderedDict()

    def see(self, message: Tapped) -> None:
        """Keep it, if it is as was asked for, or may turn out to be."""
        if message.way == "request":
            if self.wish.decided_by_reply:
                self._wait_for_reply(message)
            elif self.wish.wants(message):
                self._show(message)
            return
        request = self._undecided.pop(message.number, None)
        if request is not None:
            self._undecided_bytes -= _size(request)
        if message.number in self._shown:
            del self._shown[message.number]
            self._keep(message)
        elif self.wish.wants(message) or (
            request is not None and self.wish.wants(request, message)
        ):
            if request is not None:
                self._keep(request)
            self._keep(message)

    def read(self) -> dict[str, Any]:
        self.read_at = time.monotonic()
        messages: list[dict[str, Any]] = []
        size = 0
        while self._found and len(messages) < _A_READ and size < _A_READ_BYTES:
            each, message = self._found.popleft()
            size += each
            self._found_bytes -= each
            messages.append(message)
        dropped, self.dropped = self.dropped, 0
        return {"messages": messages, "dropped": dropped}

    def _wait_for_reply(self, message: Tapped) -> None:
        self._undecided[message.number] = message
        self._undecided_bytes += _size(message)
        while len(self._undecided) > _KEPT or self._undecided_bytes > _KEPT_BYTES:
            _, oldest = self._undecided.popitem(last=False)
            self._undecided_bytes -= _size(oldest)
            self.dropped += 1

    def _show(self, message: Tapped) -> None:
        self._shown[message.number] = None
        if len(self._shown) > _KEPT:
            self._shown.popitem(last=False)
        self._keep(message)

    def _keep(self, message: Tapped) -> None:
        if len(self._found) >= _KEPT or self._found_bytes > _KEPT_BYTES:
            self.dropped += 1
            return
        size = min(_size(message), self.wish.content) + 512
        self._found.append((size, _told(message, self.wish.content)))
        self._found_bytes += size


def _size(message: Tapped) -> int:
    return sum(map(len, message.bodies)) + 512


def _told(message: Tapped, content: int) -> dict[str, Any]:
    """As :class:`zqueue.control.messages.TappedMessage` has it."""
    left = content
    bodies = []
    for body in message.bodies:
        bodies.append(base64.b64encode(body[:left]).decode())
        left -= min(left, len(body))
    return {
        "way": message.way,
        "id": message.number or None,
        "at": message.at,
        "waited": message.waited,
        "service": message.service,
        "client": message.client,
        "client_peer": message.client_peer,
        "client_identity": message.identity.hex(),
        "worker": message.worker,
        "worker_peer": message.worker_peer,
        "frames": message.frames,
        "sizes": message.sizes,
        "bodies": bodies,
    }
