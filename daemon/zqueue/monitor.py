"""libzmq's monitor of a socket, which keeps libzmq from accepting without end, unheard.

On ipc libzmq (4.3.5, ``ipc_listener.cpp``) ends the whole process when it has no descriptor left
for a connection. So it may be no more than :data:`ACCEPTED_UNHEARD` connections ahead of whoever
closes the listener's gate: then a full monitor stops its I/O thread, for as long as that takes. On
tcp it goes on, and its peers need not wait for our reading.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable

import zmq

from zqueue.listeners import Listener

ACCEPTED_UNHEARD = 1001
"""The send buffer of libzmq's end, which is always 1000 messages, and one at ours."""
_TRIED_EVERY = 1
_NO_BOUND = 0


def open_monitor(
    watched: zmq.Socket[bytes], address: str, events: int, listeners: Iterable[Listener]
) -> zmq.Socket[bytes]:
    """A PAIR that ``events`` of ``watched``, which is to accept at ``listeners``, are read from
    (``zmq_socket_monitor(3)``); ``address`` is an inproc one that nobody has."""
    ipc = any(listener.endpoint.startswith("ipc") for listener in listeners)
    watched.monitor(address, events)
    monitor: zmq.Socket[bytes] = watched.context.socket(zmq.PAIR)
    monitor.set(zmq.RCVHWM, ACCEPTED_UNHEARD - 1000 if ipc else _NO_BOUND)
    monitor.set(zmq.LINGER, 0)
    monitor.connect(address)
    return monitor


def end_monitor(watched: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> None:
    """Have no more events sent, and close ``monitor``. For the thread that reads it.

    What libzmq has still to say must be taken from it: it would wait, and be waited for.
    """
    ending = threading.Thread(target=watched.disable_monitor, name="zq.end_monitor")
    ending.start()
    while ending.is_alive():
        with contextlib.suppress(zmq.Again):
            while True:
                monitor.recv(zmq.DONTWAIT)
        ending.join(_TRIED_EVERY / 1000)
    monitor.close()
