"""One tap: what it has found for its reader, and the requests that only a reply can decide on."""

from __future__ import annotations

import base64
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from zqueue.engine import Tapped
from zqueue.tap_wish import TapWish

_KEPT = 20_000
_KEPT_BYTES = 32 << 20
_A_READ = 1000
_A_READ_BYTES = 2 << 20
_LONGEST_ID = 255

Answer = Callable[[dict[str, Any]], None]


class Tap:
    """What is kept for one reader."""

    def __init__(self, wish: TapWish) -> None:
        self.wish = wish
        self.dropped = 0
        self._reader: Answer | None = None
        self.read_at = 0.0
        """When its reader was, or will have been, answered."""
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

    def read(self, answer: Answer, wait: float) -> None:
        now = time.monotonic()
        self.answer()
        self._reader, self.read_at = answer, now + wait
        self.answer_if_due(now)

    def answer_if_due(self, now: float) -> None:
        if self._found or self.dropped or now >= self.read_at:
            self.answer()

    def answer(self) -> None:
        """Whoever reads gets what there is."""
        if self._reader is None:
            return
        reader, self._reader, self.read_at = self._reader, None, time.monotonic()
        messages: list[dict[str, Any]] = []
        size = 0
        while self._found and len(messages) < _A_READ and size < _A_READ_BYTES:
            each, message = self._found.popleft()
            size += each
            self._found_bytes -= each
            messages.append(message)
        dropped, self.dropped = self.dropped, 0
        reader({"messages": messages, "dropped": dropped})

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
        size = min(_size(message), max(self.wish.content, _LONGEST_ID)) + 512
        self._found.append((size, _told(message, self.wish.content)))
        self._found_bytes += size


def _size(message: Tapped) -> int:
    return len(message.identity) + sum(map(len, message.bodies)) + 512


def _told(message: Tapped, content: int) -> dict[str, Any]:
    """As :class:`zqueue.control.messages.TappedMessage` has it."""
    # What answers nothing may have anything in the place of a routing id.
    identity = message.identity[: max(content, _LONGEST_ID)]
    left = content if message.number else content - min(content, len(identity))
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
        "client_identity": identity.hex(),
        "identity_size": message.identity_size,
        "worker": message.worker,
        "worker_peer": message.worker_peer,
        "frames": message.frames,
        "sizes": message.sizes,
        "bodies": bodies,
    }
