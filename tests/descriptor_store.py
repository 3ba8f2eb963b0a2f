"""What systemd passes to a daemon that it starts, and what it keeps for it: sd_listen_fds(3)."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Any

from tests.conftest import StartZqueued
from tests.passing import passing
from tests.zqueued import Zqueued


class Store:
    """systemd's descriptor store: what a daemon sends to its NOTIFY_SOCKET with FDSTORE=1."""

    def __init__(self, path: Path) -> None:
        self._kept: list[tuple[str, socket.socket]] = []
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        # Few messages fit into it, and who sends does not wait.
        threading.Thread(target=self._serve, daemon=True).start()

    def read(self) -> list[tuple[str, socket.socket]]:
        """What is kept, by names of which two may be the same."""
        return list(self._kept)

    def close(self) -> None:
        """Nothing is kept any more, as when a service has been stopped."""
        self._socket.shutdown(socket.SHUT_RD)
        for _, each in self._kept:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self) -> None:
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._socket, 65536, 10)
            if not message:
                return
            lines = dict(line.split("=", 1) for line in message.decode().splitlines())
            if "FDSTORE" in lines:
                self._store(lines["FDNAME"], socket.socket(fileno=descriptors[0]))
            elif "FDSTOREREMOVE" in lines:
                self._remove(lines["FDNAME"])

    def _store(self, name: str, sock: socket.socket) -> None:
        there = {os.fstat(each.fileno()).st_ino for _, each in self._kept}
        if os.fstat(sock.fileno()).st_ino in there:
            sock.close()
        else:
            self._kept.append((name, sock))

    def _remove(self, name: str) -> None:
        for each in [each for each in self._kept if each[0] == name]:
            self._kept.remove(each)
            each[1].close()

    def how(self) -> dict[str, Any]:
        """How to start a zqueued that is passed what is kept, and has it kept further."""
        kept = self.read()
        passed = passing(*kept) if kept else {}
        return {"env": os.environ | {"NOTIFY_SOCKET": str(self._path)}, **passed}

    def start(self, start_zqueued: StartZqueued, text: str) -> Zqueued:
        return start_zqueued(text, **self.how())
