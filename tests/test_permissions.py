"""Who may look and who may steer, by the uid that the kernel vouches for."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.engines import on_wire
from tests.nobody import zqueuectl_as_nobody
from tests.waiting import wait_for
from tests.zqueued import ONE_QUEUE, Zqueued

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")

NOBODY = pwd.getpwnam("nobody")
GROUP = grp.getgrgid(NOBODY.pw_gid).gr_name


def as_nobody(zqueued: Zqueued, *arguments: str) -> subprocess.CompletedProcess[str]:
    return zqueuectl_as_nobody("-e", zqueued.control, "--json", *arguments)


def start(start_zqueued: StartZqueued, settings: str, queue: str = ONE_QUEUE) -> Zqueued:
    zqueued = start_zqueued(queue, ready=False)
    zqueued.kill()
    for folder in (zqueued.folder, *zqueued.folder.parents):
        if folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    zqueued.write(f'[control]\nendpoint = "{zqueued.control}"\nmode = "0666"\n{settings}\n' + queue)
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
        (("dead", "list"), may_look),
        (("dead", "export", "-"), may_steer),
        (("dead", "drop", "--all"), may_steer),
        (("dead", "retry", "--all"), may_steer),
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


@on_wire
@pytest.mark.parametrize("may", [True, False])
def test_a_body_is_for_those_who_may_steer(may: bool, start_zqueued: StartZqueued) -> None:
    who = "nobody" if may else "root"
    zqueued = start(start_zqueued, f'may_steer = ["{who}"]', ONE_QUEUE + 'max_waiting_time = "1ms"')
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        client.connect(zqueued.frontend())
        client.send_multipart([b"", b"secret"])
        wait_for(lambda: zqueued.queue().dead_letters.kept)
    [letter] = json.loads(as_nobody(zqueued, "dead", "list").stdout)["letters"]
    assert letter["sizes"] == [0, 6]
    shown = as_nobody(zqueued, "dead", "show", letter["id"])
    assert shown.returncode == 0
    assert ("secret" in shown.stdout) == may
    shown = zqueuectl_as_nobody("-e", zqueued.control, "dead", "show", letter["id"])
    assert ("frames of 6 bytes; they are for those who may steer" in shown.stdout) != may
    read = {"verb": "dead-read", "letter": letter["id"]}
    assert ("forbidden" in asked_by_nobody(zqueued, read)) != may
    listed = {"verb": "dead-list", "content": True}
    assert ("forbidden" in asked_by_nobody(zqueued, listed)) != may


def asked_by_nobody(zqueued: Zqueued, request: dict[str, object]) -> str:
    """What the control socket answers to a request that is not made by zqueuectl."""
    code = (
        "import os, pwd, sys, zmq\n"
        "user = pwd.getpwnam('nobody')\n"
        "os.setgroups([]); os.setgid(user.pw_gid); os.setuid(user.pw_uid)\n"
        "caller = zmq.Context().socket(zmq.DEALER)\n"
        "caller.linger = 0; caller.rcvtimeo = 20_000\n"
        "caller.connect(sys.argv[1]); caller.send_string(sys.argv[2])\n"
        "print(caller.recv_string())"
    )
    asked = json.dumps({"v": 1, "id": "1"} | request)
    command = [sys.executable, "-c", code, zqueued.control, asked]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_reload_applies_them(start_zqueued: StartZqueued) -> None:
    zqueued = start(start_zqueued, "")
    assert as_nobody(zqueued, "pause").returncode == 0
    zqueued.path.write_text(zqueued.path.read_text().replace('"0666"', '"0666"\nmay_steer = []'))
    with zqueued.client() as control:
        result = control.reload()
    assert (result.settings, result.needs_restart) == (("control.may_steer",), ())
    assert as_nobody(zqueued, "resume").returncode == 1
    zqueued.wait_event("control.refused", by="65534/nobody", verb="resume")
