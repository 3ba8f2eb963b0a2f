"""libzmq's monitor of a socket, which keeps libzmq from accepting without end, unheard.

On ipc libzmq (4.3.5, ``ipc_listener.cpp``) ends the whole process when it has no descriptor left
for a connection. So it may be no more than :data:`ACCEPTED_UNHEARD` connections ahead of whoever
closes the listener's gate: then a full monitor stops its I/O thread, for as long as that takes. On
tcp it goes on, and its peers need not wait for our reading.

libzmq waits there with the monitor locked, and pyzmq (27) waits for that lock with the GIL held:
nobody would ever read again. So what has a bound is bound to one endpoint only, and a monitor is
never disabled: close it, then the socket, then end the context, which ends whatever waits in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import zmq

from zqueue.listeners import Listener

ACCEPTED_UNHEARD = 1001
"""The send buffer of libzmq's end, which is always 1000 messages, and one at ours."""
_ONE_HERE = ACCEPTED_UNHEARD - 1000
_NO_BOUND = 0


def open_monitor(
    watched: zmq.Socket[bytes], address: str, events: int, listeners: Sequence[Listener]
) -> zmq.Socket[bytes]:
    """A PAIR that ``events`` of ``watched``, which is to accept at ``listeners``, are read from
    (``zmq_socket_monitor(3)``); ``address`` is an inproc one that nobody has."""
    watched.monitor(address, events)
    monitor: zmq.Socket[bytes] = watched.context.socket(zmq.PAIR)
    # With two the second would have to be bound after the first accepts.
    bounded = len(listeners) == 1 and listeners[0].endpoint.startswith("ipc")
    monitor.set(zmq.RCVHWM, _ONE_HERE if bounded else _NO_BOUND)
    monitor.set(zmq.LINGER, 0)
    monitor.connect(address)
    return monitor
