"""Clients and workers as users write them: plain REQ and REP sockets, each in its own thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import zmq

from tests.waiting import DEADLINE, wait_for

Answer = Callable[[bytes], bytes]


class Worker:
    """A REP that connects to the backend and answers until it is stopped."""

    def __init__(self, endpoint: str, answer: Answer, work: float) -> None:
        self.served: list[bytes] = []
        self._endpoint, self._answer, self._work = endpoint, answer, work
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.REP) as rep:
            rep.linger = 0
            rep.ipv6 = True
            rep.connect(self._endpoint)
            while not self._stopping.is_set():
                if not rep.poll(20):
                    continue
                try:
                    *_, request = rep.recv_multipart(zmq.DONTWAIT)
                except zmq.Again:  # a message without envelope, which REP drops only now
                    continue
                self._stopping.wait(self._work)
                self.served.append(request)
                rep.send(self._answer(request))
            rep.linger = 1000

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(DEADLINE)


class Client:
    """A REQ that asks one question after the other and checks that each answer is to it."""

    def __init__(self, endpoint: str, name: str, requests: int | None) -> None:
        self.name = name
        self.asked = 0
        self.replies: list[bytes] = []
        self.failure: str | None = None
        self._endpoint, self._requests = endpoint, requests
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.REQ) as req:
            req.linger = 0
            req.ipv6 = True
            req.connect(self._endpoint)
            while not self._stopping.is_set() and self.asked != self._requests:
                question = f"{self.name} {self.asked}".encode()
                req.send(question)
                self.asked += 1
                if not req.poll(int(DEADLINE * 1000)):
                    self.failure = f"{question!r} was never answered"
                    return
                reply = req.recv()
                if not reply.endswith(question):
                    self.failure = f"{question!r} was answered {reply!r}"
                    return
                self.replies.append(reply)

    def finish(self) -> list[bytes]:
        """Wait for the last reply; all must have come."""
        self._thread.join(DEADLINE * 2)
        assert self.failure is None, self.failure
        assert not self._thread.is_alive()
        return self.replies

    def stop(self) -> list[bytes]:
        """Ask no more, but wait for the reply that is due."""
        self._stopping.set()
        return self.finish()


class Peers:
    """All clients and workers of a test."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []
        self._clients: list[Client] = []

    def worker(self, endpoint: str, name: str = "w", work: float = 0.0) -> Worker:
        worker = Worker(endpoint, lambda request: f"{name}:".encode() + request, work)
        self._workers.append(worker)
        return worker

    def client(self, endpoint: str, name: str = "c", requests: int | None = None) -> Client:
        client = Client(endpoint, name, requests)
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client._stopping.set()
        for worker in self._workers:
            worker.stop()


def wait_for_more(clients: list[Client], replies: int) -> None:
    """Wait until these clients have got so many more replies."""
    before = sum(len(client.replies) for client in clients)

    def more() -> bool:
        return sum(len(client.replies) for client in clients) >= before + replies

    wait_for(more, f"{replies} more replies")


def settle(seconds: float) -> None:
    """Let time pass where the claim is that nothing happens in it."""
    time.sleep(seconds)
