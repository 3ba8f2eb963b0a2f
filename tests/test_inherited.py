"""Listening sockets that systemd passes, as a socket unit's or from its descriptor store."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartZqueued
from tests.descriptor_store import Store
from tests.engines import on_every_engine
from tests.passing import passing
from tests.peers import Peers
from tests.waiting import DEADLINE, wait_for
from tests.zqueued import free_port

pytestmark = on_every_engine


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(100)
        yield sock


def endpoint(sock: socket.socket) -> str:
    return "tcp://{}:{}".format(*sock.getsockname())


def config(frontend: str) -> str:
    return f'[queues.default]\nfrontend = "{frontend}"\nbackend = "tcp://127.0.0.1:*"\n'


def test_a_queue_serves_on_the_socket_of_a_socket_unit(
    start_zqueued: StartZqueued, listening: socket.socket, peers: Peers
) -> None:
    zqueued = start_zqueued(config(endpoint(listening)), **passing(("default.frontend", listening)))
    peers.worker(zqueued.backend())
    assert len(peers.client(endpoint(listening), requests=5).finish()) == 5
    # Stopped and started again, it is the same socket: nobody else could have bound it.
    zqueued.ctl("terminate")
    assert zqueued.ctl("start").returncode == 0
    peers.worker(zqueued.backend())
    assert len(peers.client(endpoint(listening), requests=5).finish()) == 5


def test_who_connects_between_two_runs_is_served_by_the_second(
    start_zqueued: StartZqueued, listening: socket.socket, peers: Peers
) -> None:
    backend = socket.socket()
    backend.bind(("127.0.0.1", 0))
    backend.listen()
    text = (
        f'[queues.default]\nfrontend = "{endpoint(listening)}"\nbackend = "{endpoint(backend)}"\n'
    )
    passed = passing(("default.frontend", listening), ("default.backend", backend))
    first = start_zqueued(text, **passed)
    assert first.stop() == 0
    client = peers.client(endpoint(listening), requests=3)
    peers.worker(endpoint(backend))
    second = start_zqueued(text, **passed)
    assert len(client.finish()) == 3
    second.process.kill()
    second.process.wait()
    client = peers.client(endpoint(listening), requests=3)
    start_zqueued(text, **passed)
    assert len(client.finish()) == 3
    backend.close()


@pytest.mark.parametrize("name", ["default.frontend", "other.frontend", "default.capture"])
def test_a_socket_that_the_config_does_not_want_is_a_clear_error(
    name: str, start_zqueued: StartZqueued, listening: socket.socket
) -> None:
    zqueued = start_zqueued(
        config("tcp://127.0.0.1:*" if name != "default.frontend" else "tcp://127.0.0.1:1"),
        ready=False,
        **passing((name, listening)),
    )
    assert zqueued.process.wait(DEADLINE) == 78
    said = zqueued.log_path.read_text()
    assert f"FileDescriptorName={name} listens at {endpoint(listening)}" in said
    assert f"in {zqueued.path}" in said
    assert "ListenStream=" in said
    assert "Traceback" not in said


def test_a_reload_that_moves_the_port_of_a_socket_unit_is_refused(
    start_zqueued: StartZqueued, listening: socket.socket
) -> None:
    zqueued = start_zqueued(config(endpoint(listening)), **passing(("default.frontend", listening)))
    zqueued.write(config("tcp://127.0.0.2:*"))
    done = zqueued.ctl("reload")
    assert done.returncode == 1
    assert "FileDescriptorName=default.frontend listens at" in done.stderr
    assert zqueued.queue().state == "running"


def test_the_control_socket_can_be_passed_too(start_zqueued: StartZqueued, tmp_path: Path) -> None:
    control = socket.socket(socket.AF_UNIX)
    control.bind(str(tmp_path / "passed.sock"))
    control.listen()
    zqueued = start_zqueued(
        f'[control]\nendpoint = "ipc://{tmp_path}/passed.sock"\n' + config("tcp://127.0.0.1:*"),
        ready=False,
        **passing(("control", control)),
    )
    zqueued.control = f"ipc://{tmp_path}/passed.sock"
    zqueued.wait_ready()
    assert zqueued.ctl("status").returncode == 0
    assert zqueued.stop() == 0
    assert (tmp_path / "passed.sock").is_socket(), "it is systemd's"
    control.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store(tmp_path / "notify")) as store:
        yield store


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_what_it_bound_itself_is_kept_for_the_next_run(
    end: str, start_zqueued: StartZqueued, peers: Peers, store: Store
) -> None:
    text = config(f"tcp://127.0.0.1:{free_port()}")
    first = store.start(start_zqueued, text)
    frontend, backend = first.frontend(), first.backend()
    wait_for(lambda: len(store.read()) == 2)
    getattr(first, end)()
    assert len(store.read()) == 2
    # Nobody is refused: the kernel takes the connection, and the next run serves it.
    with socket.create_connection(("127.0.0.1", int(frontend.rpartition(":")[2]))):
        pass
    peers.worker(backend)
    client = peers.client(frontend, requests=3)
    second = store.start(start_zqueued, text)
    assert second.frontend() == frontend
    assert len(client.finish()) == 3


def test_what_is_closed_is_kept_no_longer(start_zqueued: StartZqueued, store: Store) -> None:
    port = free_port()
    zqueued = store.start(start_zqueued, config(f"tcp://127.0.0.1:{port}"))
    wait_for(lambda: len(store.read()) == 2)
    zqueued.ctl("terminate")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "its ports are closed"
    # Before systemd has let go of its duplicates the same ports can be had again.
    assert zqueued.ctl("start").returncode == 0
    zqueued.stop()
    expected = {"default.frontend", "default.backend"}
    wait_for(lambda: {name.split("/")[1] for name, _ in store.read()} == expected)


def test_what_the_next_run_does_not_want_is_given_up(
    start_zqueued: StartZqueued, store: Store
) -> None:
    port = free_port()
    first = store.start(start_zqueued, config(f"tcp://127.0.0.1:{port}"))
    wait_for(lambda: len(store.read()) == 2)
    first.stop()
    second = store.start(start_zqueued, config("ipc://*"))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    wait_for(lambda: not [name for name, _ in store.read() if "frontend" in name])
    assert second.queue().state == "running"


def test_descriptors_that_are_no_listening_sockets_are_left_alone(
    start_zqueued: StartZqueued,
) -> None:
    with socket.socket() as idle:
        zqueued = start_zqueued(**passing(("memory", idle)))
        assert zqueued.queue().state == "running"


def test_listen_pid_of_another_process_is_ignored(
    start_zqueued: StartZqueued,
) -> None:
    environment = os.environ | {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    assert start_zqueued(env=environment).queue().state == "running"
    assert subprocess.call([sys.executable, "-c", "pass"], env=environment) == 0
