"""The README's way from a pip install to systemctl start, and pipx, where there is no network."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.systemd.conftest import TOP, Boot, copy_tree
from tests.systemd.machine import DEBS, Machine

PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "linux_x86_64",
)


def steps(mark: str) -> str:
    """The block of the README that stands below this mark."""
    found = re.search(
        rf"^<!-- {mark} -->\n```sh\n(.*?)^```$", (TOP / "README.md").read_text(), re.M | re.S
    )
    assert found, f"the README has no block marked {mark}"
    return found[1]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with our sdist and our wheel."""
    tree = copy_tree(tmp_path_factory.mktemp("clone") / "zqueue")
    run(sys.executable, "-m", "build", "--outdir", str(tree / "dist"), str(tree))
    return tree / "dist"


@pytest.fixture(scope="session")
def wheelhouse(release: str, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the release's Python needs to install zqueue where there is no network."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), "sdnotify")
    platforms = [f"--platform={each}" for each in PLATFORMS]
    wheel = str(next(built.glob("*.whl")))
    # The sdist and the clone have to be built; pipx wants a pip of its own.
    builders = tomllib.loads((TOP / "pyproject.toml").read_text())["build-system"]["requires"]
    what = [wheel, *builders, "setuptools", "wheel", "pip"]
    where = ["--dest", str(folder), "--find-links", str(folder), "--only-binary", ":all:"]
    version = ["--python-version", PYTHONS[release], "--implementation", "cp"]
    run(*pip, "download", *where, *version, *platforms, *what)
    for ours in folder.glob("zqueued-*"):
        ours.unlink()  # else it might be installed instead of what is to be tried
    return folder


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def fresh(boot: Boot, built: Path, wheelhouse: Path) -> Machine:
    """A machine with venv and pipx, a clone in /root/zqueue, a wheelhouse, and no zqueue."""
    machine = boot()
    machine.run(f"apt-get install -y --no-install-recommends {DEBS}/*.deb", within=120)
    machine.bring(built, "/root/dist")
    machine.bring(wheelhouse, "/root/wheelhouse")
    copy_tree(machine.root / "root" / "zqueue")
    return machine


OFFLINE = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/root/wheelhouse PIP_ROOT_USER_ACTION=ignore"


@pytest.mark.parametrize("kind", ["tar.gz", "whl"])
def test_pipx_installs(kind: str, fresh: Machine) -> None:
    pipx = f"{OFFLINE}; export PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/opt/pipx/bin; pipx"
    fresh.run(f"{pipx} install /root/dist/zqueued-*.{kind}", within=180)
    try:
        assert "usage" in fresh.run("/opt/pipx/bin/zqueued --help").stdout.lower()
        assert "11 requests, " in fresh.run("/opt/pipx/bin/zqueuectl demo").stdout
        units = fresh.run("ls /opt/pipx/venvs/zqueued/share/zqueue").stdout.split()
        assert {"zqueue.service", "zqueue@.service", "zqueue.toml"} <= set(units)
    finally:
        fresh.run(f"{pipx} uninstall zqueued")


def test_from_a_pip_install_to_systemctl_start(fresh: Machine) -> None:
    fresh.run("useradd -m ada")
    script = f"{OFFLINE}; export SUDO_USER=ada; cd /root/zqueue\nset -ex\n"
    done = fresh.run(script + steps("from pip install to systemctl start"), within=180)
    print(done.stderr + done.stdout)
    assert fresh.property("zqueue", "ActiveState") == "active"
    server = fresh.start("/usr/bin/zqueuectl demo server --requests 1")
    client = fresh.start("/usr/bin/zqueuectl demo client --requests 1")
    assert "received World from server" in client.communicate(timeout=30)[0]
    server.communicate(timeout=30)
    assert "running" in fresh.run("zqueuectl status", user="ada").stdout
    fresh.run("systemctl reload zqueue && systemctl restart zqueue")
    assert "Subject: zqueued serves" in fresh.journal("-x -u zqueue EVENT=daemon.ready")
    fresh.run("systemctl stop zqueue")
