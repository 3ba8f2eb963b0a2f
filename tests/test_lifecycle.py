"""A daemon's life: start, signals, what systemd hears, and what may stand in its way."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.engines import on_every_engine
from tests.peers import Peers
from tests.waiting import DEADLINE, wait_for
from tests.zqueued import ONE_QUEUE, Zqueued


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zqueue.cli.zqueued", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=os.environ | environment,
    )


def free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.skipif(
    Path("/etc/zqueue.toml").exists() or not (free(5559) and free(5560)),
    reason="there is an /etc/zqueue.toml, or 5559 and 5560 are in use",
)
def test_without_arguments_and_config_it_serves_5559_and_5560(tmp_path: Path, peers: Peers) -> None:
    environment = {"RUNTIME_DIRECTORY": str(tmp_path)}
    log_path = tmp_path / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "zqueue.cli.zqueued"], stderr=log, env=os.environ | environment
        )
    try:
        wait_for(lambda: "daemon.ready" in log_path.read_text())
        peers.worker("tcp://127.0.0.1:5560")
        assert len(peers.client("tcp://127.0.0.1:5559", requests=9).finish()) == 9
    finally:
        process.terminate()
        assert process.wait(DEADLINE) == 0
    lines = log_path.read_text()
    assert "tcp://*:5559" in lines
    assert "tcp://*:5560" in lines
    assert lines.count("daemon.open_to_anyone") == 1
    assert f"ipc://{tmp_path}/control.sock" in lines


@on_every_engine
class TestTheEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_drains_then_exits_0(
        self, number: signal.Signals, zqueued: Zqueued, peers: Peers
    ) -> None:
        peers.worker(zqueued.backend(), work=1.0)
        client = peers.client(zqueued.frontend(), requests=1)
        wait_for(lambda: zqueued.queue().in_flight == 1)
        assert zqueued.stop(number) == 0
        assert len(client.finish()) == 1
        zqueued.wait_event("daemon.stopping", by=number.name)
        zqueued.wait_event("queue.drained")
        zqueued.wait_event("daemon.stopped")

    def test_a_second_signal_ends_it_at_once(self, zqueued: Zqueued, peers: Peers) -> None:
        peers.worker(zqueued.backend(), work=60)
        peers.client(zqueued.frontend(), requests=1)
        wait_for(lambda: zqueued.queue().in_flight == 1)
        zqueued.process.send_signal(signal.SIGTERM)
        zqueued.wait_event("queue.draining")
        zqueued.process.send_signal(signal.SIGTERM)
        assert zqueued.process.wait(DEADLINE) == 0
        assert zqueued.events("queue.stopped", lost=1)

    def test_a_drain_that_takes_too_long_ends_at_its_timeout(
        self, start_zqueued: StartZqueued, peers: Peers
    ) -> None:
        zqueued = start_zqueued('[daemon]\ndrain_timeout = "300ms"\n' + ONE_QUEUE)
        peers.worker(zqueued.backend(), work=60)
        peers.client(zqueued.frontend(), requests=1)
        wait_for(lambda: zqueued.queue().in_flight == 1)
        assert zqueued.stop() == 0
        zqueued.wait_event("queue.drain_timed_out", in_flight=1)

    def test_nothing_is_left_behind(self, start_zqueued: StartZqueued, tmp_path: Path) -> None:
        zqueued = start_zqueued(f"""
[queues.q]
frontend = "ipc://{tmp_path}/frontend"
backend = "ipc://{tmp_path}/backend"
control = "ipc://{tmp_path}/pair"
capture = "ipc://{tmp_path}/capture"
""")
        assert {path.name for path in tmp_path.iterdir() if path.is_socket()} == {
            "frontend", "backend", "pair", "capture",
        }  # fmt: skip
        assert zqueued.stop() == 0
        sockets = [path for path in tmp_path.rglob("*") if path.is_socket()]
        assert sockets == []


class TestAnother:
    def test_a_second_daemon_is_refused(self, zqueued: Zqueued) -> None:
        done = run("--config", str(zqueued.path))
        assert done.returncode == 1
        assert f"already running, pid {zqueued.process.pid}" in done.stderr
        assert zqueued.queue().state == "running"

    @on_every_engine
    def test_a_killed_daemons_sockets_are_taken_over(
        self, start_zqueued: StartZqueued, tmp_path: Path, peers: Peers
    ) -> None:
        zqueued = start_zqueued(f"""
[queues.default]
frontend = "ipc://{tmp_path}/frontend"
backend = "ipc://{tmp_path}/backend"
""")
        worker = peers.worker(zqueued.backend())
        assert peers.client(zqueued.frontend(), requests=3).finish()
        zqueued.kill()
        assert (tmp_path / "frontend").is_socket()
        zqueued.process = zqueued.spawn()
        zqueued.wait_ready()
        assert len(peers.client(zqueued.frontend(), requests=3).finish()) == 3
        assert len(worker.served) == 6, "the worker came back by itself"

    def test_a_living_ipc_endpoint_is_never_stolen(
        self, tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]
    ) -> None:
        router = context.socket(zmq.ROUTER)
        router.bind(f"ipc://{tmp_path}/frontend")
        config = tmp_path / "zqueue.toml"
        config.write_text(
            f'[control]\nendpoint = "ipc://{tmp_path}/control"\n[queues.q]\n'
            f'frontend = "ipc://{tmp_path}/frontend"\nbackend = "ipc://{tmp_path}/backend"\n'
        )
        done = run("--config", str(config))
        assert done.returncode == 1
        assert "queues.q: " in done.stderr
        assert f"(pid {os.getpid()}) listens there already" in done.stderr
        assert "Traceback" not in done.stderr
        dealer = context.socket(zmq.DEALER)
        dealer.connect(f"ipc://{tmp_path}/frontend")
        dealer.send(b"still there")
        assert router.poll(5000)

    def test_a_port_in_use_names_its_holder(self, tmp_path: Path) -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            port = holder.getsockname()[1]
            config = tmp_path / "zqueue.toml"
            config.write_text(
                f'[control]\nendpoint = "ipc://{tmp_path}/control"\n'
                f'[queues.one]\nfrontend = "tcp://127.0.0.1:{port}"\nbackend = "ipc://*"\n'
                f'[queues.two]\nfrontend = "ipc:///nowhere/x"\nbackend = "ipc://*"\n'
            )
            done = run("--config", str(config))
        assert done.returncode == 1
        assert f"queues.one: tcp://127.0.0.1:{port}: port {port} is in use by" in done.stderr
        assert f"(pid {os.getpid()})" in done.stderr
        assert "queues.two: ipc:///nowhere/x: the folder /nowhere does not exist" in done.stderr


class TestWhatStandsInItsWay:
    def test_a_missing_config(self) -> None:
        done = run("--config", "/nowhere/zqueue.toml")
        assert done.returncode == 78
        assert "/nowhere/zqueue.toml: there is no such file" in done.stderr

    @pytest.mark.parametrize("flags", [(), ("--check",)])
    def test_a_bad_config(self, flags: tuple[str, ...], tmp_path: Path) -> None:
        config = tmp_path / "zqueue.toml"
        config.write_text('[queues.q]\nfrontend = 3\nbackend = "tcp://*"\n')
        done = run(*flags, "--config", str(config))
        assert done.returncode == 78
        assert f"{config}:2: queues.q.frontend: found 3" in done.stderr
        assert f"{config}:3: queues.q.backend: " in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_missing_ipc_folder_is_a_warning_of_check(self, tmp_path: Path) -> None:
        config = tmp_path / "zqueue.toml"
        config.write_text(f'[queues.q]\nfrontend = "ipc://{tmp_path}/no/x"\nbackend = "ipc://*"\n')
        done = run("--check", "--config", str(config))
        assert done.returncode == 0
        assert f"{tmp_path}/no" in done.stderr

    def test_a_control_folder_that_is_missing(self, tmp_path: Path) -> None:
        config = tmp_path / "zqueue.toml"
        config.write_text(f'[control]\nendpoint = "ipc://{tmp_path}/no/control"\n' + ONE_QUEUE)
        done = run("--config", str(config))
        assert done.returncode == 1
        assert f"the folder {tmp_path}/no does not exist" in done.stderr

    def test_usage(self) -> None:
        assert run("--fly").returncode == 2

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
    def test_a_privileged_port_and_a_folder_that_may_not_be_written(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self._try_as_nobody(Path(folder))

    def _try_as_nobody(self, folder: Path) -> None:
        config = (
            f'[control]\nendpoint = "ipc://{folder}/control"\n'
            '[queues.q]\nfrontend = "tcp://127.0.0.1:81"\nbackend = "tcp://127.0.0.1:*"\n'
        )
        folder.chmod(0o777)
        done = self._as_nobody(config)
        if Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text().strip() == "1024":
            assert done.returncode == 1
            assert "port 81 is a privileged port" in done.stderr
        folder.chmod(0o755)
        done = self._as_nobody(config)
        assert done.returncode == 1
        assert f"this user may not write in the folder {folder}" in done.stderr

    def _as_nobody(self, config: str) -> subprocess.CompletedProcess[str]:
        """As nobody, with all modules imported before: they may lie in root's home."""
        code = (
            "import grp, os, pwd, sys, tempfile, pathlib, asyncio, encodings.idna\n"
            "import encodings.utf_8_sig, structlog.dev, zmq.utils.monitor, zqueue.daemon\n"
            "import zqueue.cli.zqueued as zqueued\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "file = tempfile.NamedTemporaryFile(suffix='.toml')\n"
            "pathlib.Path(file.name).write_text(sys.argv.pop())\n"
            "zqueued.main(['--config', file.name])"
        )
        command = [sys.executable, "-c", code, config]
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)


class TestSystemd:
    def test_hears_of_every_step(self, start_zqueued: StartZqueued, tmp_path: Path) -> None:
        heard = Heard(tmp_path / "notify")
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        zqueued = start_zqueued(env=os.environ | environment)
        assert heard.wait("READY=1")
        assert heard.wait("WATCHDOG=1")
        assert heard.wait("STATUS=1 running; 0 requests/s")
        zqueued.ctl("reload")
        messages = heard.wait("RELOADING=1")
        assert "MONOTONIC_USEC=" in messages
        assert heard.wait("READY=1", 2)
        zqueued.ctl("pause")
        assert heard.wait("STATUS=1 paused")
        assert zqueued.stop() == 0
        assert heard.wait("STOPPING=1")
        assert heard.wait("EXTEND_TIMEOUT_USEC=")

    def test_is_not_told_ready_before_every_queue_is_bound(
        self, start_zqueued: StartZqueued, tmp_path: Path
    ) -> None:
        heard = Heard(tmp_path / "notify")
        zqueued = start_zqueued(
            ONE_QUEUE + '[queues.bad]\nfrontend = "ipc:///nowhere/x"\nbackend = "ipc://*"\n',
            ready=False,
            env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        assert zqueued.process.wait(DEADLINE) == 1
        assert "READY=1" not in "\n".join(heard.messages)


class Heard:
    """What a daemon told the socket at ``path``."""

    def __init__(self, path: Path) -> None:
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            self.messages.append(self._socket.recv(65536).decode())

    def wait(self, what: str, times: int = 1) -> str:
        def heard() -> str:
            found = [message for message in list(self.messages) if what in message]
            return found[-1] if len(found) >= times else ""

        return wait_for(heard, f"{what} to systemd")


@on_every_engine
@pytest.mark.parametrize("target", ["/dev/full", "a closed pipe"])
def test_a_stderr_that_takes_nothing_hurts_nobody(
    target: str, start_zqueued: StartZqueued, peers: Peers
) -> None:
    if target == "/dev/full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, descriptor = os.pipe()
        os.close(reading)
    zqueued = start_zqueued(stderr=descriptor)
    os.close(descriptor)
    peers.worker(zqueued.backend())
    assert len(peers.client(zqueued.frontend(), requests=10).finish()) == 10
    assert zqueued.stop() == 0


@on_every_engine
def test_without_descriptors_it_serves_whom_it_has_and_does_not_spin(
    start_zqueued: StartZqueued, peers: Peers, engine: str
) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))

    zqueued = start_zqueued(preexec_fn=few)
    peers.worker(zqueued.backend())
    frontend = zqueued.frontend()
    client = peers.client(frontend)
    wait_for(lambda: client.replies)
    address = ("127.0.0.1", int(frontend.rpartition(":")[2]))
    crowd = []
    for _ in range(300):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(address)
        crowd.append(one)
    zqueued.wait_event("listener.closed_gate", side="frontend")
    seen = len(client.replies)
    wait_for(lambda: len(client.replies) > seen + 100, "those who are in to be served")
    client.stop()
    if engine == "wire":  # libzmq may abort when one more is accepted now
        assert zqueued.ctl("status").returncode == 0, "whoever wants to know why is let in"
    before = zqueued.cpu_seconds()
    threading.Event().wait(1)
    assert zqueued.cpu_seconds() - before < 0.2, "it spins"
    for one in crowd:
        one.close()
    zqueued.wait_event("listener.opened_gate", side="frontend")
    assert len(peers.client(frontend, "late", requests=3).finish()) == 3


@on_every_engine
def test_a_second_shutdown_does_not_hurry_the_first(zqueued: Zqueued, peers: Peers) -> None:
    peers.worker(zqueued.backend(), work=1.5)
    client = peers.client(zqueued.frontend(), requests=1)
    wait_for(lambda: zqueued.queue().in_flight == 1)
    with zqueued.client() as control:
        control.shutdown(wait=False)
        control.shutdown(wait=False)
    assert zqueued.process.wait(DEADLINE) == 0
    assert len(client.finish()) == 1
