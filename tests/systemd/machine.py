"""A Debian with a booted systemd, in a container without a network: systemd-nspawn(1)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.waiting import wait_for

NEEDED = ("mmdebstrap", "systemd-nspawn", "nsenter", "dpkg-buildpackage", "dh")
_PACKAGES = "systemd,systemd-sysv,libpam-systemd,dbus,python3,procps,init-system-helpers"
_BOOTED_WITHIN = 90.0


def missing() -> str:
    """Why no machine can be booted here, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [tool for tool in NEEDED if shutil.which(tool) is None]
    return f"needs {', '.join(absent)}" if absent else ""


def make_root(release: str, root: Path) -> None:
    """A fresh root of a Debian release, from the package mirror that this machine uses."""
    subprocess.run(
        ["mmdebstrap", "-q", "--variant=minbase", f"--include={_PACKAGES}", release, str(root)],
        check=True,
        timeout=600,
    )


class Machine:
    """One booted container. Commands run as root in it, unless said otherwise."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        command = ["systemd-nspawn", "-q", "-D", str(root), "--boot", "--register=no"]
        command += ["--keep-unit", "--private-network", f"--machine={name}", "--console=pipe"]
        self._console = (root.parent / f"{name}.console").open("wb")
        self._nspawn = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._console, stderr=self._console
        )
        try:
            init = wait_for(lambda: self._child_of(self._nspawn.pid), "systemd", _BOOTED_WITHIN)
            self._init = int(init)
            wait_for(self._is_up, "the machine to be up", _BOOTED_WITHIN)
        except BaseException:
            self.power_off()
            raise

    def _child_of(self, pid: int) -> str:
        found = subprocess.run(["pgrep", "-P", str(pid), "systemd"], capture_output=True, text=True)
        return found.stdout.strip()

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
        """Start a script inside and do not wait for it; end it by its ``terminate``."""
        command = ["nsenter", "-t", str(self._init), "-a", "--", "/bin/sh", "-c", f"exec {script}"]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": "/usr/lib/zqueue"},
        )  # fmt: skip

    def python(self, code: str, **how: float) -> str:
        """Run Python inside, with zqueue's own libraries; returns what it printed."""
        script = "PYTHONPATH=/usr/lib/zqueue exec python3 -"
        return self.run(script, stdin=code, within=how.get("within", 60)).stdout

    def write(self, path: str, text: str) -> None:
        """Write a file inside."""
        self.run(f"mkdir -p $(dirname {path}) && cat > {path}", stdin=text)

    def journal(self, *arguments: str) -> str:
        return self.run(f"journalctl --no-pager -q {' '.join(arguments)}", check=False).stdout

    def property(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run(f"systemctl show -P {name} {unit}").stdout.strip()

    def power_off(self) -> None:
        self._nspawn.send_signal(signal.SIGTERM)
        try:
            self._nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._console.close()
        with contextlib.suppress(OSError):
            shutil.rmtree(self.root)
