"""Endpoints that a queue connects to: tried until they are there, and again when they have gone."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.engines import on_every_engine
from tests.peers import Peers
from tests.waiting import wait_for
from tests.zqueued import free_port, has_ipv6

pytestmark = on_every_engine

CONFIG = """
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = {{ connect = "{endpoint}", reconnect = "10ms", reconnect_max = "50ms" }}
"""


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://localhost:{port}", "tcp://[::1]:{port}", "ipc://{folder}/s", "ipc://@{name}"],
)
def test_a_server_that_comes_late_and_comes_again(
    endpoint: str,
    start_zqueued: StartZqueued,
    peers: Peers,
    context: zmq.Context[zmq.Socket[bytes]],
    tmp_path: Path,
) -> None:
    if "::1" in endpoint and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    endpoint = endpoint.format(port=free_port(), folder=tmp_path, name=tmp_path.name)
    bound = endpoint.replace("localhost", "127.0.0.1")
    zqueued = start_zqueued(CONFIG.format(endpoint=endpoint))
    zqueued.wait_events("peer.connect_retried", 3)
    for _ in range(3):
        client = peers.client(zqueued.frontend(), requests=10)
        server = context.socket(zmq.REP)
        server.linger = 1000
        server.ipv6 = "[" in bound
        server.bind(bound)
        for _ in range(10):
            server.send(b"yes:" + server.recv())
        assert len(client.finish()) == 10
        server.close()
        wait_for(lambda: zqueued.queue().workers.connected == 0)


def test_clients_behind_several_brokers_that_this_one_connects_to(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    near = [start_zqueued() for _ in range(3)]
    far = start_zqueued(f"""
[queues.default]
frontend = {{ connect = {[each.backend() for each in near]} }}
backend = "tcp://127.0.0.1:*"
""")
    peers.worker(far.backend())
    clients = [peers.client(each.frontend(), requests=20) for each in near]
    assert [len(each.finish()) for each in clients] == [20, 20, 20]
    wait_for(lambda: far.queue().requests.messages == 60)


def test_a_name_that_is_known_nowhere_is_tried_on(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(CONFIG.format(endpoint="tcp://no-such-host.invalid:5"))
    assert zqueued.queue().state == "running"
    assert zqueued.ctl("terminate").returncode == 0


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("tcp://127.0.0.1:{port}", "Connection refused"),
        ("ipc://{folder}/mistyped", "No such file or directory"),
        ("tcp://nobody.invalid:5555", "name"),
    ],
)
def test_an_endpoint_that_does_not_come_up_is_told(
    endpoint: str, why: str, start_zqueued: StartZqueued, tmp_path: Path
) -> None:
    endpoint = endpoint.format(port=free_port(), folder=tmp_path)
    zqueued = start_zqueued(CONFIG.format(endpoint=endpoint))
    warned = zqueued.wait_event("peer.connect_retried", level="warning")
    assert why in warned["error"]
    zqueued.wait_events("peer.connect_retried", 12)
    assert len(zqueued.events("peer.connect_retried", level="warning")) == 1
    assert why in zqueued.queue().not_connected[endpoint]
    assert f"{endpoint} cannot be connected to: " in zqueued.ctl("status").stdout
    shown = zqueued.ctl("doctor").stdout
    assert f"{endpoint} cannot be connected to: " in shown
    assert "connect to connect" not in shown


def _binds(sock: zmq.Socket[bytes], endpoint: str) -> bool:
    try:
        sock.bind(endpoint)
    except zmq.ZMQError:
        return False
    return True


def _publisher(sock: zmq.Socket[bytes]) -> None:
    """Its type does not fit."""


def _closed_by_curve(sock: zmq.Socket[bytes]) -> None:
    sock.curve_secretkey = zmq.curve_keypair()[1]
    sock.curve_server = True


def _closed_by_plain(sock: zmq.Socket[bytes]) -> None:
    sock.plain_server = True


@pytest.mark.parametrize(
    ("type", "made"),
    [
        (zmq.PUB, _publisher),
        (zmq.REP, _closed_by_curve),
        (zmq.REP, _closed_by_plain),
    ],
)
def test_an_endpoint_where_something_else_is(
    type: int,
    made: Callable[[zmq.Socket[bytes]], None],
    start_zqueued: StartZqueued,
    peers: Peers,
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    """Whatever was there, what is there later is connected to."""
    with context.socket(type) as other:
        made(other)
        port = other.bind_to_random_port("tcp://127.0.0.1")
        endpoint = f"tcp://127.0.0.1:{port}"
        zqueued = start_zqueued(CONFIG.format(endpoint=endpoint))
        zqueued.wait_event("peer.connect_retried", level="warning")
        assert zqueued.queue().not_connected[endpoint]
    with context.socket(zmq.REP) as right:
        right.linger = 0
        wait_for(lambda: _binds(right, endpoint), "the other socket to be closed")
        wait_for(lambda: zqueued.queue().workers.connected == 1)
        wait_for(lambda: not zqueued.queue().not_connected)
        client = peers.client(zqueued.frontend(), requests=1)
        assert right.poll(10_000)
        right.send(b"yes:" + right.recv())
        assert len(client.finish()) == 1


def test_an_endpoint_where_a_worker_says_more_than_it_may(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """It fits, and is cut off each time that it has said that."""
    config = CONFIG.replace(" }}", ', max_message_size = "100B" }}')
    with context.socket(zmq.DEALER) as other:
        port = other.bind_to_random_port("tcp://127.0.0.1")
        zqueued = start_zqueued(config.format(endpoint=f"tcp://127.0.0.1:{port}"))
        for times in range(1, 4):
            assert other.poll(10_000, zmq.POLLOUT)
            other.send(bytes(2 << 20))
            zqueued.wait_events("peer.disconnected", times)


def test_an_endpoint_where_a_web_server_is(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as web:
        endpoint = f"tcp://127.0.0.1:{web.getsockname()[1]}"
        zqueued = start_zqueued(CONFIG.format(endpoint=endpoint))
        for _ in range(7):
            with web.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        zqueued.wait_event("peer.connect_retried", level="warning")
    with context.socket(zmq.REP) as right:
        right.linger = 0
        wait_for(lambda: _binds(right, endpoint), "the other socket to be closed")
        wait_for(lambda: zqueued.queue().workers.connected == 1)
