"""Names for threads that ``top -H`` and a debugger see; Python before 3.14 tells the kernel none."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path


def name_this_thread(name: str) -> None:
    """Give the calling thread a name of at most 15 bytes (proc_pid_comm(5)); longer ones are cut."""
    with contextlib.suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_bytes(name.encode()[:15])
