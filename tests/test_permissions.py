"""Who may look and who may steer, by the uid that the kernel vouches for."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from tests.conftest import StartZqueued
from tests.nobody import zqueuectl_as_nobody
from tests.zqueued import ONE_QUEUE, Zqueued

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")

NOBODY = pwd.getpwnam("nobody")
GROUP = grp.getgrgid(NOBODY.pw_gid).gr_name


def as_nobody(zqueued: Zqueued, *arguments: str) -> subprocess.CompletedProcess[str]:
    return zqueuectl_as_nobody("-e", zqueued.control, "--json", *arguments)


def start(start_zqueued: StartZqueued, settings: str) -> Zqueued:
    zqueued = start_zqueued(ONE_QUEUE, ready=False)
    zqueued.kill()
    for folder in (zqueued.folder, *zqueued.folder.parents):
        if folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    zqueued.write(
        f'[control]\nendpoint = "{zqueued.control}"\nmode = "0666"\n{settings}\n' + ONE_QUEUE
    )
    zqueued.process = zqueued.spawn()
    return zqueued.wait_ready()


@pytest.mark.parametrize(
    ("settings", "may_look", "may_steer"),
    [
        ("", True, True),
        ('may_steer = ["root"]', True, False),
        ("may_steer = []", True, False),
        ("may_steer = []\nmay_look = []", False, False),
        ("may_look = []", True, True),
        ('may_steer = "nobody"', True, True),
        (f'may_steer = ["@{GROUP}"]\nmay_look = []', True, True),
        (f'may_steer = []\nmay_look = ["@{GROUP}"]', True, False),
        (f'may_steer = ["{GROUP}x"]\nmay_look = ["@x"]', False, False),
    ],
)
def test_the_lists_count(
    settings: str, may_look: bool, may_steer: bool, start_zqueued: StartZqueued
) -> None:
    zqueued = start(start_zqueued, settings)
    for arguments, may in (
        (("status",), may_look),
        (("log-level",), may_look),
        (("events",), may_look),
        (("log-level", "info"), may_steer),
        (("pause",), may_steer),
        (("reload",), may_steer),
    ):
        done = as_nobody(zqueued, *arguments)
        assert done.returncode == (0 if may else 1), (arguments, done.stdout, done.stderr)
        if not may:
            error = json.loads(done.stdout)["error"]
            assert error["code"] == "forbidden"
            assert "65534/nobody may not" in error["message"]
            assert "control.may_" in error["message"]
    assert zqueued.queue().state == ("paused" if may_steer else "running"), "root always may"


def test_a_reload_applies_them(start_zqueued: StartZqueued) -> None:
    zqueued = start(start_zqueued, "")
    assert as_nobody(zqueued, "pause").returncode == 0
    zqueued.path.write_text(zqueued.path.read_text().replace('"0666"', '"0666"\nmay_steer = []'))
    with zqueued.client() as control:
        result = control.reload()
    assert (result.settings, result.needs_restart) == (("control.may_steer",), ())
    assert as_nobody(zqueued, "resume").returncode == 1
    zqueued.wait_event("control.refused", by="65534/nobody", verb="resume")
