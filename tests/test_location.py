"""Where the control socket is put, and where it is looked for: the same places, in one order."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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
