"""JeroMQ, ZeroMQ written in Java. Debian's version speaks ZMTP 2.0."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.waiting import DEADLINE, wait_for
from tests.zqueued import Zqueued

JAR = Path(os.environ.get("ZQUEUE_TEST_JEROMQ", "/usr/share/java/jeromq.jar"))

pytestmark = pytest.mark.skipif(
    shutil.which("javac") is None or not JAR.exists(),
    reason="needs JeroMQ: apt-get install default-jdk-headless libjeromq-java",
)


def test_its_req_and_its_rep(zqueued: Zqueued) -> None:
    echo = ["java", "-cp", str(JAR), str(Path(__file__).parent / "Echo.java")]
    worker = subprocess.Popen([*echo, "worker", zqueued.backend()])
    try:
        client = [*echo, "client", zqueued.frontend()]
        assert subprocess.run(client, timeout=3 * DEADLINE).returncode == 0
    finally:
        worker.kill()
        worker.wait(DEADLINE)
    ends = zqueued.queue().ends
    assert ends is not None
    assert ends.replied == 300
    assert {event["zmtp"] for event in zqueued.events("peer.connected")} == {"2.0"}
    wait_for(lambda: zqueued.queue().workers.connected == 0)
    assert zqueued.events("peer.protocol_error") == []
