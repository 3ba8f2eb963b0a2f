"""Thread names for ``top -H`` and debuggers; Python before 3.14 tells the kernel none."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path


def name_this_thread(name: str) -> None:
    """Name the calling thread; the kernel keeps 15 bytes of it (proc_pid_comm(5))."""
    with contextlib.suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_bytes(name.encode()[:15])
