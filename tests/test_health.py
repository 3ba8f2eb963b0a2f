"""``zqueuectl health``: its exit code decides whether a container is started anew."""

from __future__ import annotations

import json

from tests.conftest import StartZqueued
from tests.stuck_thread import stopped_thread
from tests.zqueued import TWO_QUEUES, Zqueued


def said(zqueued: Zqueued, *options: str) -> tuple[int, str]:
    done = zqueued.ctl("health", *options)
    return done.returncode, done.stdout


def test_it_tells_whether_every_queue_answers_and_runs(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(TWO_QUEUES)
    assert said(zqueued) == said(zqueued, "--ready") == (0, "ok\n")
    zqueued.ctl("pause", "orders")
    assert said(zqueued) == (0, "ok\n"), "an operator has paused it; it must not be started anew"
    code, reasons = said(zqueued, "--ready")
    assert code == 1
    assert reasons.startswith("orders: paused by ")
    with stopped_thread(zqueued.process.pid, "zq.other"):
        zqueued.wait_event("daemon.stalled", queues="other")
        assert said(zqueued) == (1, "other: does not answer\n")
        code, shown = said(zqueued, "--json")
        assert (code, json.loads(shown)) == (
            1,
            {"ok": False, "reasons": ["other: does not answer"]},
        )
    zqueued.stop()
    done = zqueued.ctl("health", "--json")
    assert done.returncode == 69
    assert json.loads(done.stdout)["error"]["code"] == "unreachable"
