"""The machine's clock is set while zqueued runs: what is a difference of times stays true."""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import StartZqueued
from tests.engines import on_every_engine
from tests.peers import Peers
from tests.waiting import wait_for
from tests.zqueued import ONE_QUEUE, Zqueued

SOURCE = Path(__file__).parent / "clock.c"
_OFFSET = struct.Struct("=q")
A_YEAR = 400 * 86400
STEPS = (-A_YEAR, A_YEAR)
PLENTY = 300.0
"""More seconds than a test takes, and less than any step."""


class Clock:
    """The clock of every process that is started with this :attr:`environment`."""

    def __init__(self, folder: Path) -> None:
        if not shutil.which("gcc"):
            pytest.skip("there is no gcc")
        library, path = folder / "clock.so", folder / "clock"
        command = ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", str(library), str(SOURCE)], check=True)
        path.write_bytes(_OFFSET.pack(0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 0)
        self.environment = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "ZQUEUE_CLOCK": str(path),
        }

    def set_by(self, seconds: int) -> None:
        _OFFSET.pack_into(self._shared, 0, seconds)

    @property
    def now(self) -> float:
        offset: int = _OFFSET.unpack_from(self._shared)[0]
        return time.time() + offset


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


def told(zqueued: Zqueued, clock: Clock, *arguments: str) -> str:
    done = zqueued.ctl(*arguments, env=clock.environment)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def is_a_short_time(seconds: float) -> bool:
    return 0.0 <= seconds < PLENTY


def all_is_recent(zqueued: Zqueued, clock: Clock) -> None:
    status, now = zqueued.status(), clock.now
    queue = status.queues[0]
    assert is_a_short_time(status.uptime)
    assert is_a_short_time(queue.uptime)
    for moment in (status.started, queue.since, queue.last_activity):
        assert moment is not None
        assert abs(now - moment) < PLENTY
    for shown in (told(zqueued, clock, "status"), told(zqueued, clock, "stats")):
        assert not re.search(r"-\d+[dhms]", shown), shown
        assert not re.search(r"\d+[dh]\b", shown), shown
    assert "clock" not in told(zqueued, clock, "doctor")


@on_every_engine
@pytest.mark.parametrize("step", STEPS)
def test_the_clock_is_set(
    start_zqueued: StartZqueued, peers: Peers, clock: Clock, step: int
) -> None:
    zqueued = start_zqueued(ONE_QUEUE, env=clock.environment)
    peers.worker(zqueued.backend())
    client = peers.client(zqueued.frontend(), requests=5)
    client.finish()
    wait_for(lambda: zqueued.queue().replies.messages == 5, "the replies to be counted")
    clock.set_by(step)
    all_is_recent(zqueued, clock)
    peers.client(zqueued.frontend(), requests=5).finish()
    all_is_recent(zqueued, clock)
    for left in zqueued.events("peer.disconnected"):
        assert is_a_short_time(left["connected_for"])
    recent = [
        json.loads(line)["name"]
        for line in told(zqueued, clock, "events", "--since", "10m", "--json").splitlines()
    ]
    assert recent.index("daemon.starting") < recent.index("queue.running")
    assert recent.count("peer.connected") >= 3, "some before the step, some after it"
    assert not told(zqueued, clock, "events", "--since", "0s", "--json")
    assert zqueued.stop() == 0
    assert is_a_short_time(zqueued.events("daemon.stopped")[0]["uptime"])


@on_every_engine
@pytest.mark.parametrize("step", STEPS)
def test_the_clock_is_set_before_an_upgrade(
    start_zqueued: StartZqueued, peers: Peers, clock: Clock, step: int
) -> None:
    zqueued = start_zqueued(ONE_QUEUE, env=clock.environment)
    peers.worker(zqueued.backend())
    peers.client(zqueued.frontend(), requests=5).finish()
    wait_for(lambda: zqueued.queue().replies.messages == 5, "the replies to be counted")
    clock.set_by(step)
    done = zqueued.upgrade()
    assert done.returncode == 0, done.stderr
    all_is_recent(zqueued, clock)
    assert is_a_short_time(zqueued.wait_event("handover.taken_up")["paused"])
    recent = told(zqueued, clock, "events", "--since", "10m", "--json")
    names = [json.loads(line)["name"] for line in recent.splitlines()]
    assert names.index("queue.running") < names.index("handover.begins")
    assert names.index("handover.begins") < names.index("handover.taken_up")
