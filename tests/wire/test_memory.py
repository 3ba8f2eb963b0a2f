"""The formula of docs/engines.md: a daemon that real peers load to all its bounds keeps to it."""

from __future__ import annotations

import contextlib
import itertools
import threading
from pathlib import Path

from tests.conftest import StartZqueued
from tests.peers import Peers
from tests.waiting import wait_for
from tests.wire.raw import RawPeer, message, ping
from tests.zqueued import ONE_QUEUE, Zqueued

KIB, MIB = 1 << 10, 1 << 20
OF_PYTHON = 6 * MIB
"""What the rest of the daemon may need for what it is asked and has to tell in a test."""
KEPT = 64 * MIB
LARGEST = MIB
UNSENT = 4 * MIB
WAITING = 8 * MIB


def config(max_waiting: int, prefetch: int = 1) -> str:
    side = 'bind = "tcp://127.0.0.1:*", max_message_size = "1MiB", send_buffer = "8KiB"'
    return f"""
[queues.default]
frontend = {{ {side}, high_water_mark = 0 }}
backend = {{ {side} }}
max_waiting = {max_waiting}
max_waiting_bytes = "8MiB"
max_unsent = "4MiB"
prefetch = {prefetch}
"""


def formula(*, clients: int, workers: int) -> float:
    """All but the requests' own and what does not depend on the load."""
    connections = clients + workers
    return (
        1.5 * ((connections + workers) * LARGEST + 2 * WAITING)
        + 2.5 * clients * (UNSENT + LARGEST)
        + connections * 128 * KIB
        + workers * (MIB + WAITING / 2)
    )


class Memory:
    """How much more memory a daemon has, or has had, than when this was made."""

    def __init__(self, zqueued: Zqueued) -> None:
        self._process = Path(f"/proc/{zqueued.process.pid}")
        # The peak so far is that of its start; not every kernel can forget it.
        with contextlib.suppress(OSError):
            (self._process / "clear_refs").write_text("5")
        self._before = self._bytes("VmRSS")

    def _bytes(self, name: str) -> int:
        lines = (self._process / "status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))

    @property
    def now(self) -> int:
        return self._bytes("VmRSS") - self._before

    @property
    def most(self) -> int:
        return self._bytes("VmHWM") - self._before


def waits(zqueued: Zqueued, waiting: int, in_flight: int = 0) -> None:
    def as_many() -> bool:
        queue = zqueued.queue()
        return (queue.waiting, queue.in_flight) == (waiting, in_flight)

    wait_for(as_many, f"{waiting} requests to wait, and {in_flight} in flight")


def send_replies(
    zqueued: Zqueued, worker: RawPeer, to: list[RawPeer], count: int, size: int
) -> None:
    """That nobody has asked for; a ROUTER or DEALER may."""
    already = zqueued.queue().replies.messages
    for client, _ in itertools.product(to, range(count)):
        worker.send(client.identity, b"", bytes(size))
    wait_for(lambda: zqueued.queue().replies.messages == already + count * len(to))


def test_large_messages(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(config(max_waiting=20_000))
    frontend, backend = zqueued.frontend(), zqueued.backend()
    memory = Memory(zqueued)
    request = message([b"", bytes(LARGEST - 100)])
    in_flight = waiting = 9
    with contextlib.ExitStack() as crowd:
        for _ in range(in_flight):
            crowd.enter_context(RawPeer(backend, "REP", receive_buffer=4096))
        clients = [
            crowd.enter_context(
                RawPeer(frontend, "DEALER", identity=b"%d" % number, receive_buffer=4096)
            )
            for number in range(12)
        ]
        # What has begun when the bound is reached is read to its end.
        for each in clients:
            each.say(request[:-1])
        wait_for(lambda: memory.now > len(clients) * LARGEST, "them to be under way")
        flood = crowd.enter_context(RawPeer(frontend, "DEALER"))
        flooding = threading.Thread(target=flood.say, args=(request * 18,), daemon=True)
        flooding.start()
        waits(zqueued, waiting, in_flight)
        for each in clients:
            each.say(request[-1:])
        waits(zqueued, waiting + len(clients), in_flight)
        worker = crowd.enter_context(RawPeer(backend, "DEALER"))
        send_replies(zqueued, worker, clients, count=5, size=LARGEST - 100)
        worker.say(request[:-1])
        loaded = (in_flight + waiting + len(clients) * 6 + 1) * LARGEST
        wait_for(lambda: memory.now > loaded, "its message to be under way")
        most = memory.most
        print(f"{most / MIB:.1f} MiB more, of {loaded / MIB:.1f} MiB of messages")
        assert most < 1.1 * loaded + OF_PYTHON
        assert most < formula(clients=13, workers=10) + OF_PYTHON
        assert zqueued.queue().clients.connected == 13
        flooding.join()


def test_a_body_is_there_once_while_it_passes(start_zqueued: StartZqueued) -> None:
    """What it was read to is what it is sent from, and the next one has it again. A request is kept
    until its reply is whole, should it have to go to another worker."""
    size = 32 * MIB
    zqueued = start_zqueued(ONE_QUEUE)
    with (
        RawPeer(zqueued.frontend(), "DEALER") as client,
        RawPeer(zqueued.backend(), "REP") as worker,
    ):
        memory = Memory(zqueued)
        for asked, replied in ((size, 1), (1, size), (size, 1)):
            client.send(b"", bytes(asked))
            assert worker.serve(1, bytes(replied)) == [bytes(asked)]
            assert client.receive() == [b"", bytes(replied)]
        most = memory.most
        print(f"{most / size} times a message")
        assert most < 1.1 * size + OF_PYTHON


def test_small_requests(start_zqueued: StartZqueued) -> None:
    """Each takes 256 bytes besides its own, waiting or in flight."""
    zqueued = start_zqueued(config(max_waiting=50_000, prefetch=10_000))
    memory = Memory(zqueued)
    with contextlib.ExitStack() as crowd:
        client = crowd.enter_context(RawPeer(zqueued.frontend(), "DEALER"))
        flooding = threading.Thread(
            target=client.say, args=(message([b"", b"x"]) * 70_000,), daemon=True
        )
        flooding.start()
        waits(zqueued, 50_000)
        most = memory.most
        print(f"{most / 50_000} bytes for each that waits")
        assert 50_000 * 100 < most < 50_000 * 256 + OF_PYTHON
        for _ in range(2):
            worker = crowd.enter_context(RawPeer(zqueued.backend(), "DEALER"))
            for _ in range(10_000):
                worker.receive()
        waits(zqueued, 50_000, 20_000)
        most = memory.most
        print(f"{most / 70_000} bytes for each")
        assert 70_000 * 100 < most < 70_000 * 256 + 2 * MIB + OF_PYTHON
        flooding.join()


def test_what_was_read_and_not_taken(start_zqueued: StartZqueued) -> None:
    """64 KiB a connection, besides a message."""
    zqueued = start_zqueued(config(max_waiting=1))
    with contextlib.ExitStack() as crowd:
        clients = [crowd.enter_context(RawPeer(zqueued.frontend(), "DEALER")) for _ in range(100)]
        memory = Memory(zqueued)
        for each in clients:
            each.say(message([b"", bytes(100)]) * 1000)
        worker = crowd.enter_context(RawPeer(zqueued.backend(), "DEALER"))
        assert len(worker.serve(300)) == 300
        most = memory.most
        print(f"{most / 100 / KIB} KiB a connection")
        assert 100 * 32 * KIB < most < 100 * 128 * KIB + OF_PYTHON


def test_pings_of_those_who_do_not_read(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(config(max_waiting=1))
    with contextlib.ExitStack() as crowd:
        clients = [
            crowd.enter_context(RawPeer(zqueued.frontend(), "DEALER", receive_buffer=4096))
            for _ in range(100)
        ]
        memory = Memory(zqueued)
        for each in clients:
            each.say(ping(context=bytes(16)) * 10_000)
            each.send(b"", b"the last")
        with RawPeer(zqueued.backend(), "DEALER") as worker:
            worker.serve(len(clients))
        most = memory.most
        print(f"{most / 100 / KIB} KiB a connection")
        assert 100 * 10 * KIB < most < 100 * 64 * KIB + OF_PYTHON


def test_what_is_kept_for_reuse(start_zqueued: StartZqueued, peers: Peers) -> None:
    """A bound of it, and no longer than it is of use, however busy the queue is."""
    zqueued = start_zqueued(config(max_waiting=1))
    memory = Memory(zqueued)
    with contextlib.ExitStack() as crowd:
        clients = [
            crowd.enter_context(
                RawPeer(zqueued.frontend(), "DEALER", identity=b"%d" % number, receive_buffer=4096)
            )
            for number in range(20)
        ]
        worker = crowd.enter_context(RawPeer(zqueued.backend(), "DEALER"))
        send_replies(zqueued, worker, clients, count=5, size=LARGEST - 100)
        assert memory.now > KEPT + 20 * MIB
    wait_for(lambda: memory.now < KEPT + OF_PYTHON, "the rest to be given back")
    peers.worker(zqueued.backend())
    with RawPeer(zqueued.frontend(), "DEALER") as client:

        def is_given_back() -> bool:
            # Larger than what is not kept at all, so that the queue is busy.
            client.ask(bytes(3000))
            return memory.now < OF_PYTHON

        wait_for(is_given_back, "what is not needed to be given back")
