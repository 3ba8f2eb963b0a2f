"""What libzmq accepts on is not overrun, with real connections."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from zqueue.monitor import ACCEPTED_UNHEARD

_DESCRIPTORS = 6144
_QUEUED = 129


def deaf_door(path: Path, does: str) -> list[str]:
    command = [sys.executable, "-m", "tests.deaf_door", str(path), str(_DESCRIPTORS), does]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    came, *events = run.stdout.split()
    assert ACCEPTED_UNHEARD <= int(came) <= ACCEPTED_UNHEARD + 1 + _QUEUED
    return events


def test_a_crowd_that_comes_unheard_does_not_end_the_process(tmp_path: Path) -> None:
    assert deaf_door(tmp_path, "hears") == ["listener.closed_gate", "listener.opened_gate"]


def test_a_crowd_that_nobody_ever_hears_does_not_keep_the_door_from_closing(tmp_path: Path) -> None:
    assert deaf_door(tmp_path, "closes") == []
