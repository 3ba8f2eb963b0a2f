"""What the data path copies as it passes: for the tap and for the capture, which share one ring."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import zmq

from zqueue.engine import Report, Tapped
from zqueue.engine.capture import CapturePublisher
from zqueue.engine.wire.datapath import DataPath
from zqueue.engine.wire.records import tapped
from zqueue.listeners import Listener

_ALL_BYTES = 2**63
_ANY_NUMBER = 1 << 62
_CAPTURED_A_TURN = 500


class Copies:
    """Publishes them at ``capture``, if there is one, and gives them to whoever taps the queue."""

    def __init__(
        self,
        path: DataPath,
        queue: str,
        capture: Listener | None,
        context: zmq.Context[zmq.Socket[bytes]],
    ) -> None:
        self._path = path
        self._capture = CapturePublisher(queue, capture, context)
        self._tap: int | None = None
        self._allowed: int | None = None
        self._captured: deque[dict[str, Any]] = deque(maxlen=_CAPTURED_A_TURN)
        if capture is not None:
            path.tap(False, 0, False)

    def pollables(self) -> Sequence[zmq.Socket[bytes]]:
        return self._capture.pollables()

    def reports(self) -> Iterator[Report]:
        """Publish what was copied; a report whenever somebody begins or ends to listen."""
        for told in self._capture.reports():
            self._switch()
            yield told
        if self._capture.wanted:
            for each in self._path.tapped(_CAPTURED_A_TURN):
                if each["whole"]:
                    self._capture.publish(each["bodies"])
                if self._tap is not None:
                    self._captured.append(each)

    def tap(self, most: int | None) -> None:
        """See :meth:`zqueue.engine.Engine.tap`."""
        if most is None:
            self._allowed = None
            self._captured.clear()
        self._tap = most
        self._switch()

    def allow_tap(self, exchanges: int | None) -> None:
        """See :meth:`zqueue.engine.Engine.allow_tap`."""
        self._allowed = exchanges
        if self._capture.wanted or exchanges is None:
            exchanges = _ANY_NUMBER
        self._path.allow_tap(exchanges)

    def tapped(self, most: int) -> list[Tapped]:
        """See :meth:`zqueue.engine.Engine.tapped`."""
        since_the_epoch = time.time() - time.monotonic()
        found = [self._captured.popleft() for _ in range(min(most, len(self._captured)))]
        if not self._capture.wanted:
            found += self._path.tapped(most - len(found))
        return [tapped(each, since_the_epoch) for each in found]

    def close(self) -> None:
        self._capture.close()

    def _switch(self) -> None:
        captured = self._capture.wanted
        wanted = captured or self._tap is not None
        self._path.tap(wanted, _ALL_BYTES if captured else self._tap or 0, captured)
        self.allow_tap(self._allowed)
