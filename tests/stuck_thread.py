"""Stops one thread of another process, as a debugger does: the queue whose thread is stuck."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_for

_PTRACE_SEIZE = 0x4206
_PTRACE_INTERRUPT = 0x4207
_PTRACE_CONT = 7
_PTRACE_DETACH = 17
_WALL = 0x40000000

# poll, ppoll, epoll_wait, epoll_pwait: by their numbers, as /proc has them.
_POLLS = {"x86_64": {"7", "271", "232", "281"}, "aarch64": {"73", "22"}}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@contextlib.contextmanager
def stopped_thread(pid: int, name: str) -> Iterator[None]:
    """Keep the thread called ``name`` stopped; skips the test where ptrace is not allowed."""
    tid = wait_for(lambda: _thread_id(pid, name), f"a thread {name}") or 0
    if _libc.ptrace(_PTRACE_SEIZE, tid, None, None) != 0:
        pytest.skip(f"ptrace is not allowed here: {os.strerror(ctypes.get_errno())}")
    try:
        wait_for(lambda: _stopped_while_it_waits(pid, tid), f"{name} to wait for something")
        yield
    finally:
        _libc.ptrace(_PTRACE_DETACH, tid, None, None)
        time.sleep(0)


def _stopped_while_it_waits(pid: int, tid: int) -> bool:
    """Stop it, but not where it holds Python's lock: then all other threads would stand still."""
    _libc.ptrace(_PTRACE_INTERRUPT, tid, None, None)
    os.waitpid(tid, _WALL)
    called = Path(f"/proc/{pid}/task/{tid}/syscall").read_text().split()[0]
    if called in _POLLS.get(os.uname().machine, {called}):
        return True
    _libc.ptrace(_PTRACE_CONT, tid, None, None)
    return False


def _thread_id(pid: int, name: str) -> int | None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == name:
            return int(task.name)
    return None
