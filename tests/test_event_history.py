"""What zqueued remembers of what happened: filters, bounds, and the truth about what is missing."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.waiting import wait_for
from tests.zqueued import ONE_QUEUE, Zqueued
from zqueue.control.client import Refused
from zqueue.engine.wire import support
from zqueue.event_filter import event_filter
from zqueue.event_history import BYTES_OF_A_KIND, EVENTS_OF_A_KIND, EventHistory
from zqueue.events import EventBus

TWO_QUEUES = ONE_QUEUE.replace("default", "orders") + ONE_QUEUE.replace("default", "other")
FLOOD = EVENTS_OF_A_KIND + 10
FLOODED = ("peer.connected", "peer.disconnected")


def listed(zqueued: Zqueued, *arguments: str) -> list[dict[str, Any]]:
    done = zqueued.ctl("events", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def flood(zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]], queue: str) -> None:
    """Have more clients come than events of a kind are remembered, and have them leave."""
    context.set(zmq.MAX_SOCKETS, 4 * FLOOD)
    endpoint = zqueued.frontend(queue)
    crowd = [context.socket(zmq.DEALER) for _ in range(FLOOD)]
    for each in crowd:
        each.connect(endpoint)
    zqueued.wait_events("peer.connected", FLOOD)
    for each in crowd:
        each.close(0)
    zqueued.wait_events("peer.disconnected", FLOOD)


# -- filters -----------------------------------------------------------------------------------


def test_filters(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(TWO_QUEUES)
    for verb in ("pause", "resume"):
        zqueued.ctl(verb, "--all")
    zqueued.ctl("pause", "nobody")
    zqueued.write("[queues.orders]\n")
    assert zqueued.ctl("reload").returncode == 1

    def names(*arguments: str) -> list[str]:
        return [event["name"] for event in listed(zqueued, *arguments)]

    assert {event["queue"] for event in listed(zqueued, "--queue", "orders")} == {"orders"}
    assert names("--level", "warning") == ["control.refused", "config.refused"]
    assert names("--level", "error") == ["config.refused"]
    assert names("--name", "config.*", "--name", "queue.paused", "-q", "orders") == ["queue.paused"]
    assert names("--name", "*.refused", "-n", "2") == ["control.refused", "config.refused"]
    assert names("--name", "daemon.ready", "--level", "error") == []
    assert names("--since", "1d")[0] == "daemon.starting"
    assert names("--since", "1d", "-n", "1") == ["config.refused"]
    assert names("-n", "0") == []
    unknown = zqueued.ctl("events", "--name", "peer.conected")
    assert unknown.returncode == 1
    assert 'no event "peer.conected"; docs/events.md lists them all' in unknown.stderr


def test_since(zqueued: Zqueued) -> None:
    with zqueued.client() as control:
        control.pause()
        [paused] = control.events(names=["queue.paused"], recent=1, follow=False)
        control.resume()
        since = control.events(since=paused.time, follow=False)
        assert [event.name for event in since] == ["queue.paused", "queue.running"]
        assert since.remembered.begins <= paused.time
        assert since.remembered.forgotten == {}
        later = control.events(since=paused.time + 1e6, follow=False)
        assert list(later) == []


def test_filters_hold_for_what_is_followed(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(TWO_QUEUES)
    with zqueued.client() as follower, zqueued.client() as control:
        events = follower.events("orders", names=["queue.pa*"], since=0)
        warnings = follower.events(level="warning")
        for queue in ("other", "orders"):
            control.pause(queue)
        with pytest.raises(Refused):
            control.pause("nobody")
        assert (next(events).queue, next(warnings).name) == ("orders", "control.refused")


def test_none_is_missed_and_none_comes_twice(zqueued: Zqueued) -> None:
    """Between what is remembered and what is followed."""
    steps = 60

    def follow() -> list[float]:
        with zqueued.client() as control:
            events = control.events(names=["queue.paused", "queue.running"], since=0)
            return [next(events).time for _ in range(2 * steps + 1)]

    with ThreadPoolExecutor(10) as pool, zqueued.client() as control:
        followers = []
        for step in range(steps):
            if step % 6 == 0:
                followers.append(pool.submit(follow))
            control.pause()
            control.resume()
        first, *others = [follower.result() for follower in followers]
    assert first == sorted({*first})
    assert all(other == first for other in others)


# -- bounds ------------------------------------------------------------------------------------


def test_a_flood_drives_out_only_its_own_kind(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    zqueued = start_zqueued(TWO_QUEUES)
    zqueued.ctl("pause", "other")
    zqueued.ctl("pause", "nobody")
    began = time.time()
    flood(zqueued, context, "orders")
    assert [event["name"] for event in listed(zqueued, "--level", "warning")] == ["control.refused"]
    events = listed(zqueued, "-n", "5000")
    assert events[0]["name"] == "daemon.starting"
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    counts = {name: [event["name"] for event in events].count(name) for name in FLOODED}
    assert counts == dict.fromkeys(FLOODED, EVENTS_OF_A_KIND)
    kept = {(event["time"], event["name"]) for event in events}
    with zqueued.client() as control:
        remembered = control.events(since=began, follow=False).remembered
    for name, last in remembered.forgotten.items():
        first = min(when for when, kind in kept if kind == name)
        assert began <= last <= first
    assert remembered.forgotten.keys() == {*FLOODED}


def test_what_is_forgotten_is_told_to_who_asks_for_it(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    zqueued = start_zqueued(TWO_QUEUES)
    flood(zqueued, context, "orders")
    forgotten = "peer.connected: those up to "
    begins = "no event from before "
    for arguments, told in (
        ((), ()),
        (("-n", "5000"), (forgotten,)),
        (("--since", "1d"), (begins, forgotten)),
        (("--since", "1d", "--queue", "orders"), (begins, forgotten)),
        (("--since", "1d", "--queue", "other"), (begins,)),
        (("--since", "1d", "--level", "warning"), (begins,)),
        (("--since", "1d", "-n", "3"), (begins,)),
        (("--since", "0s"), ()),
    ):
        said = zqueued.ctl("events", *arguments).stderr
        for each in (forgotten, begins):
            assert (each in said) == (each in told), (arguments, said)


def test_one_who_reads_slowly_gets_all_of_it(
    zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    flood(zqueued, context, "default")
    slow = context.socket(zmq.DEALER)
    slow.set_hwm(1)
    slow.connect(zqueued.control)
    requests = {str(number): 0 for number in range(8)}
    for number in requests:
        request = {"v": 1, "id": number, "verb": "events", "since": 0, "follow": False}
        slow.send(json.dumps(request).encode())
    results = 0
    with zqueued.client() as control:
        assert control.pause().ok  # nobody waits for it
    while results < len(requests):
        assert slow.poll(20_000)
        reply = json.loads(slow.recv())
        results += reply["kind"] == "result"
        requests[reply["id"]] += reply["kind"] == "event"
    assert min(requests.values()) >= 2 * EVENTS_OF_A_KIND


def test_large_events_have_less_room() -> None:
    bus, history = EventBus(), EventHistory()
    bus.subscribe(history)
    for size in (1000, 50_000, 60_000, 10 << 20):
        for number in range(EVENTS_OF_A_KIND):
            bus.emit("control.refused", by=f"{number}", verb="", error="x" * size)
        recalled = history.recall(event_filter())
        room = max(BYTES_OF_A_KIND, size)
        assert sum(len(event.fields["error"]) for event in recalled.events) <= room
        assert recalled.events[-1].fields["by"] == f"{EVENTS_OF_A_KIND - 1}"
        assert recalled.forgotten["control.refused"] <= recalled.events[0].time


# -- hand-over ---------------------------------------------------------------------------------


@pytest.mark.skipif(bool(support.missing()), reason="the libzmq engine hands nothing over")
def test_the_next_process_remembers_the_same(
    zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    zqueued.ctl("pause", "nobody")
    flood(zqueued, context, "default")

    def asked() -> Any:
        with zqueued.client() as control:
            events = control.events(since=0, follow=False)
            return events.remembered, [event.model_copy(update={"id": None}) for event in events]

    remembered, before = asked()
    old = zqueued.status().pid
    assert zqueued.upgrade().returncode == 0
    wait_for(lambda: old not in zqueued.pids(), "the old process to be gone")
    assert asked()[0] == remembered
    after = asked()[1]
    assert [event for event in after if event in before] == before
    names = [event.name for event in after]
    assert names.count("daemon.starting") == 2
    assert names.index("handover.begins") < names.index("handover.taken_up")
    assert [event.fields["pid"] for event in after if event.name == "daemon.starting"] == [
        zqueued.process.pid,
        *zqueued.pids(),
    ]
