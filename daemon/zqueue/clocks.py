"""Two clocks: the machine's, in seconds since the epoch, says when something happened; the
monotonic one says how long ago. The first may be set at any time: no difference is taken of it."""

from __future__ import annotations

import time

_SET_BY = 1.0


def monotonic_of(moment: float) -> float:
    """Where the monotonic clock stood at a moment in seconds since the epoch, as the machine's
    clock is set now: for what another version has left without."""
    return time.monotonic() - (time.time() - moment)


def moment_of(at: float) -> float:
    """When it was, in seconds since the epoch as the machine's clock is set now, that the monotonic
    clock stood ``at``."""
    return time.time() - (time.monotonic() - at)


def told(moment: float, at: float) -> float:
    """A moment to tell: as it was recorded, in seconds since the epoch, unless the machine's clock
    was set since; then so that the time from it to now is true. ``at`` is the same on the monotonic
    clock."""
    as_set_now = moment_of(at)
    return moment if abs(as_set_now - moment) < _SET_BY else as_set_now
