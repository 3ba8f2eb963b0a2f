"""Neither side of a queue keeps the other out, whichever limit its connections have reached."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator

import pytest

from tests.conftest import StartZqueued
from tests.engines import on_every_engine, on_wire
from tests.peers import Peers
from tests.waiting import wait_for
from tests.wire.raw import RawPeer, address
from tests.zqueued import ONE_QUEUE, Zqueued

FEW = 512


@contextlib.contextmanager
def crowd(endpoint: str, size: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing; those that are not accepted wait in the kernel, or try on."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(size):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(address(endpoint))
            sockets.append(one)
        yield sockets


def has_shut_out(zqueued: Zqueued, side: str) -> bool:
    shut = zqueued.events("listener.closed_gate", side=side)
    return len(shut) > len(zqueued.events("listener.opened_gate", side=side))


@on_wire
@pytest.mark.parametrize("most", [2, 4, 40])
def test_clients_do_not_keep_the_only_worker_out(
    start_zqueued: StartZqueued, peers: Peers, most: int
) -> None:
    zqueued = start_zqueued(ONE_QUEUE + f"max_connections = {most}\n")
    with (
        RawPeer(zqueued.frontend(), "DEALER") as client,
        crowd(zqueued.frontend(), most + 5),
    ):
        event = zqueued.wait_event("listener.closed_gate", side="frontend")
        assert event["limit"] == most
        assert 0 < event["connections"] < most
        assert not has_shut_out(zqueued, "backend")
        for _ in range(2):
            worker = peers.worker(zqueued.backend())
            assert client.ask(b"served").endswith(b"served")
            worker.stop()
            wait_for(lambda: zqueued.queue().workers.connected == 0)
        counted = zqueued.queue()
        assert counted.clients.connected + counted.clients.rejected <= most


@on_wire
@pytest.mark.parametrize("most", [2, 40])
def test_workers_do_not_keep_the_only_client_out(
    start_zqueued: StartZqueued, peers: Peers, most: int
) -> None:
    zqueued = start_zqueued(ONE_QUEUE + f"max_connections = {most}\n")
    with RawPeer(zqueued.backend(), "REP") as worker, crowd(zqueued.backend(), most + 5):
        zqueued.wait_event("listener.closed_gate", side="backend")
        with RawPeer(zqueued.frontend(), "REQ") as client:
            client.send(b"", b"served")
            assert worker.serve(1) == [b"served"]
            assert client.receive() == [b"", b"served"]


@on_wire
def test_so_many_are_kept_as_the_config_says(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(ONE_QUEUE + "max_connections = 20\nreserved_for_workers = 15\n")
    with crowd(zqueued.frontend(), 20):
        event = zqueued.wait_event("listener.closed_gate", side="frontend")
        assert event["connections"] == 5
        with contextlib.ExitStack() as workers:
            for _ in range(15):
                workers.enter_context(RawPeer(zqueued.backend(), "REP"))
            wait_for(lambda: zqueued.queue().workers.connected == 15)
            assert not has_shut_out(zqueued, "backend")


@on_wire
def test_of_one_address_clients_and_workers_are_counted_apart(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    one_queue = ONE_QUEUE.replace("127.0.0.1", "0.0.0.0")
    zqueued = start_zqueued(one_queue + "max_connections_per_address = 2\n")
    port = address(zqueued.frontend())[1]
    frontend = f"tcp://127.0.0.1:{port}"
    with RawPeer(frontend, "DEALER") as client, crowd(frontend, 5):
        zqueued.wait_event("peer.rejected", side="frontend")
        peers.worker(f"tcp://127.0.0.1:{address(zqueued.backend())[1]}")
        assert client.ask(b"served").endswith(b"served")


@on_every_engine
def test_nor_where_descriptors_have_run_out(start_zqueued: StartZqueued, peers: Peers) -> None:
    """The control socket has still other ones."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW))

    zqueued = start_zqueued(preexec_fn=few)
    with RawPeer(zqueued.frontend(), "DEALER") as client, contextlib.ExitStack() as crowds:
        many: list[socket.socket] = []

        def shut_out() -> bool:
            # A few at a time: libzmq accepts ahead of whoever watches it.
            many.extend(crowds.enter_context(crowd(zqueued.frontend(), 10)))
            return has_shut_out(zqueued, "frontend")

        wait_for(shut_out, "clients to be kept out")
        for _ in range(3):
            worker = peers.worker(zqueued.backend())
            assert client.ask(b"served").endswith(b"served")
            worker.stop()
            wait_for(lambda: zqueued.queue().workers.connected == 0)
        assert not has_shut_out(zqueued, "backend")
        for one in many:
            one.close()
        wait_for(lambda: not has_shut_out(zqueued, "frontend"), "clients to be let in again")
    peers.worker(zqueued.backend())
    peers.client(zqueued.frontend(), requests=1).finish()
