"""Addresses of a machine that has IPv6 only, and times in UTC, and a config from a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.test_versions import Recording
from zqueue import config, families
from zqueue.cli.zqueuectl import main
from zqueue.cli.zqueued import main as zqueued

QUEUE = '[queues.a]\nfrontend = "tcp://*:{}"\nbackend = {{ bind = "tcp://*:{}", ipv6 = true }}\n'


def test_a_machine_with_ipv6_alone_is_warned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "zqueue.toml"
    path.write_text(QUEUE.format(1, 2))
    monkeypatch.setattr(families, "_IF_INET6", tmp_path / "if_inet6")
    monkeypatch.setattr(families, "ipv4_of", lambda name: "127.0.0.1" if name == "lo" else None)
    assert config.check(config.load(path)) == []
    (tmp_path / "if_inet6").write_text("fe80" + "0" * 28 + " 02 40 20 80 eth0\n")
    assert config.check(config.load(path)) == [], "an address of the link alone is none"
    with (tmp_path / "if_inet6").open("a") as file:
        file.write("2001" + "0" * 28 + " 02 40 00 80 eth0\n")
    [warning] = config.check(config.load(path))
    assert "queues.a.frontend.bind: tcp://*:1 listens on IPv4 only" in warning
    monkeypatch.setattr(families, "ipv4_of", lambda name: "10.0.0.7")
    assert config.check(config.load(path)) == []


def test_a_config_may_come_by_a_pipe() -> None:
    run = CliRunner().invoke
    good = run(zqueued, ["--check", "--config", "-"], input=QUEUE.format(1, 2))
    assert (good.exit_code, good.output.startswith("<stdin>: good, 1 queue")) == (0, True)
    bad = run(zqueued, ["--check", "--config", "-"], input="[queues.a]\nfly = 1\n")
    assert (bad.exit_code, "<stdin>:2: queues.a.fly" in bad.output) == (78, True)
    assert run(zqueued, ["--check", "--config", "-"], input=b"\xff").exit_code == 78
    assert run(zqueued, ["--config", "-"], input=QUEUE).exit_code == 2


def test_times_are_told_in_the_zone_that_is_asked_for(tmp_path: Path) -> None:
    recording = Recording(tmp_path, later=False)
    try:
        letter = recording.replies["dead-list"][-1]["result"]["letters"][0]
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(letter["died_at"]))
        east = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(letter["died_at"] + 5.75 * 3600))
        for words, zone, expected in (
            (("--utc", "dead", "list", "x"), "Asia/Kathmandu", at),
            (("dead", "list", "x", "--utc"), "NPT-5:45", at),
            (("dead", "list", "x"), "NPT-5:45", east),
        ):
            done = subprocess.run(
                [sys.executable, "-m", "zqueue.cli.zqueuectl", "-e", recording.endpoint, *words],
                capture_output=True,
                text=True,
                env=os.environ | {"TZ": zone},
                timeout=60,
            )
            assert expected in done.stdout, (words, done)
    finally:
        recording.close()


def test_utc_is_an_option_of_every_verb() -> None:
    assert "--utc" in CliRunner().invoke(main, ["events", "--help"]).output
