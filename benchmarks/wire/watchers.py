"""Everything that looks at a broker, at once: a scraper, ``zqueuectl top``, a tap."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from benchmarks.brokers import Broker
from zqueue.control.client import ControlClient

_SCRAPED_EVERY = 1.0
_SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n"


@contextlib.contextmanager
def watchers(broker: Broker) -> Iterator[None]:
    """Scrape its metrics each second, keep top and a tap open. Nothing, where it cannot be
    watched."""
    if not broker.control:
        yield
        return
    enough = threading.Event()
    threads = [
        threading.Thread(target=_scrape, args=(broker, enough)),
        threading.Thread(target=_tap, args=(broker, enough)),
    ]
    with _top(broker, enough):
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            enough.set()
            for thread in threads:
                thread.join()


def _scrape(broker: Broker, enough: threading.Event) -> None:
    while not enough.is_set():
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(broker.http)
            connection.sendall(_SCRAPE)
            while connection.recv(1 << 16):
                pass
        enough.wait(_SCRAPED_EVERY)


def _tap(broker: Broker, enough: threading.Event) -> None:
    with ControlClient(broker.control) as zqueued:
        for _ in zqueued.tap():
            if enough.is_set():
                return
            time.sleep(0.1)


@contextlib.contextmanager
def _top(broker: Broker, enough: threading.Event) -> Iterator[None]:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "zqueue.cli.zqueuectl", "-e", broker.control, "top"]
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    top = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)

    def read() -> None:
        with contextlib.suppress(OSError):  # it has ended
            while os.read(ours, 1 << 16):
                pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        top.kill()
        top.wait()
        reader.join()
        os.close(ours)
