"""Dead letters in the folder that the units give zqueued, under their hardening."""

from __future__ import annotations

import json

import pytest

from tests.systemd.machine import Machine
from tests.systemd.service import CONFIG, drop_in, main_pid, wait_until_back
from tests.waiting import wait_for

_DIE = """
import zmq
with zmq.Context() as context, context.socket(zmq.DEALER) as client:
    client.connect("tcp://127.0.0.1:5559")
    client.send_multipart([b"", b"x"])
"""
_DIES = """
max_waiting_time = "1ms"
keep_for_gone_clients = true
dead_letters = "%s/dead.db"
"""


def config(folder: str) -> str:
    return CONFIG + _DIES % folder


def letters(machine: Machine, options: str) -> list[str]:
    told = machine.run(f"zqueuectl {options} dead list --json").stdout
    return [letter["id"] for letter in json.loads(told)["letters"]]


@pytest.mark.parametrize(
    ("unit", "options", "file", "folder"),
    [
        ("zqueue", "", "/etc/zqueue.toml", "/var/lib/zqueue"),
        ("zqueue@orders", "--instance orders", "/etc/zqueue/orders.toml", "/var/lib/zqueue-orders"),
    ],
)
def test_outlive_a_kill(unit: str, options: str, file: str, folder: str, machine: Machine) -> None:
    machine.write(file, config(folder))
    machine.run(f"systemctl start {unit}")
    machine.python(_DIE)
    before = wait_for(lambda: letters(machine, options), "a dead letter")
    shown = machine.run(f"stat -c '%U %G %a' {folder} {folder}/dead.db").stdout
    assert shown == "zqueue zqueue 700\nzqueue zqueue 600\n"
    pid = main_pid(machine, unit)
    machine.run(f"kill -9 {pid}")
    wait_until_back(machine, pid, unit)
    assert letters(machine, options) == before
    machine.python(_DIE)
    wait_for(lambda: len(letters(machine, options)) == 2, "another dead letter")
    machine.run(f"zqueuectl {options} dead drop --all")


def test_no_file_where_zqueued_may_not_write(machine: Machine) -> None:
    machine.write("/etc/zqueue.toml", config("/srv"))
    drop_in(machine, "zqueue.service", "[Service]\nRestart=no\n")
    assert machine.run("systemctl start zqueue", check=False).returncode != 0
    said = wait_for(lambda: machine.journal("-u zqueue -g 'dead_letters: /srv/dead.db'"))
    assert "it is on a file system that can only be read" in said
