"""The taps of one queue: each shows somebody the messages that pass and are as he asks for.

A tap is read, again and again; one that is not read for a while ends. What it has found is kept
within a bound until then, and what is too much is counted and left out: nothing waits for a reader.
Nor do taps take the CPU away from a data path that needs it: they have a share of the time, and a
small one where that is busy.
"""

from __future__ import annotations

import base64
import fnmatch
import time
from collections import OrderedDict, deque
from typing import Any

from zqueue.engine import Engine, Tapped

_ENDS_UNREAD = 5.0
_MOST_TAPS = 8
_KEPT = 20_000
_KEPT_BYTES = 32 << 20
_A_READ = 1000
_A_READ_BYTES = 2 << 20
_SHOWN_FOR_SEARCH = 64 << 10
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
            self._open[tap] = _Tap(**wish)
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
        engine.tap(max((tap.copies for tap in self._open.values()), default=None))


class _Tap:
    def __init__(
        self,
        *,
        content: int,
        client: str | None = None,
        worker: str | None = None,
        smallest: int | None = None,
        largest: int | None = None,
        took: float | None = None,
        contains: str | None = None,
    ) -> None:
        self.read_at = time.monotonic()
        self.dropped = 0
        self._content = content
        self._client, self._worker = client, worker
        self._smallest, self._largest, self._took = smallest, largest, took
        self._contains = None if contains is None else contains.encode()
        # What is searched has to be copied. There are headers of frames, and a routing id, besides.
        self.copies = content + 512 if contains is None else max(content, _SHOWN_FOR_SEARCH) + 512
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
            if self._decided_by_reply():
                self._wait_for_reply(message)
            elif self._is_wanted(message):
                self._show(message)
            return
        request = self._undecided.pop(message.number, None)
        if request is not None:
            self._undecided_bytes -= _size(request)
        if message.number in self._shown:
            del self._shown[message.number]
            self._keep(message)
        elif self._is_wanted(message) or (
            request is not None and self._is_wanted(request, message)
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

    def _decided_by_reply(self) -> bool:
        return self._took is not None or self._worker is not None

    def _is_wanted(self, message: Tapped, reply: Tapped | None = None) -> bool:
        """``reply`` is the one to it, where that is known."""
        timed = reply or message
        if self._took is not None and _took(timed) < self._took:
            return False
        if self._worker is not None and not _is_peer(
            self._worker, timed.worker, timed.worker_peer, b""
        ):
            return False
        if self._client is not None and not _is_peer(
            self._client, message.client, message.client_peer, message.identity
        ):
            return False
        size = sum(message.sizes)
        if self._smallest is not None and size < self._smallest:
            return False
        if self._largest is not None and size > self._largest:
            return False
        return self._contains is None or any(self._contains in body for body in message.bodies)

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
        size = min(_size(message), self._content) + 512
        self._found.append((size, _told(message, self._content)))
        self._found_bytes += size


def _took(message: Tapped) -> float:
    return (message.waited or 0.0) + (message.service or 0.0)


def _size(message: Tapped) -> int:
    return sum(map(len, message.bodies)) + 512


def _is_peer(wanted: str, number: int | None, peer: str, identity: bytes) -> bool:
    """By its id, by its address, or by its routing id; the latter two may have ``*`` and ``?``."""
    if wanted.isdecimal():
        return number == int(wanted)
    return fnmatch.fnmatchcase(peer, wanted) or (
        bool(identity)
        and (
            fnmatch.fnmatchcase(identity.decode(errors="replace"), wanted)
            or identity.hex() == wanted
        )
    )


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
