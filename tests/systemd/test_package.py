"""The package: how it is built, what it brings, an upgrade, and what is left when it has gone."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.crowd import assert_undisturbed
from tests.systemd.conftest import TOP, Boot, build, copy_tree, install
from tests.systemd.machine import Machine
from tests.systemd.service import (
    BACKEND,
    CONFIG,
    FRONTEND,
    CrowdInside,
    assert_serves,
    drop_in,
    listening_inode,
    main_pid,
    wait_until_back,
)

UNITS = ("zqueue.service", "zqueue.socket", "zqueue-control.socket")
# What a package may leave: notes that dpkg, apt and debconf make for themselves, and logs.
KEPT = ("/var/log", "/var/lib/dpkg", "/var/lib/apt", "/var/cache/apt", "/var/cache/debconf", "/tmp")
SNAPSHOT = f"""
find / -xdev {" ".join(f"! -path '{folder}/*'" for folder in ("/proc", *KEPT))} | sort
find /run -name '*zqueue*'
getent passwd; getent group
journalctl --list-catalog --no-pager | grep -i zqueue
systemctl list-unit-files --no-legend --no-pager | sort
dpkg-query -W
"""


# -- the build -------------------------------------------------------------------------------------


def test_two_builds_give_the_same_bytes(deb: Path, tmp_path: Path) -> None:
    """From a copy of the tree, so that neither its place nor its times are in the package."""
    if "ZQUEUE_TEST_DEB" in os.environ:
        pytest.skip("ZQUEUE_TEST_DEB may have been built from another tree")
    again = build(copy_tree(tmp_path / "elsewhere"), tmp_path / "out")
    assert again.name == deb.name
    assert again.read_bytes() == deb.read_bytes()


def test_lintian_finds_no_error(deb: Path) -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error", str(deb)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


# -- what it brings --------------------------------------------------------------------------------


def test_the_config_is_a_conffile(installed: Machine) -> None:
    assert "/etc/zqueue.toml" in installed.run("dpkg-query -f '${Conffiles}' -W zqueue").stdout
    said = installed.run("zqueued --check").stdout
    assert said.startswith("/etc/zqueue.toml: good, 1 queue, at least ")


def test_the_user_is_there(installed: Machine) -> None:
    assert installed.run("getent passwd zqueue").stdout.startswith("zqueue:")


def test_the_demo_runs(installed: Machine) -> None:
    assert "  11 requests, 11 replies" in installed.run("zqueuectl demo").stdout


def test_pages_and_completions_are_there(installed: Machine) -> None:
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
        "/usr/share/doc/zqueue/examples/zqueue.toml",
        "/usr/share/doc/zqueue/docs/CHANGELOG.md",
    ):
        assert path in listed.splitlines()
    # Whatever page a config, a man page or another page points to is there.
    folder = "/usr/share/doc/zqueue/docs"
    assert "docs/events.md" in installed.run("cat /usr/share/doc/zqueue/examples/*").stdout
    for page in (TOP / "docs").glob("*.md"):
        installed.run(f"test -s {folder}/{page.name}")
    assert installed.run("zqueued --check --config /usr/share/doc/zqueue/examples/zqueue.toml")


def test_bash_completes_the_names_of_the_running_daemons_queues(machine: Machine) -> None:
    machine.run("systemctl start zqueue")
    machine.write(
        "/tmp/complete.bash",
        "source /usr/share/bash-completion/completions/zqueuectl\n"
        "set -- $(complete -p zqueuectl)\n"
        "while [[ $1 != -F ]]; do shift; done\n"
        "COMP_LINE='zqueuectl pause d' COMP_POINT=17\n"
        '"$2" zqueuectl; echo "${COMPREPLY[@]}"\n',
    )
    assert machine.run("bash --norc /tmp/complete.bash").stdout == "default\n"


# -- an upgrade ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def newer(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, a version later, with a config that has changed, too."""
    folder = tmp_path_factory.mktemp("newer")
    subprocess.run(["dpkg-deb", "-R", str(deb), str(folder / "tree")], check=True)
    control = folder / "tree" / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^Version: .*$", "Version: 99.0", control.read_text()))
    with (folder / "tree" / "etc" / "zqueue.toml").open("a") as config:
        config.write("# A line of the newer version.\n")
    built = folder / "zqueue_99.0_amd64.deb"
    build = [
        "dpkg-deb",
        "--root-owner-group",
        "-Zgzip",
        "-z1",
        "-b",
        str(folder / "tree"),
        str(built),
    ]
    subprocess.run(build, check=True, capture_output=True)
    return built


@pytest.mark.parametrize("holder", ["the service", "the socket unit"])
def test_an_upgrade_keeps_edits_and_listening_sockets(
    holder: str, machine: Machine, deb: Path, newer: Path
) -> None:
    if holder == "the socket unit":
        drop_in(machine, "zqueue.socket", "[Socket]\nListenStream=\nListenStream=127.0.0.1:5559\n")
        machine.run("systemctl start zqueue.socket")
    instance = CONFIG.replace("5559", "6001").replace("5560", "6101")
    machine.write("/etc/zqueue/orders.toml", instance)
    machine.run("systemctl start zqueue zqueue@orders")
    before = {unit: main_pid(machine, unit) for unit in ("zqueue", "zqueue@orders")}
    inodes = {port: listening_inode(machine, port) for port in (5559, 5560, 6001, 6101)}
    assert all(inodes.values())
    machine.bring(newer, "/")
    clients = CrowdInside(machine, FRONTEND, BACKEND, "--clients=10", "--pause=0.01")
    try:
        # The answer is that to dpkg's question what to do with the config: its default, to keep it.
        machine.run(f"apt-get install -y /{newer.name}", within=120, stdin="\n")
        assert machine.run("dpkg-query -f '${Version}' -W zqueue").stdout == "99.0"
        assert machine.run("cat /etc/zqueue.toml").stdout == CONFIG
        for unit, pid in before.items():
            wait_until_back(machine, pid, unit)
        assert {port: listening_inode(machine, port) for port in inodes} == inodes
        assert_undisturbed(clients.finish())
        assert_serves(machine)
        assert_serves(machine, 6001, 6101)
        # The same once more, with a config that is refused.
        machine.run(f"dpkg --force-confold -i /{deb.name}", within=120)
        machine.write("/etc/zqueue.toml", CONFIG + 'frontnd = "x"\n')
        before = {unit: main_pid(machine, unit) for unit in before}
        said = machine.run(f"dpkg --force-confold -i /{newer.name} 2>&1", within=120).stdout
        assert "zqueue.service: the new zqueued refuses the config:" in said
        assert "frontnd" in said
        assert "zqueue@orders" not in said
        wait_until_back(machine, before["zqueue@orders"], "zqueue@orders")
        assert main_pid(machine) == before["zqueue"]
        assert_serves(machine)
    finally:
        machine.write("/etc/zqueue.toml", CONFIG)
        machine.run(f"dpkg --force-confold -i /{deb.name}; rm -f /etc/zqueue.toml.dpkg-*")


# -- and when it goes ------------------------------------------------------------------------------


def test_install_starts_nothing_and_a_purge_leaves_nothing(boot: Boot, deb: Path) -> None:
    fresh = boot()
    fresh.bring(deb, "/")
    before = fresh.run(SNAPSHOT).stdout
    install(fresh, deb)
    for unit in UNITS:
        assert fresh.run(f"systemctl is-enabled {unit}", check=False).stdout == "disabled\n"
    assert fresh.run("systemctl list-units --no-legend 'zqueue*'").stdout == ""
    assert "zqueue" in fresh.run("journalctl --list-catalog --no-pager").stdout
    fresh.run("systemctl enable --now zqueue.socket && systemctl enable --now zqueue")
    fresh.run("systemctl enable zqueue-control.socket zqueue@orders")
    fresh.run("apt-get remove -y zqueue", within=120)
    for unit in UNITS:
        assert fresh.run(f"systemctl is-active {unit}", check=False).stdout == "inactive\n"
    assert fresh.run("ls /etc/zqueue.toml").stdout
    assert fresh.run("ls -d /run/zqueue", check=False).returncode != 0
    fresh.run("apt-get purge -y zqueue", within=120)
    after = fresh.run(SNAPSHOT).stdout
    assert list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0)) == []
    fresh.power_off()
