"""A queue that fails does not take the others down, says why, and is tried again."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.conftest import StartZqueued
from tests.engines import on_every_engine
from tests.peers import Peers
from tests.waiting import wait_for
from tests.zqueued import free_port

pytestmark = on_every_engine

TWO_QUEUES = """
[queues.well]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
[queues.frail]
frontend = "{frontend}"
backend = "tcp://127.0.0.1:*"
"""


def test_a_queue_that_cannot_start_again_is_retried(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    port = free_port()
    zqueued = start_zqueued(TWO_QUEUES.format(frontend=f"tcp://127.0.0.1:{port}"))
    peers.worker(zqueued.backend("well"))
    client = peers.client(zqueued.frontend("well"))
    assert zqueued.ctl("terminate", "frail").returncode == 0
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        done = zqueued.ctl("start", "frail")
        assert done.returncode == 1
        assert f"port {port} is in use by" in done.stderr
        frail = zqueued.queue("frail")
        assert frail.state == "failed"
        assert f"port {port} is in use by" in frail.reason
        assert f"port {port} is in use" in zqueued.ctl("status").stdout
        zqueued.wait_events("queue.failed", 2)
    wait_for(lambda: zqueued.queue("frail").state == "running", "the retry to succeed")
    retries = [event["retry_in"] for event in zqueued.events("queue.failed")]
    assert retries == sorted(retries), "each wait is longer than the one before"
    assert zqueued.queue("well").state == "running"
    assert zqueued.events("daemon.stalled") == []
    assert len(client.stop()) == client.asked


def test_a_failed_queue_may_be_terminated_and_reloaded(
    start_zqueued: StartZqueued, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    zqueued = start_zqueued(TWO_QUEUES.format(frontend=f"ipc://{folder}/frontend"))
    zqueued.ctl("terminate", "frail")
    folder.rmdir()
    assert "does not exist" in zqueued.ctl("start", "frail").stderr
    assert zqueued.ctl("terminate", "frail").returncode == 0
    assert zqueued.queue("frail").state == "stopped"
    assert zqueued.ctl("start", "frail").returncode == 1
    zqueued.write(TWO_QUEUES.format(frontend="tcp://127.0.0.1:*"))
    with zqueued.client() as control:
        assert control.reload().rebound == ("frail",)
    assert zqueued.queue("frail").state == "running"


@pytest.mark.parametrize("verb", ["terminate", "pause"])
def test_a_reload_leaves_as_it_is_what_an_operator_made_of_a_queue(
    verb: str, start_zqueued: StartZqueued
) -> None:
    zqueued = start_zqueued(TWO_QUEUES.format(frontend="tcp://127.0.0.1:*"))
    zqueued.ctl(verb, "frail")
    state = zqueued.queue("frail").state
    zqueued.write(TWO_QUEUES.format(frontend="tcp://localhost:*"))
    with zqueued.client() as control:
        assert control.reload().rebound == ("frail",)
    assert zqueued.queue("frail").state == state
    assert zqueued.ctl("start" if verb == "terminate" else "resume", "frail").returncode == 0
    assert zqueued.queue("frail").state == "running"


def test_no_cycle_leaks_descriptors(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(TWO_QUEUES.format(frontend="tcp://127.0.0.1:*"))
    table = Path(f"/proc/{zqueued.process.pid}/fd")

    def cycle() -> None:
        with zqueued.client() as control:
            for _ in range(5):
                assert control.terminate("frail").ok
                assert control.start("frail").ok
                assert control.pause("frail").ok
                assert control.resume("frail").ok
            for mark in (7, 8):
                zqueued.write(
                    TWO_QUEUES.format(frontend="tcp://127.0.0.1:*")
                    + f"drain_timeout = '{mark}s'\ncapture = 'ipc://*'\n"
                )
                control.reload()
                zqueued.write(TWO_QUEUES.format(frontend="tcp://127.0.0.1:*"))
                control.reload()

    cycle()
    before = len(list(table.iterdir()))
    cycle()
    wait_for(lambda: len(list(table.iterdir())) <= before, "descriptors to be given back")
