from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd import machine as machines
from tests.systemd.machine import Machine

TOP = Path(__file__).parent.parent.parent
RELEASES = os.environ.get("ZQUEUE_TEST_RELEASES", "").split()
CONFIG = """
[queues.default]
frontend = "tcp://127.0.0.1:5559"
backend = "tcp://127.0.0.1:5560"
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = machines.missing() or ("" if RELEASES else "needs ZQUEUE_TEST_RELEASES=bookworm")
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(600))
            if reason:
                item.add_marker(pytest.mark.skip(reason=f"a booted systemd {reason}"))


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built from this tree, or the one that ZQUEUE_TEST_DEB names."""
    if "ZQUEUE_TEST_DEB" in os.environ:
        return Path(os.environ["ZQUEUE_TEST_DEB"])
    out = tmp_path_factory.mktemp("deb")
    built = subprocess.run(
        [TOP / "packaging/debian/build", out], capture_output=True, text=True, timeout=600
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return Path(built.stdout.strip())


@pytest.fixture(scope="session", params=RELEASES or ["none"])
def bare_machine(
    request: pytest.FixtureRequest, deb: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A booted machine with the package at /zqueue.deb, not installed yet."""
    root = tmp_path_factory.mktemp(request.param) / "root"
    machines.make_root(request.param, root)
    (root / "zqueue.deb").write_bytes(deb.read_bytes())
    machine = Machine(root, f"zqueue-test-{request.param}-{os.getpid()}")
    yield machine
    machine.power_off()


@pytest.fixture(scope="session")
def installed(bare_machine: Machine) -> Machine:
    """The machine with the package installed, from the file alone."""
    bare_machine.run("apt-get install -y /zqueue.deb", within=120)
    return bare_machine


@pytest.fixture
def machine(installed: Machine) -> Iterator[Machine]:
    """The machine with zqueue stopped, its config a plain one, and no drop-ins."""
    kept = installed.run("cat /etc/zqueue.toml").stdout
    installed.write("/etc/zqueue.toml", CONFIG)
    installed.run("systemctl reset-failed")
    yield installed
    installed.run(
        "systemctl stop 'zqueue*.socket' 'zqueue*.service'; "
        "rm -rf /etc/systemd/system/zqueue*.d /etc/zqueue; "
        "systemctl daemon-reload; systemctl reset-failed",
        check=False,
    )
    installed.write("/etc/zqueue.toml", kept)
