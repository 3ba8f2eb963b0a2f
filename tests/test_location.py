"""Where the control socket is put, and where it is looked for: the same places, in one order."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_for
from zqueue.control import location

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


@pytest.fixture
def private() -> Iterator[Path]:
    """The folder of last resort of the user nobody, gone before and after."""
    folder = Path(f"/tmp/zqueue-{NOBODY}")
    if folder.exists():
        pytest.skip(f"{folder} is there already")
    yield folder
    if folder.is_dir():
        folder.rmdir()


def as_nobody(expression: str, **environment: str) -> str:
    """What an expression about ``location`` gives to the user nobody; an error by its text."""
    code = (
        "import grp, os, pwd, socket, tomllib, zqueue.control.location as location\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"try: print({expression})\n"
        "except location.ZqueueError as error: print(error)"
    )
    clean = {key: value for key, value in os.environ.items() if key[:3] not in ("XDG", "RUN")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=clean | environment,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


CHOOSE = "location.choose_to_bind(None)"


def test_what_is_configured_comes_first() -> None:
    assert as_nobody("location.choose_to_bind('ipc:///x')") == "ipc:///x"


def test_then_the_runtime_folders(private: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        wanted = f"ipc://{folder}/zqueue/control.sock"
        assert as_nobody(CHOOSE, XDG_RUNTIME_DIR=folder) == wanted
        assert as_nobody(CHOOSE, XDG_RUNTIME_DIR=folder, RUNTIME_DIRECTORY=f"{folder}:/x") == (
            f"ipc://{folder}/control.sock"
        )
        # One that may not be written is passed over.
        os.chown(folder, 0, 0)
        os.chmod(folder, 0o755)
        (Path(folder) / "zqueue").chmod(0o700)
        os.chown(f"{folder}/zqueue", 0, 0)
        assert as_nobody(CHOOSE, XDG_RUNTIME_DIR=folder) == f"ipc://{private}/control.sock"


def test_last_a_folder_of_its_own_in_tmp(private: Path) -> None:
    assert as_nobody(CHOOSE) == f"ipc://{private}/control.sock"
    found = private.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (NOBODY, 0o700)
    assert f"ipc://{private}/control.sock: no socket is there" in as_nobody("location.find()")


@pytest.mark.parametrize("wrong", ["somebody else's", "open to others", "a link"])
def test_a_folder_that_somebody_else_prepared_is_refused(wrong: str, private: Path) -> None:
    if wrong == "a link":
        private.symlink_to("/tmp")
    else:
        private.mkdir(0o700)
        os.chown(private, NOBODY if wrong == "open to others" else 0, NOBODY)
        private.chmod(0o777 if wrong == "open to others" else 0o700)
    try:
        said = as_nobody(CHOOSE)
        assert said.startswith(f"ipc://{private}/control.sock: ")
        assert "not a folder of this user" in said or "open to others; chmod 700" in said
        assert str(private) not in as_nobody("location.find()"), "nor is it looked at"
    finally:
        if private.is_symlink():
            private.unlink()


# -- a config that cannot be read ------------------------------------------------------------------

DAEMON = """
import pathlib, sys
from zqueue.control import location
location._CONFIG = pathlib.Path(sys.argv[2])
location._RUN = pathlib.Path(sys.argv.pop(1))
sys.argv[1:] = ["--config", sys.argv[1]]
from zqueue.cli.zqueued import main
main()
"""
CALLER = """
import pathlib, sys
from zqueue.control import location
location._RUN = pathlib.Path(sys.argv.pop(1))
location._CONFIG = pathlib.Path(sys.argv.pop(1))
from zqueue.cli.zqueuectl import main
main()
"""


def test_a_daemon_is_found_though_its_config_cannot_be_read(tmp_path: Path) -> None:
    run, config, endpoint = tmp_path / "run", tmp_path / "zqueue.toml", f"ipc://{tmp_path}/own.sock"
    good = f'[control]\nendpoint = "{endpoint}"\n[queues.a]\nfrontend = "tcp://127.0.0.1:*"\n'
    good += 'backend = "tcp://127.0.0.1:*"\n'
    config.write_text(good)
    clean = {key: value for key, value in os.environ.items() if key[:3] not in ("XDG", "RUN")}

    def ctl(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CALLER, str(run), str(config), *words]
        return subprocess.run(command, capture_output=True, text=True, env=clean, timeout=60)

    # Nothing is remembered yet: say what is not known.
    config.write_text("[control\n")
    done = ctl("reload")
    assert done.returncode == 69
    assert f"no zqueued is found, and {config} cannot be read" in done.stderr
    assert f"{config}:1:" in done.stderr
    config.write_text(good)
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(run), str(config)], env=clean, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: ctl("status").returncode == 0, "zqueued to be ready")
        for bad in (
            good + "[queues.b\n",
            good.replace(endpoint, f"{endpoint}-2"),
            good.replace("endpoint = ", "endpoint = 7 #"),
            "\xff",
            "",
        ):
            config.write_bytes(bad.encode("latin-1"))
            assert ctl("status").returncode == 0, bad
            reloaded = ctl("reload")
            refused = bad != good.replace(endpoint, f"{endpoint}-2")
            assert reloaded.returncode == int(refused), (bad, reloaded.stderr)
            assert not refused or f"{config}:" in reloaded.stderr, "it says what is wrong with it"
        config.unlink()
        assert ctl("version").returncode == 0
    finally:
        daemon.terminate()
        daemon.wait(20)
    assert not (run / "control.endpoint").exists(), "it listens there no more"
    assert "no zqueued is running" in ctl("status").stderr


def test_only_callers_that_look_at_a_config_are_led_to_its_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    monkeypatch.setattr(location, "_RUN", tmp_path / "run")
    location.remember(tmp_path / "any.toml", "ipc:///any")
    assert not (tmp_path / "run").exists()
    location.remember(Path("/etc/zqueue/eu.toml"), "ipc:///of-eu")
    assert next(iter(location._candidates("eu"))) == "ipc:///of-eu"
    assert "ipc:///of-eu" not in list(location._candidates(None))
    location.remember(Path("/etc/zqueue.toml"), "ipc:///of-all")
    assert "ipc:///of-all" in list(location._candidates(None))
    location.forget(Path("/etc/zqueue.toml"), "ipc:///another")
    assert "ipc:///of-all" in list(location._candidates(None))
    location.forget(Path("/etc/zqueue.toml"), "ipc:///of-all")
    assert "ipc:///of-all" not in list(location._candidates(None))
