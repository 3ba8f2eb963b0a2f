"""tcp keep-alive, as the kernel has it for a connection of zqueued's."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from pathlib import Path

import pytest

from tests.conftest import StartZqueued
from tests.engines import on_every_engine
from tests.peers import Peers
from tests.waiting import wait_for
from tests.zqueued import Zqueued

pytestmark = on_every_engine

_PIDFD_OPEN, _PIDFD_GETFD = 434, 438
_LIBC = ctypes.CDLL(None, use_errno=True)


def connections(zqueued: Zqueued, port: int) -> list[socket.socket]:
    """Duplicates of zqueued's accepted connections at a port of its own."""
    process = _LIBC.syscall(_PIDFD_OPEN, zqueued.process.pid, 0)
    found = []
    for number in map(int, os.listdir(f"/proc/{zqueued.process.pid}/fd")):
        copy = _LIBC.syscall(_PIDFD_GETFD, process, number, 0)
        if copy < 0:
            if ctypes.get_errno() != 9:  # EBADF: it is closed by now
                pytest.skip("descriptors of another process are not to be had here")
            continue
        try:
            each = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            continue
        with contextlib.suppress(OSError):
            of_tcp = each.family == socket.AF_INET
            if of_tcp and each.getsockname()[1] == port and each.getpeername():
                found.append(each)
                continue
        each.close()
    os.close(process)
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc")
def test_idle_time_interval_and_count(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued("""
[queues.default]
frontend = "tcp://127.0.0.1:*"
[queues.default.backend]
bind = "tcp://127.0.0.1:*"
tcp_keepalive = "60s"
tcp_keepalive_interval = "7s"
tcp_keepalive_count = 4
""")
    peers.worker(zqueued.backend())
    wait_for(lambda: zqueued.queue().workers.connected)
    [worker] = connections(zqueued, int(zqueued.backend().rpartition(":")[2]))
    with worker:
        assert worker.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        of_tcp = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [worker.getsockopt(socket.IPPROTO_TCP, option) for option in of_tcp] == [60, 7, 4]
