"""Who may steer a daemon that runs as a service."""

from __future__ import annotations

import json

import pytest

from tests.systemd.machine import Machine
from tests.systemd.service import CONFIG, drop_in, entry


@pytest.fixture
def oncall(machine: Machine) -> str:
    """A user who is in no group."""
    machine.run("id oncall 2>/dev/null || useradd oncall; gpasswd -d oncall zqueue || true")
    return "oncall"


def test_the_group_steers_and_nobody_else(machine: Machine, oncall: str) -> None:
    machine.run("systemctl start zqueue")
    assert machine.run("stat -c '%a %G' /run/zqueue/control.sock").stdout == "660 zqueue\n"
    refused = machine.run("zqueuectl status", user=oncall, check=False)
    assert refused.returncode == 69
    assert 'the user "oncall" may not use it' in refused.stderr
    assert 'open to the group "zqueue": usermod -aG zqueue USER' in refused.stderr
    machine.run("usermod -aG zqueue oncall")
    machine.run("zqueuectl pause", user=oncall)
    by = f"{machine.run('id -u oncall').stdout.strip()}/oncall"
    status = json.loads(machine.run("zqueuectl --json status").stdout)
    assert status["queues"][0]["by"] == by
    assert entry(machine, "EVENT=queue.paused")["STEERED_BY"] == by


def test_the_lists_of_who_may(machine: Machine, oncall: str) -> None:
    machine.run("usermod -aG zqueue oncall")
    machine.write("/etc/zqueue.toml", "[control]\nmay_steer = []\n" + CONFIG)
    machine.run("systemctl start zqueue")
    machine.run("zqueuectl status", user=oncall)
    refused = machine.run("zqueuectl pause", user=oncall, check=False)
    assert refused.returncode == 1
    assert "oncall may not steer: control.may_steer does not name them" in refused.stderr
    assert entry(machine, "EVENT=control.refused")["BY"].endswith("/oncall")
    machine.write("/etc/zqueue.toml", '[control]\nmay_steer = ["@zqueue"]\n' + CONFIG)
    machine.run("systemctl reload zqueue")
    machine.run("zqueuectl pause", user=oncall)


def test_a_user_of_your_own_who_is_in_the_group(machine: Machine) -> None:
    """The unit's filter lets nobody give files away: the socket has the group that the user has."""
    machine.run("id app 2>/dev/null || useradd --groups zqueue app")
    drop_in(machine, "zqueue.service", "[Service]\nUser=app\nGroup=app\n")
    machine.run("systemctl start zqueue")
    assert machine.run("stat -c '%U %G %a' /run/zqueue/control.sock").stdout == "app app 660\n"
    assert "running" in machine.run("zqueuectl status").stdout
