"""A queue device of a library in a process of its own: ``python -m benchmarks.bare NAME``.

It binds two free ports, prints both endpoints in one line, and runs until it is killed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import zmq
import zmq.devices

_ANY_PORT = "tcp://127.0.0.1:*"
_UNHEARD = "inproc://monitor"


def _bound(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    sock = context.socket(kind)
    sock.bind(_ANY_PORT)
    return sock


def _endpoint(sock: zmq.Socket[bytes]) -> str:
    return sock.getsockopt_string(zmq.LAST_ENDPOINT)


def _tell(frontend: str, backend: str) -> None:
    print(frontend, backend, flush=True)


def _proxy() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    frontend, backend = _bound(context, zmq.ROUTER), _bound(context, zmq.DEALER)
    _tell(_endpoint(frontend), _endpoint(backend))
    zmq.proxy(frontend, backend)


def _monitored_queue() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    frontend, backend = _bound(context, zmq.ROUTER), _bound(context, zmq.DEALER)
    monitor = context.socket(zmq.PUB)
    monitor.bind(_UNHEARD)
    _tell(_endpoint(frontend), _endpoint(backend))
    zmq.devices.monitored_queue(frontend, backend, monitor, b"in", b"out")


def _thread_proxy() -> None:
    # pyzmq gives this class no types.
    thread_proxy: Any = zmq.devices.ThreadProxy
    device = thread_proxy(zmq.ROUTER, zmq.DEALER, zmq.PUB)
    frontend = device.bind_in_to_random_port("tcp://127.0.0.1")
    backend = device.bind_out_to_random_port("tcp://127.0.0.1")
    device.bind_mon(_UNHEARD)
    device.start()
    _tell(f"tcp://127.0.0.1:{frontend}", f"tcp://127.0.0.1:{backend}")
    device.join()


def _pyomq_proxy() -> None:
    # Not a dependency of zqueue, so not there for mypy to see.
    pyomq: Any = importlib.import_module("pyomq")
    context = pyomq.Context()
    frontend, backend = context.socket(pyomq.ROUTER), context.socket(pyomq.DEALER)
    for sock in (frontend, backend):
        sock.bind(_ANY_PORT)
    _tell(*(sock.getsockopt(pyomq.LAST_ENDPOINT).decode() for sock in (frontend, backend)))
    pyomq.proxy(frontend, backend)


DEVICES: dict[str, Callable[[], None]] = {
    "zmq.proxy": _proxy,
    "ThreadProxy": _thread_proxy,
    "monitored_queue": _monitored_queue,
    "pyomq": _pyomq_proxy,
}
"""By the name that the tables show."""

if __name__ == "__main__":
    DEVICES[sys.argv[1]]()
