"""A TCP relay that cuts what passes through it, as networks do."""

from __future__ import annotations

import random
import selectors
import socket
import struct
import threading

_RESET = struct.pack("ii", 1, 0)
_READ = 65536


class Relay:
    """Listens at ``endpoint`` and relays to ``target``, both tcp endpoints of ZeroMQ."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._silent: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self, rng: random.Random) -> bool:
        """Reset one of its connections, both ends; False if there is none."""
        with self._lock:
            if not self._pairs:
                return False
            self._drop(rng.choice(list(self._pairs)))
            return True

    def silence(self, rng: random.Random) -> bool:
        """Pass nothing more on one of its connections, and say nothing; False if there is none."""
        with self._lock:
            open_ones = [sock for sock in self._pairs if sock not in self._silent]
            if not open_ones:
                return False
            one = rng.choice(open_ones)
            for sock in (one, self._pairs[one]):
                self._silent.add(sock)
                self._selector.unregister(sock)
            return True

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        for sock in list(self._pairs):
            if sock in self._pairs:
                self._drop(sock)
        self._selector.close()
        self._listener.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj in self._pairs:
                        assert isinstance(key.fileobj, socket.socket)
                        self._pass_on(key.fileobj)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(self._target, timeout=5)
        except OSError:
            near.close()
            return
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(5)
            self._selector.register(sock, selectors.EVENT_READ)
        self._pairs[near], self._pairs[far] = far, near

    def _pass_on(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(_READ)
            if data:
                self._pairs[sock].sendall(data)
                return
        except OSError:
            pass
        self._drop(sock)

    def _drop(self, sock: socket.socket) -> None:
        other = self._pairs.pop(sock)
        del self._pairs[other]
        for each in (sock, other):
            if each not in self._silent:
                self._selector.unregister(each)
            self._silent.discard(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            each.close()
