"""Sockets that systemd opens or keeps: no connect is refused while the service restarts."""

from __future__ import annotations

import pytest

from tests.systemd.machine import Machine
from tests.systemd.service import CONFIG, assert_serves, drop_in, listening_inode, main_pid
from tests.waiting import wait_for

CONNECT_IN_A_LOOP = """
import os, socket, time
connected = refused = 0
while not os.path.exists("/connect.stop"):
    try:
        socket.create_connection(("127.0.0.1", 5559), timeout=20).close()
        connected += 1
    except ConnectionRefusedError:
        refused += 1
    time.sleep(0.002)
print(connected, refused)
"""
RESTARTS = 20


@pytest.mark.parametrize("holder", ["the descriptor store", "the socket unit"])
def test_no_connect_is_refused_over_twenty_restarts(holder: str, machine: Machine) -> None:
    drop_in(machine, "zqueue.service", f"[Unit]\nStartLimitBurst={RESTARTS + 1}\n")
    if holder == "the socket unit":
        hold(machine, "127.0.0.1:5559")
    machine.run("systemctl start zqueue")
    machine.write("/connect.py", CONNECT_IN_A_LOOP)
    loop = machine.start("/usr/bin/python3 /connect.py")
    pids = {main_pid(machine)}
    for _ in range(RESTARTS):
        machine.run("systemctl restart zqueue")
        pids.add(main_pid(machine))
    machine.run("touch /connect.stop")
    said, _ = loop.communicate(timeout=30)
    machine.run("rm /connect.stop")
    connected, refused = map(int, said.split())
    print(f"{connected} connects over {RESTARTS} restarts, {refused} refused")
    assert len(pids) == RESTARTS + 1
    assert refused == 0
    assert connected > RESTARTS
    assert_serves(machine)


def hold(machine: Machine, address: str) -> None:
    """Have zqueue.socket listen there."""
    drop_in(machine, "zqueue.socket", f"[Socket]\nListenStream=\nListenStream={address}\n")
    machine.run("systemctl start zqueue.socket")


def test_the_first_client_starts_the_service(machine: Machine) -> None:
    hold(machine, "127.0.0.1:5559")
    assert machine.property("zqueue", "ActiveState") == "inactive"
    machine.python(
        "import zmq\n"
        "s = zmq.Context().socket(zmq.REQ); s.linger = 0\n"
        "s.connect('tcp://127.0.0.1:5559'); s.send(b'x')\n"
        "s.poll(500)\n"
    )
    wait_for(lambda: machine.property("zqueue", "SubState") == "running", "the service")
    assert_serves(machine)


def test_the_workers_port_by_a_copy_of_the_socket_unit(machine: Machine) -> None:
    machine.run(
        "cd /etc/systemd/system && "
        "sed -e s/0.0.0.0:5559/127.0.0.1:5560/ -e s/default.frontend/default.backend/ "
        "/usr/lib/systemd/system/zqueue.socket > zqueue-default-backend.socket && "
        "systemctl daemon-reload && systemctl start zqueue-default-backend.socket"
    )
    inode = listening_inode(machine, 5560)
    machine.run("systemctl start zqueue")
    assert_serves(machine)
    machine.run("systemctl stop zqueue")
    assert listening_inode(machine, 5560) == inode


def test_a_port_that_the_socket_unit_does_not_hold(machine: Machine) -> None:
    machine.run("systemctl start zqueue.socket")
    assert machine.run("systemctl start zqueue", check=False).returncode != 0
    said = wait_for(
        lambda: machine.journal("-u zqueue --grep FileDescriptorName=default.frontend"), "why"
    )
    assert "listens at tcp://0.0.0.0:5559" in said
    assert "change queues.default.frontend in /etc/zqueue.toml" in said
    assert "or ListenStream= of that unit (systemctl edit --full zqueue.socket" in said
    assert machine.run("zqueued --check").returncode == 0, "the config in itself is good"


def test_a_reload_that_moves_the_port_is_refused(machine: Machine) -> None:
    hold(machine, "127.0.0.1:5559")
    machine.run("systemctl start zqueue")
    machine.write("/etc/zqueue.toml", CONFIG.replace("5559", "5999"))
    assert machine.run("systemctl reload zqueue", check=False).returncode != 0
    assert "ListenStream= of that unit" in machine.journal("-u zqueue EVENT=config.refused -o json")
    assert_serves(machine)


def test_the_control_socket_can_start_it(machine: Machine) -> None:
    machine.run("systemctl start zqueue-control.socket")
    assert machine.property("zqueue", "ActiveState") == "inactive"
    assert "running" in machine.run("zqueuectl --timeout 20s status").stdout
    machine.run("systemctl stop zqueue; test -S /run/zqueue/control.sock")
    assert "running" in machine.run("zqueuectl --timeout 20s status").stdout
    assert machine.run("stat -c '%a %G' /run/zqueue/control.sock").stdout == "660 zqueue\n"
