"""An operator's life with zqueue, on a booted Debian."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.systemd.conftest import CONFIG
from tests.systemd.machine import Machine
from tests.waiting import wait_for

PEERS = """
import sys, threading, time, zmq
context = zmq.Context()
stop = threading.Event()
def work():
    rep = context.socket(zmq.REP); rep.linger = 0; rep.connect("tcp://127.0.0.1:5560")
    while not stop.is_set():
        if rep.poll(50):
            rep.send(rep.recv())
workers = [threading.Thread(target=work) for _ in range(2)]
for worker in workers: worker.start()
def ask(count):
    req = context.socket(zmq.REQ); req.linger = 0; req.connect("tcp://127.0.0.1:5559")
    for number in range(count):
        req.send(b"%d" % number)
        assert req.poll(20000), "no reply"
        assert req.recv() == b"%d" % number
    req.close()
"""


def assert_serves(machine: Machine, count: int = 10) -> None:
    said = machine.python(
        PEERS + f"\ntry:\n    ask({count}); print('served')\nfinally:\n    stop.set()\n"
    )
    assert said == "served\n"


def main_pid(machine: Machine, unit: str = "zqueue") -> str:
    return machine.property(unit, "MainPID")


class TestPackage:
    def test_nothing_is_enabled_or_started(self, installed: Machine) -> None:
        for unit in ("zqueue.service", "zqueue.socket"):
            assert installed.run(f"systemctl is-enabled {unit}", check=False).stdout == "disabled\n"
            assert installed.run(f"systemctl is-active {unit}", check=False).stdout == "inactive\n"

    def test_the_config_is_a_conffile(self, installed: Machine) -> None:
        assert "/etc/zqueue.toml" in installed.run("dpkg-query -f '${Conffiles}' -W zqueue").stdout
        assert installed.run("zqueued --check").stdout == "/etc/zqueue.toml: good, 1 queue\n"

    def test_the_user_is_there(self, installed: Machine) -> None:
        assert installed.run("getent passwd zqueue").stdout.startswith("zqueue:")

    def test_the_demo_runs(self, installed: Machine) -> None:
        assert "~11 requests, ~11 replies" in installed.run("zqueuectl demo").stdout

    def test_pages_and_completions_are_there(self, installed: Machine) -> None:
        listed = installed.run("dpkg -L zqueue").stdout
        for path in (
            "/usr/share/man/man8/zqueued.8.gz",
            "/usr/share/man/man1/zqueuectl.1.gz",
            "/usr/share/man/man5/zqueue.toml.5.gz",
            "/usr/share/bash-completion/completions/zqueuectl",
            "/usr/share/zsh/vendor-completions/_zqueuectl",
            "/usr/share/fish/vendor_completions.d/zqueuectl.fish",
            "/usr/lib/systemd/system/zqueue.service",
            "/usr/lib/systemd/catalog/zqueue.catalog",
            "/usr/lib/sysusers.d/zqueue.conf",
        ):
            assert path in listed.splitlines()

    def test_an_upgrade_keeps_edits_and_listening_sockets(self, machine: Machine) -> None:
        machine.run("systemctl start zqueue")
        before = main_pid(machine)
        inode = listening_inode(machine, 5559)
        machine.run("dpkg -i /zqueue.deb", within=120)
        assert machine.run("cat /etc/zqueue.toml").stdout == CONFIG
        wait_for(lambda: main_pid(machine) not in ("0", before), "the restart")
        wait_for(lambda: machine.property("zqueue", "SubState") == "running", "it to run again")
        assert listening_inode(machine, 5559) == inode
        assert_serves(machine)


def listening_inode(machine: Machine, port: int) -> str:
    for line in machine.run("cat /proc/net/tcp").stdout.splitlines()[1:]:
        columns = line.split()
        if columns[1].endswith(f":{port:04X}") and columns[3] == "0A":
            return columns[9]
    return ""


class TestLife:
    def test_start_returns_when_clients_can_connect(self, machine: Machine) -> None:
        machine.run(
            "systemctl start zqueue && "
            "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 5559))'"
        )
        assert_serves(machine)
        status = machine.run("systemctl status zqueue").stdout
        assert re.search(
            r"Status: \"1 running; ~[0-9.]+ requests/s, ~0 in flight, ~0 waiting", status
        )

    def test_it_runs_as_its_own_user_and_steers_by_group(self, machine: Machine) -> None:
        machine.run("systemctl start zqueue")
        assert machine.run(f"stat -c %U /proc/{main_pid(machine)}").stdout == "zqueue\n"
        assert machine.run("stat -c '%a %G' /run/zqueue/control.sock").stdout == "660 zqueue\n"
        machine.run("id oncall 2>/dev/null || useradd oncall")
        refused = machine.run("zqueuectl status", user="oncall", check=False)
        assert refused.returncode == 69
        assert 'open to the group "zqueue": usermod -aG zqueue USER' in refused.stderr
        machine.run("usermod -aG zqueue oncall")
        machine.run("zqueuectl pause", user="oncall")
        status = json.loads(machine.run("zqueuectl --json status").stdout)
        assert status["queues"][0]["by"].endswith("/oncall")

    def test_reload_applies_or_fails(self, machine: Machine) -> None:
        machine.run("systemctl start zqueue")
        machine.write("/etc/zqueue.toml", CONFIG + '[queues.more]\nfrontend = "tcp://127.0.0.1:5571"\n'
                      'backend = "tcp://127.0.0.1:5572"\n')  # fmt: skip
        machine.run("systemctl reload zqueue")
        assert "more" in machine.run("zqueuectl queues").stdout
        machine.write("/etc/zqueue.toml", CONFIG + 'frontnd = "x"\n')
        failed = machine.run("systemctl reload zqueue", check=False)
        assert failed.returncode != 0
        assert 'did you mean "frontend"?' in machine.journal("-u zqueue")
        assert_serves(machine)

    def test_stop_drains(self, machine: Machine) -> None:
        machine.run("systemctl start zqueue")
        server = machine.start("/usr/bin/zqueuectl demo server --work 2s --requests 1")
        client = machine.start("/usr/bin/zqueuectl demo client --requests 1 --id me")
        wait_for(lambda: "~1 in flight" in machine.property("zqueue", "StatusText"), "a request")
        machine.run("systemctl stop zqueue")
        assert "received World from server" in client.communicate(timeout=30)[0]
        server.communicate(timeout=30)
        assert machine.property("zqueue", "Result") == "success"

    def test_a_bad_config_is_not_tried_again(self, machine: Machine) -> None:
        machine.write("/etc/zqueue.toml", "[queues.default]\n")
        assert machine.run("systemctl start zqueue", check=False).returncode != 0
        assert machine.property("zqueue", "ExecMainStatus") == "78"
        assert machine.property("zqueue", "NRestarts") == "0"

    @pytest.mark.parametrize("how", ["a stalled queue", "kill -9"])
    def test_it_comes_back_with_its_listeners_never_closed(
        self, how: str, machine: Machine
    ) -> None:
        machine.run("systemctl start zqueue")
        before, inode = main_pid(machine), listening_inode(machine, 5559)
        assert inode
        if how == "kill -9":
            machine.run(f"kill -9 {before}")
        else:
            stall(machine, before)
        wait_for(
            lambda: (
                machine.property("zqueue", "SubState") == "running" and main_pid(machine) != before
            ),
            "it to be back",
            60,
        )
        assert listening_inode(machine, 5559) == inode
        assert_serves(machine)
        if how != "kill -9":
            assert "Watchdog timeout" in machine.journal("-u zqueue")

    def test_no_connect_is_refused_over_twenty_restarts(self, machine: Machine) -> None:
        machine.run("systemctl start zqueue")
        self._restart_twenty_times(machine)

    def test_nor_with_the_socket_unit(self, machine: Machine) -> None:
        machine.write(
            "/etc/systemd/system/zqueue.socket.d/port.conf",
            "[Socket]\nListenStream=\nListenStream=127.0.0.1:5559\n",
        )
        machine.run("systemctl daemon-reload; systemctl start zqueue.socket zqueue.service")
        self._restart_twenty_times(machine)
        assert_serves(machine)

    def _restart_twenty_times(self, machine: Machine) -> None:
        machine.run(
            "d=/etc/systemd/system/zqueue.service.d; mkdir -p $d; "
            "printf '[Unit]\\nStartLimitBurst=100\\n' > $d/burst.conf; systemctl daemon-reload"
        )
        machine.write("/connect.py", CONNECT_IN_A_LOOP)
        loop = machine.start("/usr/bin/python3 /connect.py")
        for _ in range(20):
            machine.run("systemctl restart zqueue")
        machine.run("touch /connect.stop")
        said, _ = loop.communicate(timeout=30)
        machine.run("rm /connect.stop")
        connected, refused = map(int, said.split())
        assert refused == 0
        assert connected > 100

    def test_a_port_that_the_socket_unit_does_not_hold(self, machine: Machine) -> None:
        machine.run("systemctl start zqueue.socket")
        assert machine.run("systemctl start zqueue", check=False).returncode != 0
        assert (
            "FileDescriptorName=default.frontend listens at tcp://0.0.0.0:5559"
            in machine.journal("-u zqueue")
        )

    def test_three_instances_side_by_side(self, machine: Machine) -> None:
        for number, name in enumerate(("a", "b", "c")):
            machine.write(
                f"/etc/zqueue/{name}.toml",
                CONFIG.replace("5559", f"600{number}").replace("5560", f"610{number}"),
            )
        machine.run("systemctl start zqueue@a zqueue@b zqueue@c")
        machine.run("systemctl stop zqueue@b")
        for name in ("a", "c"):
            assert "running" in machine.run(f"zqueuectl --instance {name} status").stdout
        assert machine.run("zqueuectl --instance b status", check=False).returncode == 69

    def test_dynamic_user(self, machine: Machine) -> None:
        machine.write(
            "/etc/systemd/system/zqueue.service.d/user.conf",
            "[Service]\nUser=\nGroup=\nDynamicUser=yes\n",
        )
        machine.run("systemctl daemon-reload; systemctl start zqueue")
        assert_serves(machine)

    def test_a_transient_service(self, machine: Machine) -> None:
        machine.run(
            "systemd-run -q --unit=zqueue-transient --property=Type=notify "
            "--property=RuntimeDirectory=zqueue-transient /usr/bin/zqueued"
        )
        assert_serves(machine)
        machine.run("zqueuectl -e ipc:///run/zqueue-transient/control.sock shutdown")

    def test_the_control_socket_can_start_it(self, machine: Machine) -> None:
        machine.run("systemctl start zqueue-control.socket")
        assert machine.property("zqueue", "ActiveState") == "inactive"
        assert "running" in machine.run("zqueuectl --timeout 20s status").stdout
        machine.run("systemctl stop zqueue; test -S /run/zqueue/control.sock")
        assert "running" in machine.run("zqueuectl --timeout 20s status").stdout

    def test_a_drain_that_goes_on_gets_the_time_it_needs(self, machine: Machine) -> None:
        machine.write(
            "/etc/systemd/system/zqueue.service.d/stop.conf", "[Service]\nTimeoutStopSec=2s\n"
        )
        machine.run("systemctl daemon-reload; systemctl start zqueue")
        server = machine.start("/usr/bin/zqueuectl demo server --work 5s --requests 1")
        client = machine.start("/usr/bin/zqueuectl demo client --requests 1 --id me")
        wait_for(lambda: "~1 in flight" in machine.property("zqueue", "StatusText"), "a request")
        machine.run("systemctl stop zqueue")
        assert "received World from server" in client.communicate(timeout=30)[0]
        server.communicate(timeout=30)
        assert machine.property("zqueue", "Result") == "success"

    def test_a_service_of_a_user(self, machine: Machine) -> None:
        machine.run("id oncall 2>/dev/null || useradd oncall; loginctl enable-linger oncall")
        number = machine.run("id -u oncall").stdout.strip()
        session = f"export XDG_RUNTIME_DIR=/run/user/{number};"
        wait_for(
            lambda: (
                machine.run(
                    f"{session} systemctl --user is-system-running", user="oncall", check=False
                ).stdout
                in ("running\n", "degraded\n")
            ),
            "the user's systemd",
        )
        machine.run(
            f"{session} systemd-run -q --user --unit=mine --property=Type=notify /usr/bin/zqueued",
            user="oncall",
        )
        status = json.loads(machine.run(f"{session} zqueuectl --json status", user="oncall").stdout)
        assert status["control"] == f"ipc:///run/user/{number}/zqueue/control.sock"
        assert_serves(machine)
        machine.run(f"{session} zqueuectl shutdown", user="oncall")

    def test_exposure(self, machine: Machine) -> None:
        rated = machine.run("systemd-analyze security --no-pager zqueue").stdout.splitlines()[-1]
        found = re.search(r"([0-9.]+) OK", rated)
        assert found, rated
        assert float(found[1]) <= 1.5


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


def stall(machine: Machine, pid: str) -> None:
    """Stop the thread of the queue, as a debugger would, from outside of the container."""
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
        stalling.kill()
        stalling.wait()


class TestJournal:
    def test_events_have_fields(self, machine: Machine) -> None:
        machine.run("systemctl start zqueue && zqueuectl pause")
        found = wait_for(
            lambda: machine.journal(
                "-u zqueue -o json QUEUE=default EVENT=queue.paused --since=-30s"
            ),
            "the entry",
        )
        entry = json.loads(found.splitlines()[-1])
        assert entry["BY"] == entry["STEERED_BY"] == "0/root"
        assert entry["PRIORITY"] == "6"
        assert entry["SYSLOG_IDENTIFIER"] == "zqueued"

    def test_the_catalog_explains(self, machine: Machine) -> None:
        machine.run("systemctl start zqueue")
        explained = wait_for(lambda: machine.journal("-x -u zqueue EVENT=daemon.ready"), "an entry")
        assert "Subject:" in explained

    def test_a_stopped_journal_stalls_nothing(self, machine: Machine) -> None:
        machine.run("systemctl start zqueue")
        machine.run("systemctl kill -s STOP systemd-journald")
        try:
            for _ in range(30):
                machine.run("zqueuectl pause && zqueuectl resume")
            machine.python(
                "import zmq\nc = zmq.Context()\n"
                "for n in range(1000):\n"
                "    s = c.socket(zmq.REQ); s.linger = 0; s.connect('tcp://127.0.0.1:5559')\n"
                "    s.send(b'x'); s.close()\n"
            )
            assert_serves(machine)
            assert machine.run("zqueuectl status").returncode == 0
        finally:
            machine.run("systemctl kill -s CONT systemd-journald")


def test_remove_and_purge_leave_nothing_behind(bare_machine: Machine) -> None:
    """The last test: it takes the package away."""
    bare_machine.run("dpkg -s zqueue >/dev/null 2>&1 || dpkg -i /zqueue.deb", within=120)
    bare_machine.run("systemctl start zqueue")
    bare_machine.run("dpkg -r zqueue", within=120)
    assert bare_machine.run("systemctl is-active zqueue", check=False).stdout == "inactive\n"
    assert bare_machine.run("ls /etc/zqueue.toml").stdout
    bare_machine.run("dpkg -P zqueue", within=120)
    left = bare_machine.run(
        "find / -xdev -iname '*zqueue*' ! -path '/proc/*' ! -name zqueue.deb ! -path '/var/log/*'"
    ).stdout
    assert left == ""


def test_two_builds_give_the_same_bytes(deb: object, tmp_path: object) -> None:
    from tests.systemd.conftest import TOP

    done = subprocess.run(
        [TOP / "packaging/debian/build", str(tmp_path)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    sums = subprocess.run(
        ["sha256sum", str(deb), done.stdout.strip()], capture_output=True, text=True
    ).stdout.split()
    assert sums[0] == sums[2]
