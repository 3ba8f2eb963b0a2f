"""Clients for the chaos: they ask without end, and know which replies they have a right to.

``python -m tests.chaos.clients NAME ENDPOINT [--named]`` runs some REQ and DEALER clients until a
line comes on its standard input; then they wait for what is outstanding, and a line of JSON tells.
"""

from __future__ import annotations

import argparse
import json
import random
import select
import sys
import time
from collections import Counter

import zmq
from zmq.utils.monitor import parse_monitor_message

REQS = 6
DEALERS = 4
AHEAD = 8
FINISHES_WITHIN = 60.0
SLOW = 0.005
POISON = 0.0004
PAUSE = 0.002
ERROR = b"error: "


class Client:
    """One socket. ``patient``: it asks one thing at a time, as a REQ has to."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        name: str,
        endpoint: str,
        type: int,
        ahead: int,
    ) -> None:
        self.name, self.ahead = name, ahead
        self.is_req = type == zmq.REQ
        self.sock = context.socket(type)
        self.sock.linger = 0
        self.sock.set_hwm(0)
        self.sock.reconnect_ivl = 20
        self.monitor = self.sock.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.outstanding: dict[bytes, tuple[bytes, float]] = {}
        self.answered: set[bytes] = set()
        self.counted: Counter[str] = Counter()
        self.longest = 0.0
        self.wrong: list[str] = []
        self._asked = 0
        self._endpoint = endpoint

    def connect(self, identity: bytes) -> None:
        if identity:
            self.sock.setsockopt(zmq.ROUTING_ID, identity)
        self.sock.connect(self._endpoint)

    def ask(self, rng: random.Random) -> None:
        while len(self.outstanding) < self.ahead:
            self._asked += 1
            token = f"{self.name}-{self._asked}".encode()
            luck = rng.random()
            word = b"poison" if luck < POISON else b"slow" if luck < SLOW else b"work"
            # What comes back in the envelope tells also which request an error is about.
            envelope = [] if self.is_req else [token, b""]
            self.sock.send_multipart([*envelope, token + b" " + word])
            self.outstanding[token] = word, time.monotonic()
            self.counted["asked"] += 1
            self.counted["asked poison"] += word == b"poison"

    def hear(self) -> None:
        while self.sock.poll(0):
            *envelope, body = self.sock.recv_multipart()
            self._judge(envelope, body)
        while self.monitor.poll(0):
            parse_monitor_message(self.monitor.recv_multipart())
            self.counted["disconnected"] += 1

    def _judge(self, envelope: list[bytes], body: bytes) -> None:
        token = next(iter(self.outstanding), b"") if self.is_req else envelope[0]
        if token in self.answered:
            self.wrong.append(f"{token!r} was answered twice")
            return
        if token not in self.outstanding:
            self.wrong.append(f"{token!r} was answered and never asked: {body!r}")
            return
        word, asked_at = self.outstanding.pop(token)
        self.answered.add(token)
        self.longest = max(self.longest, time.monotonic() - asked_at)
        if body == token + b" done" and word != b"poison":
            self.counted["answered"] += 1
        elif body.startswith(ERROR):
            self.counted[body.decode()] += 1
            self.counted["given up"] += word != b"poison"
            self.counted["poison given up"] += word == b"poison"
        else:
            self.wrong.append(f"{token!r}, {word!r}, was answered {body!r}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("endpoint")
    parser.add_argument("--named", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    kinds = [] if arguments.named else [(zmq.REQ, 1)] * REQS
    clients = [
        Client(context, f"{arguments.name}{number}", arguments.endpoint, type, ahead)
        for number, (type, ahead) in enumerate([*kinds, *[(zmq.DEALER, AHEAD)] * DEALERS])
    ]
    for client in clients:
        client.connect(client.name.encode() if arguments.named else b"")
    until = float("inf")
    while time.monotonic() < until and (
        until == float("inf") or any(c.outstanding for c in clients)
    ):
        if until == float("inf"):
            for client in clients:
                client.ask(rng)
            if select.select([sys.stdin], [], [], 0)[0]:
                until = time.monotonic() + FINISHES_WITHIN
        zmq.select([client.sock for client in clients], [], [], PAUSE)
        for client in clients:
            client.hear()
    counted: Counter[str] = Counter()
    for client in clients:
        counted.update(client.counted)
        counted["never answered"] += len(client.outstanding)
    told = {
        "counted": counted,
        "wrong": [fault for client in clients for fault in client.wrong],
        "longest": max(client.longest for client in clients),
    }
    print(json.dumps(told), flush=True)
    context.destroy(0)


if __name__ == "__main__":
    main()
