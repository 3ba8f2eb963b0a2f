"""``zqueuectl demo``, the first thing that a newcomer runs."""

from __future__ import annotations

import subprocess
import sys


def test_the_demo_plays_the_whole_scene() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zqueue.cli.zqueuectl", "demo"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "11 requests, 11 replies" in done.stdout
