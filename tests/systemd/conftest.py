from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.systemd import machine as machines
from tests.systemd.machine import Machine
from tests.systemd.service import CONFIG

TOP = Path(__file__).parent.parent.parent
RELEASES = os.environ.get("ZQUEUE_TEST_RELEASES", "").split()

Boot = Callable[[], Machine]


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
    return build(TOP, tmp_path_factory.mktemp("deb"))


def copy_tree(to: Path) -> Path:
    """A clone without what git ignores, made now."""
    for part in ("daemon", "docs", "etc", "packaging"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
        shutil.copytree(TOP / part, to / part, copy_function=shutil.copy, ignore=ignored)
    for name in (
        "pyproject.toml",
        "setup.py",
        "MANIFEST.in",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
    ):
        shutil.copy(TOP / name, to)
    return to


def build(tree: Path, out: Path) -> Path:
    """Build the package by the one command for it."""
    built = subprocess.run(
        [tree / "packaging/debian/build", out], capture_output=True, text=True, timeout=600
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return Path(built.stdout.strip())


@pytest.fixture(scope="session", params=RELEASES or ["none"])
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def boot(release: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boot]:
    """Boots fresh machines of one release; they are gone at the end."""
    folder = tmp_path_factory.mktemp(release)
    machines.make_root(release, folder / "root")
    booted: list[Machine] = []
    numbers = itertools.count()

    def boot() -> Machine:
        name = f"zqueue-test-{release}-{os.getpid()}-{next(numbers)}"
        booted.append(Machine(folder / "root", folder, name))
        return booted[-1]

    yield boot
    for each in booted:
        each.power_off()


@pytest.fixture(scope="session")
def installed(boot: Boot, deb: Path) -> Machine:
    """A machine with the package installed, from the file alone."""
    machine = boot()
    install(machine, deb)
    return machine


def install(machine: Machine, deb: Path) -> None:
    machine.bring(deb, "/")
    machine.run(f"apt-get install -y /{deb.name}", within=120)


@pytest.fixture
def machine(installed: Machine) -> Iterator[Machine]:
    """The machine with zqueue stopped, its config a plain one, no drop-ins, and a journal that says
    nothing of earlier tests."""
    kept = installed.run("cat /etc/zqueue.toml").stdout
    installed.write("/etc/zqueue.toml", CONFIG)
    installed.run("systemctl reset-failed")
    installed.forget_journal()
    yield installed
    installed.run(
        "systemctl stop 'zqueue*.socket' 'zqueue*.service'; "
        "rm -rf /etc/systemd/system/zqueue* /etc/zqueue; "
        "systemctl daemon-reload; systemctl reset-failed",
        check=False,
    )
    installed.write("/etc/zqueue.toml", kept)
