"""From systemctl start to systemctl stop, and what happens in between."""

from __future__ import annotations

import json
import re

import pytest

from tests.systemd.machine import Machine
from tests.systemd.service import (
    CONFIG,
    assert_serves,
    drop_in,
    entry,
    listening_inode,
    main_pid,
    wait_until_back,
)
from tests.waiting import wait_for


def test_start_returns_when_clients_can_connect(machine: Machine) -> None:
    machine.run(
        "systemctl start zqueue && "
        "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 5559))'"
    )
    assert_serves(machine)
    live = r"Status: \"1 running; [0-9.]+ requests/s, 0 in flight, 0 waiting"
    wait_for(lambda: re.search(live, machine.run("systemctl status zqueue").stdout))
    assert machine.run(f"stat -c %U /proc/{main_pid(machine)}").stdout == "zqueue\n"


def test_reload_applies_or_fails(machine: Machine) -> None:
    machine.run("systemctl start zqueue")
    before = main_pid(machine)
    machine.write(
        "/etc/zqueue.toml",
        CONFIG + '[queues.more]\nfrontend = "tcp://127.0.0.1:5571"\n'
        'backend = "tcp://127.0.0.1:5572"\n',
    )
    machine.run("systemctl reload zqueue")
    assert "more" in machine.run("zqueuectl queues").stdout, "applied once it has returned"
    machine.write("/etc/zqueue.toml", CONFIG + 'frontnd = "x"\n')
    assert machine.run("systemctl reload zqueue", check=False).returncode != 0
    refused = entry(machine, "EVENT=config.refused")
    assert "zqueue.toml:5" in refused["ERROR"]
    assert 'did you mean "frontend"?' in refused["ERROR"]
    assert main_pid(machine) == before
    assert_serves(machine)


# -- stop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "limit"),
    [("2s", ""), ("5s", "[Service]\nTimeoutStopSec=2s\n")],
    ids=["in time", "longer than TimeoutStopSec"],
)
def test_stop_drains(work: str, limit: str, machine: Machine) -> None:
    """However long it takes: a drain that goes on asks systemd for more time."""
    drop_in(machine, "zqueue.service", limit)
    machine.run("systemctl start zqueue")
    server = machine.start(f"/usr/bin/zqueuectl demo server --work {work} --requests 1")
    client = machine.start("/usr/bin/zqueuectl demo client --requests 1 --id me")
    wait_for(lambda: ", 1 in flight" in machine.property("zqueue", "StatusText"), "a request")
    machine.run("systemctl stop zqueue")
    assert "received World from server" in client.communicate(timeout=30)[0]
    server.communicate(timeout=30)
    assert machine.property("zqueue", "Result") == "success"


def test_a_drain_that_does_not_end_is_ended_by_its_own_timeout(machine: Machine) -> None:
    machine.write("/etc/zqueue.toml", '[daemon]\ndrain_timeout = "1s"\n' + CONFIG)
    machine.run("systemctl start zqueue")
    server = machine.start("/usr/bin/zqueuectl demo server --work 1h --requests 1")
    client = machine.start("/usr/bin/zqueuectl demo client --requests 1 --id me")
    try:
        wait_for(lambda: ", 1 in flight" in machine.property("zqueue", "StatusText"), "a request")
        machine.run("systemctl stop zqueue")
    finally:
        for peer in (server, client):
            machine.end(peer)
    assert machine.property("zqueue", "Result") == "success"
    assert entry(machine, "EVENT=queue.drain_timed_out")["IN_FLIGHT"] == "1"


# -- when it fails ---------------------------------------------------------------------------------


def test_a_bad_config_is_not_tried_again(machine: Machine) -> None:
    machine.write("/etc/zqueue.toml", "[queues.default]\n")
    assert machine.run("systemctl start zqueue", check=False).returncode != 0
    assert machine.property("zqueue", "ExecMainStatus") == "78"
    assert machine.property("zqueue", "NRestarts") == "0"
    assert machine.property("zqueue", "ActiveState") == "failed"
    refused = entry(machine, "EVENT=daemon.refused -p err")
    assert refused["EXIT_CODE"] == "78"
    assert "queues.default: frontend is missing" in refused["ERROR"]
    assert "zqueued could not start" in machine.journal("-x -u zqueue EVENT=daemon.refused")


def test_an_endpoint_that_somebody_has_is_tried_a_few_times(machine: Machine) -> None:
    often = "[Unit]\nStartLimitBurst=5\n[Service]\nRestartSec=100ms\n"
    drop_in(machine, "zqueue.service", often)
    holder = machine.start(
        "/usr/bin/python3 -c '"
        'import socket, time; s = socket.create_server(("127.0.0.1", 5559)); time.sleep(600)\''
    )
    try:
        wait_for(lambda: listening_inode(machine, 5559), "the port to be taken")
        machine.run("systemctl start zqueue", check=False)
        wait_for(lambda: machine.property("zqueue", "ActiveState") == "failed", "the last try")
    finally:
        machine.end(holder)
    assert machine.property("zqueue", "NRestarts") == "5"
    assert "port 5559 is in use" in machine.journal("-u zqueue")


@pytest.mark.parametrize("how", ["a stalled queue", "kill -9"])
def test_it_comes_back_with_its_listeners_never_closed(how: str, machine: Machine) -> None:
    drop_in(machine, "zqueue.service", "[Service]\nWatchdogSec=2s\n")
    machine.run("systemctl start zqueue")
    before = main_pid(machine)
    inodes = [listening_inode(machine, port) for port in (5559, 5560)]
    assert all(inodes)
    if how == "kill -9":
        machine.run(f"kill -9 {before}")
    else:
        stall(machine, before)
    wait_until_back(machine, before)
    assert [listening_inode(machine, port) for port in (5559, 5560)] == inodes
    assert_serves(machine)
    if how != "kill -9":
        assert "Watchdog timeout" in machine.journal("-u zqueue")


def stall(machine: Machine, pid: str) -> None:
    """Stop the thread of the queue, as a debugger would, until the watchdog has seen it."""
    code = f"""
import ctypes, os, pathlib, time
libc = ctypes.CDLL(None, use_errno=True)
def ended(thread):
    # Its end has to be taken note of, or the process stays a zombie.
    found, status = os.waitpid(thread, os.WNOHANG | 0x40000000)
    return found and not os.WIFSTOPPED(status)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
for task in pathlib.Path("/proc/{pid}/task").iterdir():
    if (task / "comm").read_text().strip() == "zq.default":
        assert libc.ptrace(0x4206, int(task.name), None, None) == 0
        assert libc.ptrace(0x4207, int(task.name), None, None) == 0
        while not ended(int(task.name)):
            time.sleep(0.05)
"""
    machine.write("/stall.py", code)
    stalling = machine.start("/usr/bin/python3 /stall.py")
    try:
        wait_for(lambda: main_pid(machine) != pid, "the watchdog", 60)
    finally:
        machine.end(stalling)


# -- other ways to run it --------------------------------------------------------------------------


def test_three_instances_side_by_side(machine: Machine) -> None:
    for number, name in enumerate(("a", "b", "c")):
        machine.write(
            f"/etc/zqueue/{name}.toml",
            CONFIG.replace("5559", f"600{number}").replace("5560", f"610{number}"),
        )
    machine.run("systemctl start zqueue@a zqueue@b zqueue@c")
    before = {name: main_pid(machine, f"zqueue@{name}") for name in ("a", "c")}
    machine.run("systemctl stop zqueue@b")
    assert machine.run("zqueuectl --instance b status", check=False).returncode == 69
    for number, name in ((0, "a"), (2, "c")):
        assert "running" in machine.run(f"zqueuectl --instance {name} status").stdout
        assert main_pid(machine, f"zqueue@{name}") == before[name]
        assert_serves(machine, 6000 + number, 6100 + number)


def test_dynamic_user(machine: Machine) -> None:
    drop_in(machine, "zqueue.service", "[Service]\nUser=\nGroup=\nDynamicUser=yes\n")
    machine.run("systemctl start zqueue")
    assert machine.run(f"stat -c %U /proc/{main_pid(machine)}").stdout != "root\n"
    assert_serves(machine)
    refused = machine.run("zqueuectl status", user="www-data", check=False)
    assert "DynamicUser= has it where only root comes" in refused.stderr
    assert "usermod" not in refused.stderr
    machine.run("systemctl reload zqueue && systemctl restart zqueue")
    assert "handover.taken_up" in machine.run("zqueuectl events").stdout
    machine.run("systemctl stop zqueue")


def test_a_transient_service(machine: Machine) -> None:
    machine.run(
        "systemd-run -q --unit=zqueue-transient --property=Type=notify "
        "--property=RuntimeDirectory=zqueue-transient /usr/bin/zqueued"
    )
    assert_serves(machine)
    machine.run("zqueuectl -e ipc:///run/zqueue-transient/control.sock shutdown")


def test_a_service_of_a_user(machine: Machine) -> None:
    machine.run("id ada 2>/dev/null || useradd ada; loginctl enable-linger ada")
    number = machine.run("id -u ada").stdout.strip()
    session = f"export XDG_RUNTIME_DIR=/run/user/{number};"
    wait_for(
        lambda: (
            machine.run(
                f"{session} systemctl --user is-system-running", user="ada", check=False
            ).stdout
            in ("running\n", "degraded\n")
        ),
        "the user's systemd",
    )
    machine.run(
        f"{session} systemd-run -q --user --unit=mine --property=Type=notify "
        "--property=FileDescriptorStoreMax=16 /usr/bin/zqueued",
        user="ada",
    )
    machine.run(f"{session} systemctl --user restart mine", user="ada")
    told = machine.run(f"{session} zqueuectl events", user="ada").stdout
    assert "handover.taken_up" in told
    status = json.loads(machine.run(f"{session} zqueuectl --json status", user="ada").stdout)
    assert status["control"] == f"ipc:///run/user/{number}/zqueue/control.sock"
    assert_serves(machine)
    machine.run(f"{session} zqueuectl shutdown", user="ada")


# -- the doctor ------------------------------------------------------------------------------------


def test_the_doctor_knows_what_systemd_knows(machine: Machine) -> None:
    def what(arguments: str = "") -> list[str]:
        done = machine.run(f"zqueuectl doctor --json {arguments}", check=False)
        return [each["what"] for each in json.loads(done.stdout)["findings"]]

    machine.run("systemctl start zqueue && systemctl enable zqueue")
    assert not any("started at boot" in each for each in what())
    machine.run("systemctl disable zqueue")
    assert "zqueue is not started at boot" in what()
    before = main_pid(machine)
    machine.run(f"kill -9 {before}")
    wait_until_back(machine, before)
    again = "systemd had to start zqueue again 1 time: it had ended by itself"
    assert again in what()
    assert "coredumpctl" not in machine.run("zqueuectl doctor", check=False).stdout
    machine.write("/etc/zqueue.toml", CONFIG + 'frontnd = "x"\n')
    machine.run("systemctl restart zqueue", check=False)
    wait_for(lambda: machine.property("zqueue", "ActiveState") != "active", "it to fail")
    found = what()
    assert any(each.startswith("no daemon answers: ") for each in found)
    assert any("the config would be refused" in each and "frontnd" in each for each in found)


def test_the_doctor_finds_a_control_socket_elsewhere(machine: Machine) -> None:
    drop_in(machine, "zqueue.service", "[Service]\nRuntimeDirectory=\nRuntimeDirectory=broker\n")
    machine.run("systemctl start zqueue")
    said = machine.run("zqueuectl doctor", check=False).stdout
    assert "zqueuectl -e ipc:///run/broker/control.sock doctor" in said
    assert "in use" not in said, "its own ports are no obstacle"
