"""The service zqueue on a machine, as those see it who use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests import crowd
from tests.systemd.machine import Machine
from tests.waiting import wait_for

CONFIG = """
[queues.default]
frontend = "tcp://127.0.0.1:5559"
backend = "tcp://127.0.0.1:5560"
"""

FRONTEND, BACKEND = "tcp://127.0.0.1:5559", "tcp://127.0.0.1:5560"
"""Where a client connects, and a worker, with :data:`CONFIG`."""

_ASK = """
import threading, zmq
context = zmq.Context()
stop = threading.Event()
def work():
    rep = context.socket(zmq.REP); rep.linger = 0; rep.connect("tcp://127.0.0.1:%(backend)d")
    while not stop.is_set():
        if rep.poll(50):
            rep.send(rep.recv())
workers = [threading.Thread(target=work) for _ in range(2)]
for worker in workers: worker.start()
try:
    req = context.socket(zmq.REQ); req.linger = 0; req.connect("tcp://127.0.0.1:%(frontend)d")
    for number in range(10):
        req.send(b"%%d" %% number)
        assert req.poll(20000), "no reply"
        assert req.recv() == b"%%d" %% number
    print("served")
finally:
    stop.set()
"""


def assert_serves(machine: Machine, frontend: int = 5559, backend: int = 5560) -> None:
    """Requests of a client reach workers, and the replies the client."""
    assert machine.python(_ASK % {"frontend": frontend, "backend": backend}) == "served\n"


class CrowdInside:
    """The crowd, in a machine."""

    def __init__(self, machine: Machine, *arguments: object) -> None:
        machine.bring(Path(crowd.__file__), "/")
        words = " ".join(map(str, arguments))
        self._machine = machine
        self._process = machine.start(f"/usr/bin/python3 /crowd.py {words}")
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def __enter__(self) -> CrowdInside:
        return self

    def __exit__(self, *_: object) -> None:
        self._machine.end(self._process)

    def finish(self) -> dict[str, Any]:
        """Have it end; what it has noticed."""
        said, _ = self._process.communicate(timeout=60)
        noticed: dict[str, Any] = json.loads(said.splitlines()[-1])
        return noticed


def main_pid(machine: Machine, unit: str = "zqueue") -> str:
    return machine.property(unit, "MainPID")


def wait_until_back(machine: Machine, before: str, unit: str = "zqueue") -> None:
    """Wait until the service runs, and no longer as the process ``before``."""
    wait_for(
        lambda: (
            main_pid(machine, unit) not in ("0", before)
            and machine.property(unit, "SubState") == "running"
        ),
        f"{unit} to be back",
        60,
    )


def listening_inode(machine: Machine, port: int) -> str:
    """Tells the socket that listens on a tcp port from one that is opened there later."""
    for line in machine.run("cat /proc/net/tcp").stdout.splitlines()[1:]:
        columns = line.split()
        if columns[1].endswith(f":{port:04X}") and columns[3] == "0A":
            return columns[9]
    return ""


def entry(machine: Machine, *fields: str) -> dict[str, Any]:
    """The last entry of this test, of this unit and with these fields, once it is there."""
    command = ("-u zqueue -o json -n 1", *fields)
    found = wait_for(lambda: machine.journal(*command), f"an entry with {fields}")
    loaded: dict[str, Any] = json.loads(found.splitlines()[-1])
    return loaded


def drop_in(machine: Machine, unit: str, text: str) -> None:
    """What ``systemctl edit`` would write."""
    machine.write(f"/etc/systemd/system/{unit}.d/override.conf", text)
    machine.run("systemctl daemon-reload")
