"""A queue's figures over several runs of its engine."""

from __future__ import annotations

from zqueue.engine import (
    ConnectionCounts,
    Died,
    Ends,
    Incidents,
    Latency,
    Side,
    Statistics,
    Traffic,
)
from zqueue.figures import Figures, Totals


def run(figures: Figures, statistics: Statistics) -> None:
    counts = {side: ConnectionCounts() for side in Side}
    figures.see(statistics, counts, dict.fromkeys(Side, 0))


def test_deaths_and_incidents_are_added_up_over_runs() -> None:
    figures = Figures()
    assert (figures.ends, figures.died, figures.incidents(1)) == (None, None, None)
    first = Statistics(
        ends=Ends(replied=5, dead=3),
        died=Died(deadline=2, queue_full=1),
        incidents=Incidents(returned=4),
    )
    run(figures, first)
    figures.end_of_run(lost=0)
    again = Statistics(
        ends=Ends(dead=1), died=Died(deadline=1), incidents=Incidents(returned=1, unrecorded=2)
    )
    run(figures, again)
    assert figures.ends is not None
    assert (figures.ends.replied, figures.ends.dead) == (5, 4)
    died = figures.died
    assert died is not None
    assert (died.deadline, died.queue_full, died.max_attempts) == (3, 1, 0)
    incidents = figures.incidents(unrecorded=1)
    assert incidents is not None
    assert (incidents.returned, incidents.unrecorded) == (5, 3)


def test_latencies_are_added_up_over_runs() -> None:
    figures = Figures()
    assert figures.queueing is None
    first = Latency(p50=0.1, p99=0.2, seconds=1.5, counts=(1, 2, 3))
    run(figures, Statistics(queueing=first))
    figures.end_of_run(lost=0)
    assert figures.queueing is not None
    assert figures.queueing.counts == (1, 2, 3)
    run(figures, Statistics(queueing=Latency(p50=0.3, p99=0.4, seconds=2.0, counts=(4, 0, 1))))
    both = figures.queueing
    assert both is not None
    assert (both.p50, both.p99, both.seconds, both.counts) == (0.3, 0.4, 3.5, (5, 2, 4))
    assert figures.service is None


def test_what_was_taken_up_is_no_rate() -> None:
    figures = Figures()
    figures.sample()
    run(figures, Statistics(requests=Traffic(messages=1000, frames=2000, bytes=9000)))
    figures.go_on(None)
    for _ in range(3):
        figures.sample()
    traffic = figures.traffic("requests")
    assert (traffic.messages, traffic.messages_per_second) == (1000, 0.0)


def test_what_was_taken_up_is_no_activity() -> None:
    figures = Figures(Totals(last_activity=7.0))
    moved = Statistics(requests=Traffic(messages=1, frames=2, bytes=9))
    run(figures, moved)
    figures.go_on(7.0)
    run(figures, moved)
    assert figures.last_activity == 7.0
    run(figures, Statistics(requests=Traffic(messages=2, frames=4, bytes=18)))
    assert figures.last_activity is not None
    assert figures.last_activity > 7.0


def test_what_was_counted_exactly_is_no_estimate_after_a_stop() -> None:
    figures = Figures()
    assert not figures.estimated
    one = Traffic(messages=1, frames=2, bytes=9)
    run(figures, Statistics(requests=one, replies=one, estimated=False, ends=Ends(replied=1)))
    figures.end_of_run(0)
    assert not figures.estimated
    assert not Figures(figures.totals()).estimated


def test_an_estimate_is_one_after_a_stop() -> None:
    figures = Figures()
    one = Traffic(messages=1, frames=2, bytes=9)
    run(figures, Statistics(requests=one, replies=one))
    figures.end_of_run(0)
    assert figures.estimated
    assert Figures(figures.totals()).estimated
