"""The units' hardening: how tight it is, and that zqueued does under it all that it does."""

from __future__ import annotations

import json
import re

import pytest

from tests.systemd.machine import Machine
from tests.systemd.service import CONFIG, assert_serves, drop_in, entry


@pytest.mark.parametrize("unit", ["zqueue", "zqueue@any"])
def test_exposure(unit: str, machine: Machine) -> None:
    rated = machine.run(f"systemd-analyze security --no-pager {unit}").stdout.splitlines()[-1]
    found = re.search(r"([0-9.]+) OK", rated)
    assert found, rated
    print(rated)
    assert float(found[1]) <= 1.5


def test_what_could_be_tighter_says_why_it_is_not(machine: Machine) -> None:
    """Each line that systemd finds fault with is named in a comment of the unit."""
    told = machine.run("systemd-analyze security --json=short --no-pager zqueue").stdout
    unit = machine.run("cat /usr/lib/systemd/system/zqueue.service").stdout
    comments = " ".join(line for line in unit.splitlines() if line.startswith("#"))
    faults = [
        fault["name"] for fault in json.loads(told) if fault["set"] is False and fault["exposure"]
    ]
    assert faults
    unexplained = [fault for fault in faults if word_for(fault) not in comments]
    assert unexplained == []


def word_for(fault: str) -> str:
    """``Families=~AF_(INET|INET6)`` is about AF_INET, ``ProcSubset=`` about itself."""
    return re.sub(r"\((\w+)\|.*\)", r"\1", fault.partition("~")[2] or fault.partition("=")[0])


def test_endpoints_of_every_kind(machine: Machine) -> None:
    """ipc sockets beside the control socket, an interface's name, a capture, a PAIR."""
    machine.write(
        "/etc/zqueue.toml",
        """
[queues.default]
frontend = { bind = ["tcp://lo:5559", "ipc:///run/zqueue/default.frontend"] }
backend = { bind = ["tcp://127.0.0.1:5560", "ipc://@default.backend"] }
capture = "ipc:///run/zqueue/default.capture"
control = "ipc:///run/zqueue/default.pair"
""",
    )
    machine.run("systemctl start zqueue")
    assert_serves(machine)
    machine.python(
        "import zmq\n"
        "pair = zmq.Context().socket(zmq.PAIR)\n"
        "pair.linger = 5000\n"
        "pair.connect('ipc:///run/zqueue/default.pair')\n"
        "pair.send(b'PAUSE')\n"
    )
    assert entry(machine, "EVENT=queue.paused")["BY"].startswith("pair")
    machine.run(
        "zqueuectl resume && zqueuectl terminate && zqueuectl start && systemctl stop zqueue"
    )


def test_a_privileged_port_with_the_capability_for_it(machine: Machine) -> None:
    machine.write("/etc/zqueue.toml", CONFIG.replace("5559", "59"))
    drop_in(machine, "zqueue.service", "[Service]\nRestart=no\n")
    assert machine.run("systemctl start zqueue", check=False).returncode != 0
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in machine.journal("-u zqueue")
    both = "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"
    drop_in(machine, "zqueue.service", f"[Service]\n{both}")
    machine.run("systemctl start zqueue")
    assert_serves(machine, frontend=59)


CROWD = """
import resource, signal, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))
crowd = []
for _ in range(1500):
    one = socket.socket(); one.setblocking(False); one.connect_ex(("127.0.0.1", 5559))
    crowd.append(one)
signal.pause()
"""


def test_when_descriptors_run_out_the_gates_close(machine: Machine) -> None:
    drop_in(machine, "zqueue.service", "[Service]\nLimitNOFILE=1000\n")
    machine.run("systemctl start zqueue")
    machine.write("/crowd.py", CROWD)
    crowd = machine.start("/usr/bin/python3 /crowd.py")
    try:
        entry(machine, "EVENT=listener.closed_gate", "SIDE=frontend")
    finally:
        machine.end(crowd)
    entry(machine, "EVENT=listener.opened_gate")
    assert_serves(machine)
