"""What the journal has of zqueued."""

from __future__ import annotations

import re

from tests.systemd.machine import Machine
from tests.systemd.service import assert_serves, entry
from tests.waiting import wait_for
from zqueue.events import CATALOGUE


def test_events_are_entries_with_fields(machine: Machine) -> None:
    machine.run("systemctl start zqueue && zqueuectl pause")
    paused = entry(machine, "QUEUE=default", "EVENT=queue.paused")
    assert paused["BY"] == paused["STEERED_BY"] == "0/root"
    assert paused["PRIORITY"] == "6"
    assert paused["SYSLOG_IDENTIFIER"] == "zqueued"
    assert paused["_SYSTEMD_UNIT"] == "zqueue.service"
    machine.run("zqueuectl resume")
    assert_serves(machine)
    connected = entry(machine, "QUEUE=default", "EVENT=peer.connected", "SIDE=frontend")
    assert connected["PEER"].startswith("tcp://127.0.0.1:")


def test_important_ones_have_an_id_and_a_priority(machine: Machine) -> None:
    machine.run("systemctl start zqueue")
    kind = CATALOGUE["daemon.ready"]
    assert entry(machine, f"MESSAGE_ID={kind.message_id}")["EVENT"] == "daemon.ready"
    machine.write("/etc/zqueue.toml", "nonsense")
    machine.run("systemctl reload zqueue", check=False)
    refused = entry(machine, f"MESSAGE_ID={CATALOGUE['config.refused'].message_id}")
    assert refused["PRIORITY"] == "3"
    assert entry(machine, "-p err", "SYSLOG_IDENTIFIER=zqueued")["EVENT"] == "config.refused"


def test_the_time_is_told_once(machine: Machine) -> None:
    machine.run("systemctl start zqueue && zqueuectl pause")
    entry(machine, "EVENT=queue.paused")
    lines = machine.journal("-u zqueue -o cat EVENT=queue.paused EVENT=daemon.ready").splitlines()
    assert lines
    assert [line for line in lines if re.search(r"\d\d:\d\d:\d\d", line)] == []


def test_the_catalog_explains(machine: Machine) -> None:
    machine.run("systemctl start zqueue")
    explained = wait_for(lambda: machine.journal("-x -u zqueue EVENT=daemon.ready"), "an entry")
    assert "Subject: zqueued serves clients and workers" in explained
    assert "zqueuectl finds the daemon at ipc:///run/zqueue/control.sock" in explained


STEER = """
from zqueue.control.client import ControlClient
with ControlClient() as zqueued:
    for _ in range(6000):
        zqueued.pause("default")
        zqueued.resume("default")
"""


def test_a_stopped_journal_stalls_nothing_and_what_it_misses_is_counted(machine: Machine) -> None:
    machine.run("systemctl start zqueue")
    machine.run("systemctl kill -s STOP systemd-journald")
    try:
        # More events than the log lets wait, beyond those that the journal's socket holds.
        machine.python(STEER, within=120)
        assert_serves(machine)
        assert "running" in machine.run("zqueuectl status").stdout
        machine.run("systemctl reload zqueue")
    finally:
        machine.run("systemctl kill -s CONT systemd-journald")
    assert int(entry(machine, "EVENT=log.lines_lost")["LINES"]) > 0
    machine.forget_journal()
    machine.run("zqueuectl pause")
    entry(machine, "EVENT=queue.paused")


def test_one_that_was_started_without_a_journal_logs_when_it_is_back(machine: Machine) -> None:
    units = "systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service"
    machine.run(f"systemctl stop {units}")
    try:
        machine.run("systemctl start zqueue")
    finally:
        machine.run(f"systemctl start {units}")
    machine.run("zqueuectl pause")
    entry(machine, "EVENT=queue.paused")
