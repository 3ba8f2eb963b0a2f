"""What libzmq accepts on is not overrun, with real connections."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from zqueue.monitor import ACCEPTED_UNHEARD

_DESCRIPTORS = 6144
_QUEUED = 129


def test_a_crowd_that_comes_unheard_does_not_end_the_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.deaf_door", str(tmp_path), str(_DESCRIPTORS)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    came, *events = run.stdout.split()
    assert int(came) <= ACCEPTED_UNHEARD + 1 + _QUEUED
    assert events == ["listener.closed_gate", "listener.opened_gate"]
