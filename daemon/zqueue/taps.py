"""The taps of one queue: each shows somebody the messages that pass and are as he asks for.

A tap is read, again and again; one that is not read for a while ends. What it has found is kept
within a bound until then, and what is too much is counted and left out: nothing waits for a reader.
Nor do taps take the CPU away from a data path that needs it: they have a share of the time, and a
small one where that is busy.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from zqueue.engine import Engine
from zqueue.tap import Answer, Tap
from zqueue.tap_wish import TapWish

_ENDS_UNREAD = 5.0
_MOST_TAPS = 8
_AT_ONCE = 50
_BUSY = 0.25


@dataclass(frozen=True)
class _Pace:
    """How often, in seconds, what has passed is looked at, and for how much of that time."""

    every: float
    share: float

    @property
    def a_look(self) -> float:
        """Seconds of the CPU."""
        return self.share * self.every


_AT_EASE = _Pace(every=0.05, share=0.25)
# The share is small because a message that is looked at costs again as much in other places, and a
# busy data path twice that for what it finds out of its caches.
_BESIDE_BUSY = _Pace(every=0.25, share=0.002)
_A_MESSAGE_AT_FIRST = 20e-6
_SMOOTHED_BY = 4


class TooManyTaps(LookupError):
    """There are as many as may be."""


class Taps:
    """Those that are open. ``if taps`` tells whether there is one."""

    def __init__(self) -> None:
        self._open: dict[str, Tap] = {}
        self._missed = 0
        self._looked_at = self._looked_again_at = 0.0
        self._busy_for = 0.0
        self._pace_before = _AT_EASE
        self._a_message = _A_MESSAGE_AT_FIRST

    def __bool__(self) -> bool:
        return bool(self._open)

    def read(self, engine: Engine, tap: str, wait: float, answer: Answer, **wish: Any) -> None:
        """Give ``answer`` what the tap of this name has found since it was last read, as soon as
        there is something or ``wait`` seconds are over: ``{"messages": […], "dropped": how many
        were left out}``. It is opened if it is not open yet; ``wish`` is as in
        :class:`zqueue.control.messages.Tap`.

        Raises:
            LookupError: the engine cannot, or there are too many taps.
        """
        if tap not in self._open:
            if len(self._open) >= _MOST_TAPS:
                raise TooManyTaps(f"there are {_MOST_TAPS} taps already")
            if not self._open:
                self._missed = engine.tap_missed
            self._open[tap] = Tap(TapWish(**wish))
            self._switch(engine)
        self._open[tap].read(answer, wait)

    @property
    def looked_at_in(self) -> float:
        """Seconds until :meth:`take` is to be called."""
        return max(0.0, self._looked_again_at - time.monotonic())

    def take(self, engine: Engine) -> None:
        """Let every tap see what has passed, and end those that nobody reads."""
        now = time.monotonic()
        if now < self._looked_again_at:
            return
        pace, before = self._pace(engine, now), self._pace_before
        missed_in_all = engine.tap_missed  # read once: it grows meanwhile
        missed, self._missed = missed_in_all - self._missed, missed_in_all
        if not self._see(engine) and pace is before is _BESIDE_BUSY:
            # Else what is shown would be older and older.
            missed += engine.skip_tapped()
        for tap in self._open.values():
            tap.dropped += missed
            tap.answer_if_due(now)
        # A request and its reply are two messages.
        seen_in_time = max(1, int(pace.a_look / self._a_message / 2))
        engine.allow_tap(None if pace is _AT_EASE else seen_in_time)
        self._pace_before = pace
        self._looked_again_at = now + pace.every
        self._end_unread(engine, now)

    def _pace(self, engine: Engine, now: float) -> _Pace:
        busy_for = engine.busy_for
        busy = (busy_for - self._busy_for) / (now - self._looked_at)
        self._looked_at, self._busy_for = now, busy_for
        return _BESIDE_BUSY if busy > _BUSY else _AT_EASE

    def _see(self, engine: Engine) -> bool:
        """Whether that was all there is.

        Beside a busy data path that is no more than was allowed, and all of it is seen: a batch of
        requests is copied before its replies, and to stop short would leave out just these.
        """
        began = time.thread_time()
        seen = 0
        while found := engine.tapped(_AT_ONCE):
            for message in found:
                for tap in self._open.values():
                    tap.see(message)
            seen += len(found)
            if time.thread_time() - began > _AT_EASE.a_look:
                break
        if seen:
            a_message = (time.thread_time() - began) / seen
            self._a_message += (a_message - self._a_message) / _SMOOTHED_BY
        return len(found) < _AT_ONCE

    def _end_unread(self, engine: Engine, now: float) -> None:
        unread = [name for name, tap in self._open.items() if now - tap.read_at > _ENDS_UNREAD]
        for name in unread:
            del self._open[name]
        if unread:
            self._switch(engine)

    def let_readers_go(self) -> None:
        """Let none wait any longer."""
        for tap in self._open.values():
            tap.answer()

    def forget(self) -> None:
        """The engine has ended."""
        self.let_readers_go()
        self._open.clear()

    def _switch(self, engine: Engine) -> None:
        engine.tap(max((tap.wish.copies for tap in self._open.values()), default=None))
