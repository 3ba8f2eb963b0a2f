"""A Debian with a booted systemd, in a container without a network: systemd-nspawn(1)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.waiting import wait_for

NEEDED = (
    "mmdebstrap",
    "systemd-nspawn",
    "nsenter",
    "pgrep",
    "dpkg-buildpackage",
    "dh",
    "lintian",
)
DEBS = "/debs"
"""Where a root has the packages of :data:`_LATER`, which are not installed."""

_PACKAGES = "systemd,systemd-sysv,libpam-systemd,dbus,python3,procps,init-system-helpers"
_LATER = "python3-venv pipx"
_BOOTED_WITHIN = 90.0


def missing() -> str:
    """Why no machine can be booted here, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [tool for tool in NEEDED if shutil.which(tool) is None]
    return f"needs {', '.join(absent)}" if absent else ""


def make_root(release: str, root: Path) -> None:
    """A fresh root of a Debian release, from the package mirror that this machine uses."""
    fetch = (
        'chroot "$1" apt-get clean',
        'chroot "$1" apt-get install -q -y --no-install-recommends --download-only ' + _LATER,
        f'mkdir "$1{DEBS}" && mv "$1"/var/cache/apt/archives/*.deb "$1{DEBS}/"',
    )
    hooks = [f"--customize-hook={each}" for each in fetch]
    command = ["mmdebstrap", "-q", "--variant=minbase", f"--include={_PACKAGES}", *hooks]
    subprocess.run([*command, release, str(root)], check=True, timeout=600)


class Machine:
    """A booted container on a copy of a root. Commands run as root in it, unless said otherwise."""

    def __init__(self, root: Path, folder: Path, name: str) -> None:
        self.root = folder / name
        self._entries_from = ""
        subprocess.run(["cp", "-a", "--reflink=auto", str(root), str(self.root)], check=True)
        command = ["systemd-nspawn", "-q", "-D", str(self.root), "--boot", "--register=no"]
        command += ["--keep-unit", "--private-network", f"--machine={name}", "--console=pipe"]
        self._console = (folder / f"{name}.console").open("w+b")
        self._nspawn = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._console, stderr=self._console
        )
        try:
            init = wait_for(self._find_init, "systemd", _BOOTED_WITHIN)
            self._init = int(init)
            wait_for(self._is_up, "the machine to be up", _BOOTED_WITHIN)
        except BaseException:
            self.power_off()
            raise

    def _find_init(self) -> str:
        assert self._nspawn.poll() is None, f"it did not boot:\n{self._said_on_the_console()}"
        pid = str(self._nspawn.pid)
        found = subprocess.run(["pgrep", "-P", pid, "systemd"], capture_output=True, text=True)
        return found.stdout.strip()

    def _said_on_the_console(self) -> str:
        self._console.seek(0)
        return self._console.read().decode("utf-8", "replace")[-5000:]

    def _is_up(self) -> bool:
        state = self.run("systemctl is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def run(
        self,
        script: str,
        *,
        check: bool = True,
        user: str = "",
        within: float = 60,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script inside; ``check``: it must exit 0."""
        command = ["nsenter", "-t", str(self._init), "-a", "--"]
        if user:
            command += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        done = subprocess.run(
            [*command, "/bin/sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=within,
            env=environment,
            input=stdin,
        )
        if check:
            assert done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def start(self, script: str) -> subprocess.Popen[str]:
        """Start a script inside and do not wait for it; :meth:`end` ends it."""
        command = ["nsenter", "-t", str(self._init), "-a", "--", "/bin/sh", "-c", f"exec {script}"]
        return subprocess.Popen(
            command, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": "/usr/lib/zqueue"},
        )  # fmt: skip

    def end(self, started: subprocess.Popen[str]) -> str:
        """End what was started, if it still runs; returns what it printed."""
        # The started process is nsenter, which hands on no signal to its child inside.
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text()
            for child in children.split():
                os.kill(int(child), signal.SIGKILL)
        return started.communicate(timeout=30)[0]

    def python(self, code: str, *, within: float = 60) -> str:
        """Run Python inside, with zqueue's own libraries; returns what it printed."""
        script = "PYTHONPATH=/usr/lib/zqueue exec python3 -"
        return self.run(script, stdin=code, within=within).stdout

    def write(self, path: str, text: str) -> None:
        """Write a file inside."""
        self.run(f"mkdir -p $(dirname {path}) && cat > {path}", stdin=text)

    def bring(self, file: Path, folder: str) -> None:
        """Put a file of this machine, or what a folder of it has, into a folder inside."""
        source = f"{file}/." if file.is_dir() else str(file)
        (self.root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", source, str(self.root / folder.lstrip("/"))], check=True)

    def forget_journal(self) -> None:
        """Have :meth:`journal` give only what is written from now on."""
        last = json.loads(self.run("journalctl --sync && journalctl -q -o json -n 1").stdout)
        # Not --after-cursor=, which skips an entry if that of the cursor is not of those asked for.
        seconds, microseconds = divmod(int(last["__REALTIME_TIMESTAMP"]) + 1, 1_000_000)
        self._entries_from = f"--since=@{seconds}.{microseconds:06d}"

    def journal(self, *arguments: str) -> str:
        """What journalctl(1) prints."""
        command = f"journalctl --no-pager -q {self._entries_from} {' '.join(arguments)}"
        return self.run(command, check=False).stdout

    def property(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run(f"systemctl show -P {name} {unit}").stdout.strip()

    def power_off(self) -> None:
        """End it, and remove its root."""
        self._nspawn.send_signal(signal.SIGTERM)
        try:
            self._nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._console.close()
        with contextlib.suppress(OSError):
            shutil.rmtree(self.root)
