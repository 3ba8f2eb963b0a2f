"""Makes the README's pictures, of a daemon at work: ``python docs/pictures/make.py``.

It takes Chromium (``apt-get install chromium``) for the status page.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import zmq
from rich.console import Console

from zqueue.cli.top import follower, view
from zqueue.cli.top.model import Model
from zqueue.control.client import ControlClient

FOLDER = Path(__file__).parent
WIDTH, HEIGHT = 118, 26
LOOKS = 40
CONFIG = """
[control]
endpoint = "ipc://{folder}/control.sock"
[daemon]
name = "broker-1"
[metrics]
listen = "127.0.0.1:19560"
[queues.orders]
frontend = "tcp://127.0.0.1:15559"
backend = "tcp://127.0.0.1:15560"
[queues.mail]
frontend = "tcp://127.0.0.1:15561"
backend = "tcp://127.0.0.1:15562"
[queues.reports]
frontend = "tcp://127.0.0.1:15563"
backend = "tcp://127.0.0.1:15564"
"""


def work(context: zmq.Context[zmq.Socket[bytes]], port: int, seconds: float) -> None:
    """A worker that takes so long for each request."""
    with context.socket(zmq.REP) as rep:
        rep.connect(f"tcp://127.0.0.1:{port}")
        while True:
            rep.recv()
            time.sleep(seconds)
            rep.send(b"done")


def ask(context: zmq.Context[zmq.Socket[bytes]], port: int, seconds: float) -> None:
    """A client that thinks for a while, now longer, now shorter, before it asks again."""
    with context.socket(zmq.REQ) as req:
        req.linger = 0
        req.connect(f"tcp://127.0.0.1:{port}")
        for number in itertools.count():
            req.send(b"do")
            req.recv()
            time.sleep(seconds * (1 + number % 40 / 20))


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("there is no Chromium here (apt-get install chromium)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "zqueue.toml"
        config.write_text(CONFIG.format(folder=folder))
        daemon = subprocess.Popen(
            [sys.executable, "-m", "zqueue.cli.zqueued", "--config", str(config)],
            stderr=subprocess.DEVNULL,
        )
        try:
            _load()
            _take(f"ipc://{folder}/control.sock", chromium)
        finally:
            daemon.terminate()
            daemon.wait()


def _load() -> None:
    """Peers that go on until this process ends."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    threads = [(work, 15560, seconds) for seconds in (0.002, 0.002, 0.003, 0.02)]
    threads += [(ask, 15559, 0.004)] * 12
    threads += [(work, 15562, 0.05), (ask, 15561, 0.02), (ask, 15561, 0.02), (ask, 15561, 0.1)]
    threads += [(ask, 15563, 1.0)] * 3
    for target, port, seconds in threads:
        threading.Thread(target=target, args=(context, port, seconds), daemon=True).start()


def _take(endpoint: str, chromium: str) -> None:
    while not Path(endpoint.removeprefix("ipc://")).exists():
        time.sleep(0.05)
    with ControlClient(endpoint) as zqueued:
        model = Model(queue="orders")
        for _ in range(LOOKS):
            model.see(follower.look_at(zqueued, model.wanted))
            time.sleep(0.5)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    drawn = view.symbols("utf-8")
    for line in view.page(model, WIDTH, HEIGHT, drawn, time.time()):
        console.print(line, no_wrap=True, crop=False)
    picture = console.export_svg(title="zqueuectl top")
    # It would have its letters from elsewhere.
    picture = re.sub(r"@font-face \{.*?\}\n", "", picture, flags=re.DOTALL)
    (FOLDER / "top.svg").write_text(picture)
    subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--window-size=1000,760", f"--screenshot={FOLDER / 'page.png'}"),
            "http://127.0.0.1:19560/",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )


if __name__ == "__main__":
    main()
    os._exit(0)  # the peers would be waited for
