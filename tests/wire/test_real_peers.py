"""One of each promise with a real daemon, and clients and workers as users write them."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import zmq

from tests.conftest import StartZqueued
from tests.peers import Peers, Worker
from tests.waiting import DEADLINE, wait_for
from tests.wire.test_routing import ends

Context = zmq.Context[zmq.Socket[bytes]]


# -- workers that are lost -----------------------------------------------------------------------

WATCHED = """
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = {{ bind = "tcp://127.0.0.1:*", heartbeat = "200ms", heartbeat_timeout = "400ms" }}
error_reply = ["died of {{reason}} after {{attempts}}"]
{more}
"""
WORKER = """
import os, sys, zmq
rep = zmq.Context().socket(zmq.REP)
rep.connect(sys.argv[1])
while True:
    request = rep.recv()
    print(request.decode(), flush=True)
    if request == b"poison":
        os._exit(1)
    if request == b"hang" and sys.argv[2] == "hangs":
        sys.stdin.readline()
    rep.send(sys.argv[2].encode() + b":" + request)
"""


@contextmanager
def worker_process(endpoint: str, name: str) -> Iterator[subprocess.Popen[str]]:
    """A libzmq REP in a process of its own. It prints what it gets, dies of a poison, and, named
    ``hangs``, hangs in the request ``hang`` until it gets a line; its ZeroMQ goes on answering."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, endpoint, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def printed(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def go_on(process: subprocess.Popen[str]) -> None:
    """It hangs no longer."""
    assert process.stdin is not None
    process.stdin.write("go on\n")
    process.stdin.flush()


def has_ended_or_told(process: subprocess.Popen[str], client: zmq.Socket[bytes]) -> bool:
    """Whether a worker's process has ended, or a client has got its reply."""
    return process.poll() is not None or client.poll(0) > 0


def test_a_worker_that_stands_still_and_goes_on(
    start_zqueued: StartZqueued, context: Context
) -> None:
    zqueued = start_zqueued(WATCHED.format(more=""))
    client = context.socket(zmq.REQ)
    client.connect(zqueued.frontend())
    with worker_process(zqueued.backend(), "hangs") as stopped:
        client.send(b"hang")
        assert printed(stopped) == "hang"
        os.kill(stopped.pid, signal.SIGSTOP)
        with worker_process(zqueued.backend(), "other"):
            assert client.recv() == b"other:hang"
            zqueued.wait_event("peer.protocol_error", reason="its heartbeat stopped")
        client.send(b"1")
        os.kill(stopped.pid, signal.SIGCONT)
        # Its socket connects anew, and what it answers there first is for nobody.
        zqueued.wait_events("peer.connected", 4)
        go_on(stopped)
        assert client.recv() == b"hangs:1"
        zqueued.wait_event("reply.dropped", reason="its request had been given up")
        for number in range(2, 5):
            client.send(b"%d" % number)
            assert client.recv() == b"hangs:%d" % number
    wait_for(lambda: ends(zqueued).replied == 5)
    assert ends(zqueued).dead == 0
    assert len(zqueued.events("peer.protocol_error")) == 1


def test_a_rep_that_hangs_in_its_service(start_zqueued: StartZqueued, context: Context) -> None:
    """Its ZeroMQ answers heartbeats all the while."""
    zqueued = start_zqueued(WATCHED.format(more='service_timeout = "1s"'))
    client = context.socket(zmq.REQ)
    client.connect(zqueued.frontend())
    with worker_process(zqueued.backend(), "hangs") as hanging:
        client.send(b"hang")
        assert printed(hanging) == "hang"
        zqueued.wait_event("worker.set_aside", service_timeout=1.0)
        with worker_process(zqueued.backend(), "other"):
            assert client.recv() == b"other:hang"
            go_on(hanging)
            zqueued.wait_event("worker.answers_again")
            zqueued.wait_event("reply.dropped", reason="its request had been given up")
            for number in range(4):
                client.send(b"%d" % number)
                assert client.recv().endswith(b":%d" % number)
        client.send(b"last")
        assert client.recv() == b"hangs:last"
    assert zqueued.events("peer.protocol_error") == []


def test_a_poison_and_the_real_thing(
    start_zqueued: StartZqueued, peers: Peers, context: Context
) -> None:
    """Workers are started anew as often as they die, as systemd does; the others are answered."""
    zqueued = start_zqueued(WATCHED.format(more="prefetch = 5\nmax_attempts = 2"))
    poisoner = context.socket(zmq.REQ)
    poisoner.connect(zqueued.frontend())
    clients = [peers.client(zqueued.frontend(), name, requests=20) for name in "abc"]
    poisoner.send(b"poison")
    while not poisoner.poll(0):
        with worker_process(zqueued.backend(), "again") as serving:
            wait_for(functools.partial(has_ended_or_told, serving, poisoner))
    assert poisoner.recv() == b"died of max_attempts after 2"
    with worker_process(zqueued.backend(), "last"):
        for client in clients:
            assert len(client.finish()) == 20
    event = zqueued.wait_event("request.dead")
    assert (event["reason"], event["attempts"]) == ("max_attempts", 2)
    wait_for(lambda: ends(zqueued).replied == 60)
    assert ends(zqueued).dead == 1


# -- requests that die, or are rejected ----------------------------------------------------------


def test_a_req_is_told_and_asks_on(start_zqueued: StartZqueued, context: Context) -> None:
    """Its worker is slower than the deadline; what it answers late is for nobody."""
    zqueued = start_zqueued("""
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
deadline = "300ms"
error_reply = ["{reason}"]
""")
    begun, may_end = threading.Event(), threading.Event()

    def answer(request: bytes) -> bytes:
        if request == b"too long":
            begun.set()
            assert may_end.wait(DEADLINE)
        return b"re " + request

    req = context.socket(zmq.REQ)
    req.connect(zqueued.frontend())

    def ask(question: bytes) -> bytes:
        req.send(question)
        reply: bytes = req.recv()
        return reply

    assert ask(b"too early") == b"deadline"
    serving = Worker(zqueued.backend(), answer, 0)
    while not begun.is_set():  # it may take a while to connect
        assert ask(b"too long") == b"deadline"
    may_end.set()
    while (reply := ask(b"in time")) == b"deadline":
        pass
    assert reply == b"re in time"
    serving.stop()
    event = zqueued.wait_event("request.dead", attempts=1)
    assert (event["reason"], event["level"]) == ("deadline", "error")
    zqueued.wait_event("reply.dropped", reason="its request had been given up")


def test_a_req_is_rejected_and_may_ask_again(start_zqueued: StartZqueued, context: Context) -> None:
    zqueued = start_zqueued("""
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
max_waiting = 1
when_full = "reject"
error_reply = ["try again later: {reason}"]
""")
    first, second, serving = (context.socket(kind) for kind in (zmq.REQ, zmq.REQ, zmq.REP))
    first.connect(zqueued.frontend())
    second.connect(zqueued.frontend())
    first.send(b"first")
    wait_for(lambda: zqueued.queue().waiting == 1)
    for _ in range(3):
        second.send(b"second")
        assert second.recv() == b"try again later: queue_full"
    serving.connect(zqueued.backend())
    assert serving.recv() == b"first"
    serving.send(b"done")
    assert first.recv() == b"done"
    second.send(b"second")
    assert serving.recv() == b"second"
    serving.send(b"done as well")
    assert second.recv() == b"done as well"
    wait_for(lambda: ends(zqueued).replied == 2)
    assert ends(zqueued).rejected == 3
    assert zqueued.events("request.dead") == []


# -- clients that leave --------------------------------------------------------------------------

AWAITED = """
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
client_grace = "1h"
"""


def lazy_pirate(context: Context, endpoint: str, identity: bytes, question: bytes) -> bytes:
    """Ask as the Lazy Pirate of the ZeroMQ guide: who is not answered in time closes its socket and
    asks again with another."""
    while True:
        with context.socket(zmq.REQ) as client:
            client.linger = 0
            client.routing_id = identity
            client.connect(endpoint)
            client.send(question)
            if client.poll(400):
                return client.recv()


def test_lazy_pirates(start_zqueued: StartZqueued, context: Context) -> None:
    """Nothing of those who gave up is left, and each gets the answer to its own question."""
    zqueued = start_zqueued(AWAITED.replace('client_grace = "1h"', 'duplicate_id = "handover"'))
    answered: dict[bytes, bytes] = {}

    def ask(name: bytes) -> Callable[[], None]:
        def asks() -> None:
            for number in range(5):
                question = name + b" %d" % number
                answered[question] = lazy_pirate(context, zqueued.frontend(), name, question)

        return asks

    pirates = [threading.Thread(target=ask(b"pirate %d" % number)) for number in range(4)]
    for pirate in pirates:
        pirate.start()
    # Until a worker comes all give up again and again, and some of it is withdrawn.
    wait_for(lambda: ends(zqueued).withdrawn > 8)
    serving = context.socket(zmq.REP)
    serving.connect(zqueued.backend())
    while any(pirate.is_alive() for pirate in pirates):
        if serving.poll(50):
            request = serving.recv()
            serving.send(b"re " + request)
    for pirate in pirates:
        pirate.join(DEADLINE)
    assert len(answered) == 20
    assert all(reply == b"re " + question for question, reply in answered.items())
    wait_for(lambda: zqueued.queue().clients.connected == 0)
    wait_for(lambda: zqueued.queue().in_flight == 0)
    queue = zqueued.queue()
    assert (queue.waiting, queue.kept) == (0, 0)


def test_a_dealer_that_is_started_anew_goes_on(
    start_zqueued: StartZqueued, context: Context
) -> None:
    zqueued = start_zqueued(AWAITED)
    serving = context.socket(zmq.REP)
    serving.connect(zqueued.backend())

    def dealer() -> zmq.Socket[bytes]:
        socket = context.socket(zmq.DEALER)
        socket.routing_id = b"me"
        socket.connect(zqueued.frontend())
        return socket

    before = dealer()
    for number in range(4):
        before.send_multipart([b"", b"%d" % number])
    assert serving.recv() == b"0"
    wait_for(lambda: zqueued.queue().waiting == 3)
    before.close(0)
    wait_for(lambda: zqueued.queue().clients.connected == 0)
    serving.send(b"re 0")
    assert serving.recv() == b"1"
    wait_for(lambda: zqueued.queue().kept == 1)
    after = dealer()
    assert after.recv_multipart() == [b"", b"re 0"]
    event = zqueued.wait_event("client.returned")
    assert event["replies"] == 1
    serving.send(b"re 1")
    for number in (2, 3):
        assert serving.recv() == b"%d" % number
        serving.send(b"re %d" % number)
    assert [after.recv_multipart()[1] for _ in range(3)] == [b"re 1", b"re 2", b"re 3"]
    wait_for(lambda: ends(zqueued).replied == 4)
    assert (zqueued.queue().kept, ends(zqueued).withdrawn) == (0, 0)
