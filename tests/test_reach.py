"""The commands that an operator is shown reach the daemon that they are about."""

from __future__ import annotations

import json

import pytest

from tests.conftest import StartZqueued
from tests.http import SERVED, ask
from tests.zqueued import ONE_QUEUE
from zqueue.reach import Reach, call, reach_of


@pytest.mark.parametrize(
    ("endpoint", "instance", "expected"),
    [
        (None, None, "zqueuectl"),
        (None, "orders", "zqueuectl --instance orders"),
        ("ipc:///run/zqueue/control.sock", None, "zqueuectl"),
        ("ipc:///run/zqueue-orders/control.sock", None, "zqueuectl --instance orders"),
        (
            "ipc:///run/zqueue-a/b/control.sock",
            None,
            "zqueuectl -e ipc:///run/zqueue-a/b/control.sock",
        ),
        ("ipc:///tmp/a b", None, "zqueuectl -e 'ipc:///tmp/a b'"),
    ],
)
def test_zqueuectl_is_told_where_the_daemon_is(
    endpoint: str | None, instance: str | None, expected: str
) -> None:
    assert call(endpoint, instance) == expected


@pytest.mark.parametrize(
    ("reach", "restart", "journal"),
    [
        (
            Reach(),
            "zqueued --upgrade --config '/a b.toml'",
            "journalctl -t zqueued",
        ),
        (
            Reach(unit="zqueue@orders"),
            "systemctl restart zqueue@orders",
            "journalctl -u zqueue@orders",
        ),
        (
            Reach(unit="mine", manager=("--user",)),
            "systemctl --user restart mine",
            "journalctl --user -u mine",
        ),
    ],
)
def test_whoever_manages_the_daemon_is_asked(reach: Reach, restart: str, journal: str) -> None:
    assert (reach.restart("/a b.toml"), reach.journal) == (restart, journal)


def test_everything_that_shows_findings_shows_the_same_commands(
    start_zqueued: StartZqueued,
) -> None:
    zqueued = start_zqueued(SERVED + ONE_QUEUE)
    assert zqueued.ctl("terminate").returncode == 0
    start = f"zqueuectl -e {zqueued.control} start default"
    assert reach_of(zqueued.status()).ctl == f"zqueuectl -e {zqueued.control}"
    for verb in (("doctor",), ("top", "--once")):
        assert start in zqueued.ctl(*verb).stdout
    exported = json.loads(zqueued.ctl("top", "--once", "--json").stdout)
    assert [start] in [found["do"] for found in exported["findings"]]
    assert start in ask(zqueued, "/").text
    assert zqueued.ctl(*start.split()[3:]).returncode == 0
    assert zqueued.queue().state == "running"
