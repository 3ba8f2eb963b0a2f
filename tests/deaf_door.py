"""A crowd at a door that hears nothing of it, where nearly all descriptors are taken:
``python deaf_door.py DIRECTORY DESCRIPTORS hears|closes``.

It prints how many came before they were heard, and the events, in order, one a line. If it
``closes`` it never hears of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import sys
import time
from pathlib import Path

import zmq

from tests.waiting import DEADLINE
from zqueue import descriptors, listeners
from zqueue.door import Door

_NOBODY_LET_IN_FOR = 0.5


def crowd(path: str, come: int, go: int, came: int) -> None:
    """As many as get in, until for a while nobody does; they leave when told to."""
    os.read(come, 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    inside: list[socket.socket] = []
    last = time.monotonic()
    while time.monotonic() < last + _NOBODY_LET_IN_FOR:
        one = socket.socket(socket.AF_UNIX)
        one.setblocking(False)
        try:
            one.connect(path)
        except BlockingIOError:
            one.close()
            time.sleep(0.001)
            continue
        except OSError:
            break
        inside.append(one)
        last = time.monotonic()
    os.write(came, b"%d" % len(inside))
    os.read(go, 1)


async def door(path: str, come: int, go: int, came: int, *, hears: bool) -> None:
    descriptors.raise_limit()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    listener = listeners.listen_control(f"ipc://{path}", mode=0o600, group=None)
    told: dict[str, asyncio.Event] = {
        "listener.closed_gate": asyncio.Event(),
        "listener.opened_gate": asyncio.Event(),
    }

    def emit(event: str, **fields: object) -> None:
        print(event, flush=True)
        told[event].set()

    watched = Door(router, listener, emit, "test", callers=True)
    listener.attach(router)
    watching = asyncio.create_task(watched.watch())
    taken = [os.dup(0)]
    while taken[-1] < descriptors.Budget(callers=True).highest - 2:
        taken.append(os.dup(0))
    os.write(come, b".")
    # The loop stands still here.
    print(os.read(came, 10).decode(), flush=True)
    if hears:
        await asyncio.wait_for(told["listener.closed_gate"].wait(), DEADLINE)
    os.write(go, b".")
    for descriptor in taken:
        os.close(descriptor)
    if hears:
        await asyncio.wait_for(told["listener.opened_gate"].wait(), DEADLINE)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    watched.close()
    router.close(0)
    context.term()
    listener.close()


def main() -> None:
    directory, limit, hears = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "hears"
    path = str(directory / "door.sock")
    come, go, came = os.pipe(), os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(come[1])
        os.close(go[1])
        crowd(path, come[0], go[0], came[1])
        os._exit(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    asyncio.run(door(path, come[1], go[1], came[0], hears=hears))
    os.wait()


if __name__ == "__main__":
    main()
