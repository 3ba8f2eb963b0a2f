"""A restart of the service keeps everybody connected, and every request."""

from __future__ import annotations

import json
import os

import pytest

from tests.crowd import assert_undisturbed
from tests.systemd.machine import Machine
from tests.systemd.service import (
    BACKEND,
    CONFIG,
    FRONTEND,
    CrowdInside,
    assert_serves,
    drop_in,
    entry,
    main_pid,
    wait_until_back,
)
from tests.waiting import wait_for

RESTARTS = int(os.environ.get("ZQUEUE_TEST_RESTARTS", "50"))
OFTEN = "[Unit]\nStartLimitIntervalSec=0\n"


def restart(machine: Machine, unit: str = "zqueue") -> None:
    before = main_pid(machine, unit)
    machine.run(f"systemctl restart {unit}")
    assert main_pid(machine, unit) not in ("0", before)


def handovers(machine: Machine, event: str, unit: str = "zqueue") -> list[str]:
    """What was told of an event since the service was last set up."""
    return machine.journal(f"-u {unit} -o cat -b EVENT={event}").splitlines()


def test_a_hundred_clients_notice_no_restart(machine: Machine) -> None:
    machine.run("systemctl start zqueue")
    with CrowdInside(machine, FRONTEND, BACKEND, "--clients=100", "--pause=0.02") as clients:
        for _ in range(RESTARTS):
            restart(machine)
        noticed = clients.finish()
    print(
        f"{RESTARTS} restarts, {noticed['replies']} replies; the longest took "
        f"{noticed['longest']} s; {noticed['disconnects']} disconnects, {noticed['lost']} lost, "
        f"{noticed['doubled']} doubled"
    )
    assert_undisturbed(noticed)
    status = json.loads(machine.run("zqueuectl --json status").stdout)["queues"][0]
    assert status["clients"]["accepted"] == 100
    assert status["requests"]["messages"] == status["ends"]["replied"] == noticed["replies"]
    assert machine.property("zqueue", "NFileDescriptorStore") == "2", "only what listens"


def test_thousands_of_connections(machine: Machine) -> None:
    machine.run("systemctl start zqueue")
    with CrowdInside(machine, FRONTEND, BACKEND, "--clients=3000", "--pause=5") as clients:
        for _ in range(3):
            restart(machine)
        noticed = clients.finish()
    taken_up = entry(machine, "EVENT=handover.taken_up")
    print(f"{taken_up['CONNECTIONS']} connections: {taken_up['PAUSED']} s without anything moving")
    assert taken_up["CONNECTIONS"] == "3003"
    assert_undisturbed(noticed)


@pytest.mark.parametrize("unit", ["zqueue", "zqueue@orders"])
def test_ipc_sockets_are_kept_too(unit: str, machine: Machine) -> None:
    folder = "/run/zqueue" if unit == "zqueue" else "/run/zqueue-orders"
    backend = f"ipc://{folder}/workers"
    path = "/etc/zqueue.toml" if unit == "zqueue" else "/etc/zqueue/orders.toml"
    machine.write(path, f'[queues.default]\nfrontend = "{FRONTEND}"\nbackend = "{backend}"\n')
    machine.run(f"systemctl start {unit}")
    with CrowdInside(machine, FRONTEND, backend, "--clients=10", "--pause=0.01") as clients:
        for _ in range(3):
            restart(machine, unit)
        assert_undisturbed(clients.finish())


def test_an_edit_of_bind_is_in_force_after_a_restart_and_a_crash(machine: Machine) -> None:
    """What systemd keeps is not in the way of what takes its place."""
    everywhere = CONFIG.replace("127.0.0.1", "*")
    renamed = everywhere.replace("queues.default", "queues.orders")
    swapped = CONFIG.replace("5559", "0").replace("5560", "5559").replace(":0", ":5560")
    machine.run("systemctl start zqueue")
    with CrowdInside(machine, FRONTEND, BACKEND, "--clients=10", "--pause=0.01") as clients:
        for config in (everywhere, CONFIG):
            machine.write("/etc/zqueue.toml", config)
            restart(machine)
        assert_undisturbed(clients.finish())
    machine.write("/etc/zqueue.toml", everywhere)
    before = main_pid(machine)
    machine.run(f"kill -9 {before}")
    wait_until_back(machine, before)
    assert machine.property("zqueue", "NRestarts") == "1"
    assert_serves(machine)
    machine.write("/etc/zqueue.toml", renamed)
    restart(machine)
    assert_serves(machine)
    machine.write("/etc/zqueue.toml", swapped)
    restart(machine)
    assert_serves(machine, 5560, 5559)


def test_a_pause_and_the_counters_outlive_a_restart(machine: Machine) -> None:
    machine.run("systemctl start zqueue")
    assert_serves(machine)
    machine.run("zqueuectl pause")
    before = json.loads(machine.run("zqueuectl --json status").stdout)["queues"][0]
    restart(machine)
    after = json.loads(machine.run("zqueuectl --json status").stdout)["queues"][0]
    for key in ("state", "by", "since", "ends", "restarts"):
        assert after[key] == before[key], key
    assert after["state"] == "paused"
    assert after["requests"]["messages"] == before["requests"]["messages"] == 10


def test_a_reload_that_moves_a_port_keeps_everybody(machine: Machine) -> None:
    machine.run("systemctl start zqueue")
    with CrowdInside(machine, FRONTEND, BACKEND, "--clients=10", "--pause=0.01") as clients:
        machine.write("/etc/zqueue.toml", CONFIG.replace("5559", "5999"))
        machine.run("systemctl reload zqueue")
        assert_undisturbed(clients.finish())
    assert_serves(machine, 5999)


def test_a_stop_keeps_nothing(machine: Machine) -> None:
    machine.run("systemctl start zqueue")
    with CrowdInside(machine, FRONTEND, BACKEND, "--clients=4", "--pause=0.01") as clients:
        before = len(handovers(machine, "handover.begins"))
        machine.run("systemctl stop zqueue")
        assert len(handovers(machine, "handover.begins")) == before
        assert machine.property("zqueue", "NFileDescriptorStore") == "0"
        machine.run("systemctl start zqueue")
        noticed = clients.finish()
    # Who connects again at once may be taken by the port that systemd is about to close.
    assert noticed["disconnects"] >= 4 + 3


# -- when it cannot be -----------------------------------------------------------------------------

CANNOT_READ = "from zqueue import handover; handover.FORMATS = range(2, 9)"
UNIT = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=\nExecStart={command}\n"
REASONS = {
    "the store is too small": (
        f"{OFTEN}[Service]\nFileDescriptorStoreMax=3\n",
        "systemd's descriptor store has no room for 2 more (FileDescriptorStoreMax= of zqueue.ser",
    ),
    "the installed version cannot read the state": (
        UNIT.format(command="/usr/bin/python3 /changed.py"),
        "cannot read a state in format 1",
    ),
    "the config is bad": (OFTEN, "unknown key"),
    "systemd cannot be asked": (
        f"{OFTEN}[Service]\nInaccessiblePaths=/run/dbus\n",
        "systemd does not say whether this is a restart",
    ),
}
CHANGED = """
import os, signal, sys
sys.path.insert(0, "/usr/lib/zqueue")
from zqueue.cli.zqueued import main
{changed}
main(prog_name="zqueued")
"""


@pytest.mark.parametrize("why", REASONS)
def test_it_drains_where_it_cannot_hand_over(why: str, machine: Machine) -> None:
    settings, reason = REASONS[why]
    machine.write("/changed.py", CHANGED.format(changed=""))
    drop_in(machine, "zqueue.service", settings)
    machine.run("systemctl start zqueue")
    machine.write("/changed.py", CHANGED.format(changed=CANNOT_READ))
    server = machine.start("/usr/bin/zqueuectl demo server --work 1s --requests 1")
    client = machine.start("/usr/bin/zqueuectl demo client --requests 1 --id me")
    wait_for(lambda: ", 1 in flight" in machine.property("zqueue", "StatusText"), "a request")
    if why == "the config is bad":
        machine.write("/etc/zqueue.toml", CONFIG + "frontnd = 1\n")
    machine.run("systemctl restart zqueue", check=why != "the config is bad")
    assert "received World from server" in client.communicate(timeout=30)[0]
    server.communicate(timeout=30)
    refused = entry(machine, "EVENT=handover.refused")
    assert reason in refused["REASON"]
    assert refused["THEN"] == "drain"
    if why != "the config is bad":
        assert_serves(machine)


DYING = """
from zqueue import arrival
async def dies(self, taken, ready=arrival.Stored.ready):
    if os.path.exists("/run/zqueue/die"):
        os.remove("/run/zqueue/die")
        os.kill(os.getpid(), signal.SIGKILL)
    await ready(self, taken)
arrival.Stored.ready = dies
"""


def test_the_next_run_may_die_before_it_has_taken_over(machine: Machine) -> None:
    """What it was to take up is still in the store, for the one after it."""
    machine.write("/changed.py", CHANGED.format(changed=DYING))
    drop_in(machine, "zqueue.service", UNIT.format(command="/usr/bin/python3 /changed.py"))
    machine.run("systemctl start zqueue")
    with CrowdInside(machine, FRONTEND, BACKEND, "--clients=10", "--pause=0.01") as clients:
        before = main_pid(machine)
        machine.run(
            "runuser -u zqueue touch /run/zqueue/die && systemctl restart zqueue", check=False
        )
        wait_until_back(machine, before)
        assert machine.property("zqueue", "NRestarts") == "1"
        assert_undisturbed(clients.finish())


def test_a_kill_loses_connections_and_they_come_back(machine: Machine) -> None:
    """What is promised then is less, and docs/restarts.md says how much."""
    machine.run("systemctl start zqueue")
    machine.write("/patient.py", PATIENT)
    patient = machine.start("/usr/bin/python3 /patient.py")
    assert patient.stdout is not None
    assert patient.stdout.readline() == "ready\n"
    before = main_pid(machine)
    machine.run(f"kill -9 {before}")
    wait_until_back(machine, before)
    said, _ = patient.communicate(timeout=60)
    print(f"a client that asks again after 100 ms without a reply was without one for {said}")
    assert float(said.split()[0]) < 60


PATIENT = """
import sys, threading, time, zmq
context = zmq.Context()
stop = threading.Event()
def work():
    rep = context.socket(zmq.REP); rep.linger = 0; rep.connect("tcp://127.0.0.1:5560")
    while not stop.is_set():
        if rep.poll(20):
            rep.send(rep.recv())
worker = threading.Thread(target=work)
worker.start()
dealer = context.socket(zmq.DEALER); dealer.linger = 0; dealer.connect("tcp://127.0.0.1:5559")
longest, last, number = 0.0, time.monotonic(), 0
deadline = None
while deadline is None or time.monotonic() < deadline:
    dealer.send_multipart([b"", b"%d" % number])
    if dealer.poll(100):
        dealer.recv_multipart()
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        if not number:
            print("ready", flush=True)
        number += 1
        if longest > 0.3 and deadline is None:
            deadline = now + 1
print(f"{longest:.2f} s")
stop.set()
"""


# -- a new version of the package ------------------------------------------------------------------


def test_upgrade_of_a_supervised_daemon_is_refused_with_a_hint(machine: Machine) -> None:
    machine.run("systemctl start zqueue")
    refused = machine.run("zqueued --upgrade", check=False)
    assert refused.returncode == 1
    assert "systemctl restart zqueue.service hands over in the same way" in refused.stderr
    assert_serves(machine)
