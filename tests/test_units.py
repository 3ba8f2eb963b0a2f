"""The unit files, as systemd itself reads them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent / "packaging" / "systemd"
SERVICES = ("zqueue.service", "zqueue@.service")
_SYSTEM_UNITS = Path("/usr/lib/systemd/system")


def settings(unit: str) -> dict[str, list[str]]:
    """A unit's directives; one that stands there several times has several values."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text().splitlines():
        if line and line[0] not in "#[":
            key, separator, value = line.partition("=")
            assert separator, f"{unit}: {line}"
            found.setdefault(key, []).append(value)
    return found


def only(unit: str, key: str) -> str:
    (value,) = settings(unit)[key]
    return value


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed here (apt-get install systemd)")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with the units and programs where a package puts them, and systemd's own units."""
    needs("systemd-analyze")
    if not _SYSTEM_UNITS.is_dir():
        pytest.skip(f"{_SYSTEM_UNITS} is missing: systemd is installed only in part")
    installed = tmp_path / "root" / _SYSTEM_UNITS.relative_to("/")
    shutil.copytree(_SYSTEM_UNITS, installed, symlinks=True)
    for unit in (*SERVICES, "zqueue.socket"):
        shutil.copy(UNITS / unit, installed)
    programs = tmp_path / "root" / "usr" / "bin"
    programs.mkdir(parents=True)
    for name in ("zqueued", "zqueuectl"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    return tmp_path / "root"


def verify(root: Path, *units: str) -> str:
    """What systemd has to say about these units; nothing, if they are good."""
    ended = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", *units],
        capture_output=True,
        text=True,
        timeout=60,
    )
    about_ours = [line for line in ended.stderr.splitlines() if "zqueue" in line]
    return "\n".join(about_ours) or ("" if ended.returncode == 0 else ended.stderr)


@pytest.mark.parametrize("unit", ["zqueue.service", "zqueue@orders.service", "zqueue.socket"])
def test_systemd_accepts_the_unit(root: Path, unit: str) -> None:
    assert verify(root, unit) == ""


def test_systemd_would_have_told_of_a_mistake(root: Path) -> None:
    unit = root / _SYSTEM_UNITS.relative_to("/") / "zqueue.service"
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHose="))
    assert "ProtectHose" in verify(root, "zqueue.service")


def test_systemd_would_have_told_of_a_missing_program(root: Path) -> None:
    (root / "usr" / "bin" / "zqueued").unlink()
    assert "zqueued is not executable" in verify(root, "zqueue.service")


@pytest.mark.parametrize("service", SERVICES)
def test_how_it_starts_reloads_and_ends(service: str) -> None:
    assert only(service, "Type") == "notify"
    assert only(service, "NotifyAccess") == "main"
    assert only(service, "Restart") == "on-failure"
    assert "78" in only(service, "RestartPreventExitStatus").split()
    assert int(only(service, "StartLimitBurst")) > 0
    assert "WatchdogSec" in settings(service)
    assert only(service, "OOMPolicy") == "stop"
    assert int(only(service, "LimitNOFILE")) >= 65536
    assert int(only(service, "FileDescriptorStoreMax")) >= 2 * 16
    assert only(service, "User") == only(service, "Group") == "zqueue"
    assert only(service, "RuntimeDirectoryMode") == "0755"
    # What clients sent is for zqueued alone.
    assert only(service, "StateDirectoryMode") == "0700"


def test_the_one_daemon() -> None:
    assert only("zqueue.service", "ExecStart") == "/usr/bin/zqueued"
    assert only("zqueue.service", "ExecReload") == "/usr/bin/zqueuectl --timeout 20s reload"
    assert only("zqueue.service", "RuntimeDirectory") == "zqueue"
    assert only("zqueue.service", "StateDirectory") == "zqueue"


def test_an_instance_has_its_own_config_and_folder() -> None:
    """``zqueuectl --instance NAME`` looks for /run/zqueue-NAME/control.sock."""
    unit = "zqueue@.service"
    assert only(unit, "ExecStart") == "/usr/bin/zqueued --config /etc/zqueue/%i.toml"
    assert only(unit, "ExecReload") == "/usr/bin/zqueuectl --instance %i --timeout 20s reload"
    assert only(unit, "RuntimeDirectory") == "zqueue-%i"
    assert only(unit, "StateDirectory") == "zqueue-%i"


def test_both_services_are_hardened_alike() -> None:
    """They differ only in which daemon they are."""
    one, other = (settings(service) for service in SERVICES)
    different = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    assert different == {
        "Description",
        "ExecStart",
        "ExecReload",
        "RuntimeDirectory",
        "RuntimeDirectoryPreserve",
        "StateDirectory",
    }


@pytest.mark.parametrize("service", SERVICES)
def test_hardening_leaves_what_zqueued_needs(service: str) -> None:
    families = only(service, "RestrictAddressFamilies").split()
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} == set(families)
    assert settings(service)["SystemCallFilter"][-1] == "sched_setscheduler setrlimit"
    for breaks in ("PrivateNetwork", "PrivateUsers", "PrivateTmp", "ProcSubset"):
        assert breaks not in settings(service)


@pytest.mark.parametrize("service", SERVICES)
def test_systemd_rates_the_hardening_as_good(root: Path, service: str) -> None:
    """``--threshold`` is in tenths of the exposure, which goes from 0 (none) to 10."""
    installed = root / _SYSTEM_UNITS.relative_to("/") / service
    ended = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=17", str(installed)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unrecognized option" in ended.stderr:
        pytest.skip("this systemd-analyze cannot rate a unit offline")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_socket_has_the_name_of_the_frontend() -> None:
    assert only("zqueue.socket", "FileDescriptorName") == "default.frontend"
    assert only("zqueue.socket", "ListenStream").endswith(":5559")
    assert only("zqueue.socket", "Service") == "zqueue.service"
    assert only("zqueue.socket", "WantedBy") == "sockets.target"


def test_the_user_is_made(tmp_path: Path) -> None:
    needs("systemd-sysusers")
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "zqueue.sysusers.conf")],
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert (tmp_path / "etc" / "passwd").read_text().startswith("zqueue:x:")
    assert (tmp_path / "etc" / "group").read_text().startswith("zqueue:x:")
