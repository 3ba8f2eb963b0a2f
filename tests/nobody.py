"""zqueuectl as the user nobody runs it; the test must run as root."""

from __future__ import annotations

import subprocess
import sys


def zqueuectl_as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = command_as_nobody(*arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def command_as_nobody(*arguments: str) -> list[str]:
    """What is to be imported is imported first: nobody may not read a Python in root's home."""
    code = (
        "import difflib, grp, os, pwd, zqueue.cli.zqueuectl as zqueuectl, zqueue.control.client\n"
        "import zqueue.cli.render, zqueue.cli.render_dead, zqueue.control.letters, encodings.idna\n"
        "import zqueue.cli.top.loop, rich.cells; rich.cells.cell_len('▁')\n"
        "user = pwd.getpwnam('nobody')\n"
        "os.setgroups([]); os.setgid(user.pw_gid); os.setuid(user.pw_uid)\n"
        "zqueuectl.main(prog_name='zqueuectl')"
    )
    return [sys.executable, "-c", code, *arguments]
