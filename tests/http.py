"""What a test asks of the HTTP that zqueued serves."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

from tests.waiting import DEADLINE
from tests.zqueued import Zqueued

SERVED = '[metrics]\nlisten = "127.0.0.1:*"\n'


class Answer:
    """A whole answer: its status, its headers, its body."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {key.lower(): value for key, value in response.getheaders()}
        self.text = response.read().decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def address(zqueued: Zqueued) -> tuple[str, int]:
    """Where the daemon serves HTTP, by what it last said of it."""
    parts = urlsplit(zqueued.wait_event("metrics.listening")["url"])
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def ask(zqueued: Zqueued, path: str, method: str = "GET", **headers: str) -> Answer:
    """Ask a daemon for a path."""
    connection = http.client.HTTPConnection(*address(zqueued), timeout=DEADLINE)
    try:
        connection.request(method, path, headers=headers)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def say(zqueued: Zqueued, said: bytes) -> bytes:
    """What is answered to these bytes, until the connection is closed."""
    with socket.create_connection(address(zqueued), timeout=DEADLINE) as sock:
        sock.sendall(said)
        answered = b""
        try:
            while piece := sock.recv(65536):
                answered += piece
        except ConnectionResetError:
            return answered
        return answered
