"""A worker as users write them, for the chaos: ``python -m tests.chaos.worker REP ENDPOINT``.

A request's body is ``TOKEN WORD``: ``work`` is done at once, ``slow`` takes a fifth of a second,
``poison`` kills whoever takes it. The reply is ``TOKEN done``.
"""

from __future__ import annotations

import os
import sys
import time

import zmq

SLOW = 0.2


def answer(body: bytes) -> bytes:
    token, _, word = body.partition(b" ")
    if word == b"poison":
        os._exit(66)
    if word == b"slow":
        time.sleep(SLOW)
    return token + b" done"


def main(type: str, endpoint: str) -> None:
    with zmq.Context() as context, context.socket(getattr(zmq, type)) as sock:
        sock.linger = 0
        sock.reconnect_ivl = 20
        sock.connect(endpoint)
        while True:
            *envelope, body = sock.recv_multipart()
            sock.send_multipart([*envelope, answer(body)])


if __name__ == "__main__":
    main(*sys.argv[1:])
