"""One queue's counters over all its runs, and how fast they grow."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from zqueue.clocks import monotonic_of, told
from zqueue.control import messages
from zqueue.engine import ConnectionCounts, Latency, Side, Statistics, Traffic


def _none_yet() -> dict[Side, ConnectionCounts]:
    return {side: ConnectionCounts() for side in Side}


@dataclass(frozen=True)
class Totals:
    """What earlier engines of a queue have counted. ``last_activity`` is seconds since the epoch,
    ``active_at`` the same on the monotonic clock."""

    counters: Statistics = field(default_factory=Statistics)
    connections: dict[Side, ConnectionCounts] = field(default_factory=_none_yet)
    last_activity: float | None = None
    active_at: float | None = None


class Figures:
    """Adds up what each engine of the queue has counted and derives rates of the last seconds."""

    def __init__(self, earlier: Totals | None = None) -> None:
        earlier = earlier or Totals()
        self._before = earlier.counters
        self._counts_before = {
            side: replace(earlier.connections.get(side, ConnectionCounts())) for side in Side
        }
        self._now = _nothing_now(earlier)
        self._counts = _none_yet()
        self._peers: dict[Side, int] = {}
        self._samples: deque[tuple[float, Traffic, Traffic]] = deque()
        self._active: tuple[float, float] | None = None
        self._was_active(earlier.last_activity, earlier.active_at)

    def see(
        self, now: Statistics, counts: dict[Side, ConnectionCounts], peers: dict[Side, int]
    ) -> None:
        """Take the running engine's latest figures."""
        if (now.requests.frames, now.replies.frames) != (
            self._now.requests.frames,
            self._now.replies.frames,
        ):
            self._active = time.time(), time.monotonic()
        self._now, self._counts, self._peers = now, counts, peers

    def sample(self) -> None:
        """Remember where the counters stand, for the rates; call it a few times a second."""
        clock = time.monotonic()
        self._samples.append((clock, self._total("requests"), self._total("replies")))
        while self._samples[0][0] < clock - messages.RATED_OVER and len(self._samples) > 2:
            self._samples.popleft()

    def go_on(self, last_activity: float | None, active_at: float | None = None) -> None:
        """What was seen so far was taken up: it did not come in the seconds that this queue has
        been here, and something last passed at ``last_activity``, as in :class:`Totals`."""
        self._samples.clear()
        self._was_active(last_activity, active_at)

    def _was_active(self, moment: float | None, at: float | None) -> None:
        if moment is None:
            self._active = None
        else:
            self._active = moment, monotonic_of(moment) if at is None else at

    def end_of_run(self, lost: int | None) -> None:
        """The engine was closed, ``lost`` requests with it; ``None`` if that cannot be known."""
        self._before = replace(
            self._before,
            requests=self._total("requests"),
            replies=self._total("replies"),
            lost=sum_known(self.lost, lost),
            estimated=self._now.estimated,
            ends=self._over_runs("ends"),
            died=self._over_runs("died"),
            incidents=self._over_runs("incidents"),
            queueing=self._over_runs("queueing"),
            service=self._over_runs("service"),
        )
        for side in Side:
            now, before = self._counts[side], self._counts_before[side]
            before.accepted += now.accepted
            before.disconnected += now.disconnected + self._peers.get(side, 0)
            before.rejected += now.rejected
        self._now = _nothing_now(Totals(self._before))
        self._counts = _none_yet()
        self._peers = {}

    def earlier(self) -> Totals:
        """What was counted before the engine that runs now."""
        return Totals(
            counters=self._before,
            connections={side: replace(counts) for side, counts in self._counts_before.items()},
            last_activity=self._active[0] if self._active else None,
            active_at=self._active[1] if self._active else None,
        )

    def totals(self) -> Totals:
        """What was counted in all, the engine that runs now included, which goes on no more."""
        ended = Figures(self.earlier())
        ended.see(self._now, self._counts, self._peers)
        ended._active = self._active
        ended.end_of_run(0)
        return ended.earlier()

    @property
    def last_activity(self) -> float | None:
        """When something last passed, if ever, as :func:`zqueue.clocks.told` has it."""
        return told(*self._active) if self._active is not None else None

    @property
    def in_flight(self) -> int | None:
        return self._now.in_flight

    @property
    def kept(self) -> int:
        return self._now.kept

    @property
    def waiting(self) -> int | None:
        return self._now.waiting

    @property
    def estimated(self) -> bool:
        return self._now.estimated

    @property
    def lost(self) -> int | None:
        return sum_known(self._before.lost, self._now.lost)

    @property
    def ends(self) -> messages.Ends | None:
        """How requests have ended, where the engine knows."""
        ends = self._over_runs("ends")
        return messages.Ends(**vars(ends)) if ends is not None else None

    @property
    def died(self) -> messages.Died | None:
        """Of what requests have died."""
        died = self._over_runs("died")
        return messages.Died(**vars(died)) if died is not None else None

    def incidents(self, unrecorded: int) -> messages.Incidents | None:
        """What else was counted; ``unrecorded`` dead requests were lost by whoever keeps them."""
        seen = self._over_runs("incidents")
        if seen is None:
            return None
        seen = replace(seen, unrecorded=seen.unrecorded + unrecorded)
        return messages.Incidents(**vars(seen))

    @property
    def queueing(self) -> messages.Latency | None:
        return _shown(self._over_runs("queueing"))

    @property
    def service(self) -> messages.Latency | None:
        return _shown(self._over_runs("service"))

    @property
    def moved(self) -> int:
        """Frames that have passed either way; unchanged while the queue is quiet."""
        return self._total("requests").frames + self._total("replies").frames

    def traffic(self, way: str) -> messages.Traffic:
        """The counters of ``"requests"`` or ``"replies"`` with their rates."""
        total = self._total(way)
        messages_rate = bytes_rate = 0.0
        if len(self._samples) > 1:
            first, last = self._samples[0], self._samples[-1]
            column = 1 if way == "requests" else 2
            seconds = last[0] - first[0]
            old, new = first[column], last[column]
            assert isinstance(old, Traffic)
            assert isinstance(new, Traffic)
            messages_rate = max(0.0, (new.messages - old.messages) / seconds)
            bytes_rate = (new.bytes - old.bytes) / seconds
        return messages.Traffic(
            messages=total.messages,
            frames=total.frames,
            bytes=total.bytes,
            messages_per_second=round(messages_rate, 1),
            bytes_per_second=round(bytes_rate, 1),
        )

    def peers(self, side: Side) -> messages.Peers:
        """The connections of one side."""
        now, before = self._counts[side], self._counts_before[side]
        return messages.Peers(
            connected=self._peers.get(side, 0),
            accepted=before.accepted + now.accepted,
            disconnected=before.disconnected + now.disconnected,
            rejected=before.rejected + now.rejected,
        )

    def words(self) -> tuple[int, ...]:
        """The eight counters of libzmq's STATISTICS, in its order, in frames and bytes."""
        requests, replies = self._total("requests"), self._total("replies")
        return (
            requests.frames,
            requests.bytes,
            replies.frames,
            replies.bytes,
            replies.frames,
            replies.bytes,
            requests.frames,
            requests.bytes,
        )

    def _over_runs(self, counters: str) -> Any:
        """``ends``, ``died``, ``incidents`` or a latency, added up; ``None`` if no engine has known
        it."""
        before, now = getattr(self._before, counters), getattr(self._now, counters)
        return before + now if before and now else before or now

    def _total(self, way: str) -> Traffic:
        before: Traffic = getattr(self._before, way)
        now: Traffic = getattr(self._now, way)
        return Traffic(
            before.messages + now.messages, before.frames + now.frames, before.bytes + now.bytes
        )


def _nothing_now(earlier: Totals) -> Statistics:
    """What no engine counts. What was counted before stays an estimate, if it was one; what an
    engine has counted that knows how requests end never was."""
    before = earlier.counters
    counted = bool(before.requests.frames or before.replies.frames)
    return Statistics(estimated=counted and before.estimated and before.ends is None)


def sum_known(*counts: int | None) -> int | None:
    """Their sum, if each is known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _shown(latency: Latency | None) -> messages.Latency | None:
    return messages.Latency(**vars(latency)) if latency is not None else None
