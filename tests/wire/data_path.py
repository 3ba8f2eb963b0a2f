"""The wire engine's loop with real sockets, and without a supervisor that wakes it at times."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

from tests.waiting import DEADLINE
from zqueue.engine.wire.datapath import DataPath


def new_data_path(**settings: Any) -> DataPath:
    """One that has no sockets yet; ``settings`` are those of a queue that matter."""
    return DataPath(
        max_connections=0,
        max_connections_per_address=0,
        descriptors=1000,
        first_id=0,
        **{"max_waiting": 1000, "max_attempts": 0, **settings},
    )


@contextlib.contextmanager
def data_path(**settings: Any) -> Iterator[tuple[str, str, DataPath]]:
    """The endpoints of its two sides, and itself; ``settings`` are those of a queue that matter."""
    path = new_data_path(**settings)
    listening, endpoints = [], []
    for side in (0, 1):
        path.side(
            side,
            handshake_timeout=0,
            heartbeat=0,
            heartbeat_timeout=0,
            keepalive=0,
            send_buffer=0,
            receive_buffer=0,
            reconnect=1,
            reconnect_max=1,
        )
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        endpoints.append("tcp://{}:{}".format(*listener.getsockname()))
        listening.append((side, listener.detach(), endpoints[-1]))
    path.sockets(listening, [])
    thread = threading.Thread(target=path.run, args=(0,))
    thread.start()
    try:
        yield endpoints[0], endpoints[1], path
    finally:
        path.close(0)
        thread.join(DEADLINE)
    assert not any(path.left_behind.values())
