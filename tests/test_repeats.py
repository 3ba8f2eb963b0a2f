"""What peers cause again and again is said once, and counted."""

from __future__ import annotations

import contextlib
import socket
from functools import partial
from typing import Any

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.engines import on_every_engine, on_wire
from tests.waiting import wait_for
from tests.wire import raw
from tests.zqueued import Zqueued
from zqueue.engine import Report
from zqueue.repeats import FIRST_INTERVAL, LONGEST_INTERVAL, MOST_KEPT, Repeats, address_of

Said = list[tuple[str, str | None, dict[str, Any]]]

MANY = 30
ONE_QUEUE = """
[log]
level = "{level}"
format = "json"
{more}
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
"""


def quiet(level: str = "info", more: str = "") -> str:
    return ONE_QUEUE.format(level=level, more=more)


def repeats() -> tuple[Repeats, Said]:
    said: Said = []
    return Repeats(lambda name, *, level, **fields: said.append((name, level, fields))), said


def rejected(host: str, port: int = 1, reason: str = "it speaks HTTP") -> Report:
    fields = {"side": "frontend", "peer": f"tcp://{host}:{port}", "reason": reason}
    return Report("peer.rejected", fields)


def loud(said: Said) -> Said:
    return [each for each in said if each[1] != "debug"]


def test_one_by_address_and_reason() -> None:
    it, said = repeats()
    for port in range(50):
        for host in ("10.0.0.1", "10.0.0.2"):
            it.say(rejected(host, port), 0.0)
            it.say(rejected(host, port, "it speaks TLS"), 0.0)
    assert len(loud(said)) == 4
    assert len(said) == 200


def test_the_count_is_told_at_intervals_that_grow() -> None:
    it, said = repeats()
    for second in range(3 * int(LONGEST_INTERVAL)):
        it.say(rejected("10.0.0.1", second), float(second))
        it.tell(float(second))
    first, *counts = loud(said)
    assert first[0] == "peer.rejected"
    assert {(name, level, fields["repeated"]) for name, level, fields in counts} == {
        ("peer.repeated", "warning", "peer.rejected")
    }
    assert [fields["seconds"] for _, _, fields in counts[:3]] == [FIRST_INTERVAL, 20.0, 40.0]
    assert len(counts) < 15
    it.tell_all(3 * LONGEST_INTERVAL)
    in_all = sum(fields["times"] for name, _, fields in said if name == "peer.repeated")
    assert in_all + 1 == 3 * int(LONGEST_INTERVAL), "none is left out"


def test_what_was_quiet_for_an_interval_is_new() -> None:
    it, said = repeats()
    for at in (0.0, 100.0, 200.0):
        it.say(rejected("10.0.0.1"), at)
        it.tell(at + FIRST_INTERVAL)
    assert [name for name, _, _ in loud(said)] == 3 * ["peer.rejected"]


def test_only_so_many_are_kept() -> None:
    it, said = repeats()
    for _ in range(2):
        it.say(rejected("first"), 0.0)
    for number in range(MOST_KEPT):
        it.say(rejected(str(number)), 0.0)
    told = [fields for name, _, fields in said if name == "peer.repeated"]
    assert [(each["peer"], each["times"]) for each in told] == [("tcp://first", 1)]


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("tcp://10.0.0.1:5", "tcp://10.0.0.1"),
        ("tcp://[::1]:5", "tcp://[::1]"),
        ("ipc:pid=4711,uid=33", "ipc:uid=33"),
        ("unknown", "unknown"),
        (None, ""),
    ],
)
def test_what_is_the_address_of_a_peer(peer: str | None, address: str) -> None:
    assert address_of(peer) == address


# -- with real peers ---------------------------------------------------------------------------


def came(zqueued: Zqueued, before: int) -> bool:
    return zqueued.queue().workers.accepted > before


def rejects(zqueued: Zqueued) -> bool:
    return zqueued.queue().clients.rejected == MANY


@on_wire
@pytest.mark.parametrize(
    "said",
    [b"\xff\0\0\0\0\0\0\0\x01\x7f\0", b"GET / HTTP/1.1\r\n\r\n", raw.hello("PUB")],
    ids=["ZMTP 1.0", "HTTP", "a wrong type"],
)
def test_a_wrong_peer_that_comes_again_and_again(start_zqueued: StartZqueued, said: bytes) -> None:
    zqueued = start_zqueued(quiet())
    for _ in range(MANY):
        with raw.RawPeer(zqueued.frontend(), "REQ", shake=False) as peer:
            peer.say(said)
            peer.farewell()
    wait_for(lambda: zqueued.queue().clients.rejected == MANY, "all to be counted")
    assert len(zqueued.events("peer.rejected")) == 1

    def counts() -> int:
        return sum(told["times"] for told in zqueued.events("peer.repeated", level="warning"))

    wait_for(lambda: counts() == MANY - 1, "the others to be told of")
    told = zqueued.events("peer.repeated")
    assert len(told) <= 2
    assert {each["repeated"] for each in told} == {"peer.rejected"}
    assert "tcp://127.0.0.1" in [each.get("peer") for each in told]


@on_every_engine
def test_a_worker_that_flaps(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    zqueued = start_zqueued(quiet())
    for _ in range(MANY):
        with context.socket(zmq.DEALER) as worker:
            worker.linger = 0
            before = zqueued.queue().workers.accepted
            worker.connect(zqueued.backend())
            wait_for(partial(came, zqueued, before), "it to come")
    wait_for(lambda: not zqueued.queue().workers.connected)
    lines = [event for event in zqueued.events() if event["event"].startswith("peer.")]
    assert len(lines) <= 14
    assert zqueued.queue().workers.accepted == MANY


@on_wire
def test_a_health_check_by_tcp(start_zqueued: StartZqueued, zqueued: Zqueued) -> None:
    quiet_one = start_zqueued(quiet())
    for each in (quiet_one, zqueued):
        host, _, port = each.frontend().removeprefix("tcp://").rpartition(":")
        for _ in range(MANY):
            socket.create_connection((host, int(port))).close()
        wait_for(partial(rejects, each), "all to be counted")
    assert quiet_one.events("peer.rejected") == []
    assert quiet_one.events("peer.repeated") == []
    found = zqueued.events("peer.rejected", level="debug", cause="probe")
    assert found
    assert "turned away at" not in zqueued.ctl("doctor").stdout


@on_wire
def test_muted_events(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(quiet("debug", 'mute = ["peer.*", "queue.starting"]'))
    with contextlib.closing(raw.RawPeer(zqueued.frontend(), "REQ")):
        wait_for(lambda: zqueued.queue().clients.connected == 1)
    wait_for(lambda: not zqueued.queue().clients.connected)
    assert "peer.connected" in zqueued.ctl("events", "-n", "50").stdout
    names = {event["event"] for event in zqueued.events()}
    assert "queue.running" in names
    assert not any(name.startswith("peer.") or name == "queue.starting" for name in names)
    zqueued.write(quiet("debug"))
    assert zqueued.ctl("reload").returncode == 0
    with contextlib.closing(raw.RawPeer(zqueued.frontend(), "REQ")):
        zqueued.wait_event("peer.connected")
    zqueued.write(quiet("debug", 'mute = ["peer.conected"]'))
    done = zqueued.ctl("reload")
    assert done.returncode == 1
    assert "log.mute[0]" in done.stderr
    assert 'there is no event "peer.conected"' in done.stderr
