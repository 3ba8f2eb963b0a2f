"""Events on a PUB socket: what a SUB gets, and what becomes of one that does not read."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import socket
import stat
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.waiting import DEADLINE, wait_for
from tests.zqueued import ONE_QUEUE, Zqueued, free_port
from zqueue.control import messages
from zqueue.engine.wire import support

TWO_QUEUES = ONE_QUEUE.replace("default", "orders") + ONE_QUEUE.replace("default", "orders2")
DOCS = Path(__file__).parent.parent / "docs" / "events.md"


def published(endpoint: str = "tcp://127.0.0.1:*", level: str = "info") -> str:
    return f'[events]\npublish = "{endpoint}"\nlevel = "{level}"\n'


class Subscriber:
    """A SUB at where a daemon publishes now."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], zqueued: Zqueued, *topics: str
    ) -> None:
        self._zqueued = zqueued
        self.socket = context.socket(zmq.SUB)
        self.socket.set(zmq.RCVHWM, 0)
        self.socket.connect(zqueued.wait_event("events.publishing")["endpoint"])
        for topic in topics or ("",):
            self.socket.subscribe(topic)

    def joined(self) -> Subscriber:
        """Wait until what it subscribes to is known there, and read what was sent to find out."""
        self.socket.subscribe("log.level_changed ")
        with self._zqueued.client() as control:

            def heard() -> int:
                control.log_level("info")
                control.log_level("debug")
                return self.socket.poll(100)

            wait_for(heard, "a first event")
            [last] = control.events(names=["log.level_changed"], recent=1, follow=False)
        while json.loads(self.recv()[1])["time"] != last.time:
            pass
        self.socket.unsubscribe("log.level_changed ")
        return self

    def recv(self) -> tuple[str, str]:
        assert self.socket.poll(int(DEADLINE * 1000)), "nothing was published"
        topic, event = self.socket.recv_multipart()
        return topic.decode(), event.decode()

    def until(self, name: str) -> list[tuple[str, str]]:
        """All that comes up to the next event of this name."""
        found = [self.recv()]
        while not found[-1][0].startswith(f"{name} "):
            found.append(self.recv())
        return found


Context = zmq.Context[zmq.Socket[bytes]]


# -- what is published -------------------------------------------------------------------------


def test_nothing_is_published_where_the_config_does_not_say_so(zqueued: Zqueued) -> None:
    assert zqueued.events("events.publishing") == []


def test_it_is_what_the_control_socket_tells(start_zqueued: StartZqueued, context: Context) -> None:
    zqueued = start_zqueued(published() + TWO_QUEUES)
    subscriber = Subscriber(context, zqueued).joined()
    with zqueued.client() as follower, zqueued.client() as control:
        events = follower.events(level="info")
        control.pause("orders")
        zqueued.ctl("pause", "nobody")
        control.reload()
        told = [next(events) for _ in range(3)]
    for (topic, said), event in zip(subscriber.until("config.reloaded"), told, strict=True):
        assert topic == f"{event.name} {event.queue} " if event.queue else f"{event.name} "
        ours = event.model_dump(mode="json", exclude={"v", "id", "kind", "dropped"})
        assert json.loads(said) == ours
        assert messages.Happened.model_validate_json(said).name == event.name
        assert list(json.loads(said)) == ["name", "level", "time", "queue", "message", "fields"]
    assert [event.name for event in told] == [
        "queue.paused",
        "control.refused",
        "config.reloaded",
    ]


def test_a_topic_names_whole_words(start_zqueued: StartZqueued, context: Context) -> None:
    zqueued = start_zqueued(published() + TWO_QUEUES)
    paused = Subscriber(context, zqueued, "queue.paused orders ").joined()
    every = Subscriber(context, zqueued, "queue.").joined()
    for verb in ("pause", "resume"):
        for queue in ("orders2", "orders"):
            zqueued.ctl(verb, queue)
    zqueued.ctl("pause", "orders")
    said = [topic for topic, _ in [every.recv() for _ in range(5)]]
    assert said == [
        "queue.paused orders2 ",
        "queue.paused orders ",
        "queue.running orders2 ",
        "queue.running orders ",
        "queue.paused orders ",
    ]
    assert [paused.recv()[0], paused.recv()[0]] == ["queue.paused orders "] * 2
    assert not paused.socket.poll(0)


@pytest.mark.parametrize("level", ["debug", "warning"])
def test_the_least_level(start_zqueued: StartZqueued, context: Context, level: str) -> None:
    zqueued = start_zqueued(published() + ONE_QUEUE)
    subscriber = Subscriber(context, zqueued, "queue.", "control.").joined()
    endpoint = zqueued.wait_event("events.publishing")["endpoint"]
    zqueued.write(published(level=level) + ONE_QUEUE)
    assert zqueued.ctl("reload").returncode == 0
    zqueued.ctl("terminate")
    zqueued.ctl("start")
    zqueued.ctl("pause", "nobody")
    levels = {json.loads(said)["level"] for _, said in subscriber.until("control.refused")}
    assert levels == ({"debug", "info", "warning"} if level == "debug" else {"warning"})
    assert zqueued.events("events.publishing")[-1]["endpoint"] == endpoint, "it was not moved"


def test_the_example_of_the_docs(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(published() + ONE_QUEUE)
    endpoint = zqueued.wait_event("events.publishing")["endpoint"]
    [code] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
    code = code.replace("tcp://127.0.0.1:9561", endpoint)
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True
    ) as example:
        output = example.stdout
        assert output is not None
        try:
            with zqueued.client() as control:

                def heard() -> bool:
                    control.pause()
                    control.resume()
                    return bool(select.select([output], [], [], 0.1)[0])

                wait_for(heard, "the example to hear of it")
            assert "default" in output.readline()
        finally:
            example.kill()


def test_the_end_is_published(start_zqueued: StartZqueued, context: Context) -> None:
    zqueued = start_zqueued(published() + ONE_QUEUE)
    subscriber = Subscriber(context, zqueued).joined()
    assert zqueued.stop() == 0
    assert [topic for topic, _ in subscriber.until("queue.stopped")] == [
        "daemon.stopping ",
        "queue.draining default ",
        "queue.paused default ",
        "queue.drained default ",
        "queue.stopped default ",
    ]


# -- bad subscribers ---------------------------------------------------------------------------


def test_one_who_does_not_read_costs_nobody_anything(
    start_zqueued: StartZqueued, context: Context, tmp_path: Path
) -> None:
    context.set(zmq.MAX_SOCKETS, 2000)
    # What one address causes again and again is told at this level.
    zqueued = start_zqueued(published(f"ipc://{tmp_path}/events", "debug") + ONE_QUEUE)
    deaf = Subscriber(context, zqueued).joined()
    deaf.socket.close(0)
    deaf.socket = context.socket(zmq.SUB)
    deaf.socket.set_hwm(1)
    deaf.socket.connect(f"ipc://{tmp_path}/events")
    deaf.socket.subscribe("")
    reader = Subscriber(context, zqueued, "peer.connected", "peer.disconnected").joined()
    crowd, rounds = 200, 15
    endpoint = zqueued.frontend()
    for _ in range(rounds):
        clients = [context.socket(zmq.DEALER) for _ in range(crowd)]
        for client in clients:
            client.connect(endpoint)
        topics = [reader.recv()[0] for _ in range(crowd)]
        for client in clients:
            client.close(0)
        topics += [reader.recv()[0] for _ in range(crowd)]
        assert (
            topics == ["peer.connected default "] * crowd + ["peer.disconnected default "] * crowd
        )
    assert zqueued.ctl("pause").returncode == 0
    missed = 2 * crowd * rounds
    while deaf.socket.poll(500):
        missed -= deaf.socket.recv_multipart()[0].startswith(b"peer.")
    assert missed > 0, "what it did not read was not kept for it"
    assert zqueued.status().slow_subscribers == 1
    assert "a subscriber of [events] publish missed events, 1 time" in zqueued.ctl("doctor").stdout


def test_rubbish_costs_nobody_anything(start_zqueued: StartZqueued, context: Context) -> None:
    zqueued = start_zqueued(published() + ONE_QUEUE)
    subscriber = Subscriber(context, zqueued).joined()
    host, _, port = zqueued.wait_event("events.publishing")["endpoint"][6:].partition(":")
    with socket.create_connection((host, int(port))) as rubbish:
        rubbish.sendall(os.urandom(10_000))
        greedy = context.socket(zmq.XSUB)
        greedy.connect(f"tcp://{host}:{port}")
        greedy.send(b"\x01" + b"x" * 100_000)
        greedy.send(b"no subscription")
        zqueued.ctl("pause")
        assert subscriber.recv()[0] == "queue.paused default "
    assert zqueued.events("daemon.error") == []


def test_subscribers_without_number_do_not_use_up_the_descriptors(
    start_zqueued: StartZqueued,
) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))

    zqueued = start_zqueued(published() + ONE_QUEUE, preexec_fn=few)
    host, _, port = zqueued.wait_event("events.publishing")["endpoint"][6:].partition(":")
    crowd: list[socket.socket] = []
    with contextlib.suppress(TimeoutError):  # they are kept out now, and wait in the kernel
        while len(crowd) < 900:
            crowd.append(socket.create_connection((host, int(port)), timeout=2))
    zqueued.wait_event("listener.closed_gate", side="events")
    assert zqueued.ctl("pause").returncode == 0
    for one in crowd:
        one.close()
    zqueued.wait_event("listener.opened_gate", side="events")


def test_probes_while_it_comes_and_goes_do_not_end_the_daemon(
    start_zqueued: StartZqueued,
) -> None:
    port = free_port()
    publishing = published(f"tcp://127.0.0.1:{port}") + ONE_QUEUE
    zqueued = start_zqueued(publishing)
    done = threading.Event()

    def probe() -> None:
        probes: deque[socket.socket] = deque(maxlen=5)
        while not done.wait(0.005):
            with contextlib.suppress(OSError):
                probes.append(socket.create_connection(("127.0.0.1", port), timeout=1))
                probes[-1].sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(60))
            if len(probes) == probes.maxlen:
                probes.popleft().close()

    probing = threading.Thread(target=probe)
    probing.start()
    try:
        with zqueued.client() as control:
            for _ in range(100):
                zqueued.write(ONE_QUEUE)
                control.reload()
                zqueued.write(publishing)
                control.reload()
    finally:
        done.set()
        probing.join()
    assert zqueued.process.poll() is None


# -- where -------------------------------------------------------------------------------------


def test_an_ipc_path(start_zqueued: StartZqueued, context: Context, tmp_path: Path) -> None:
    path = tmp_path / "events"
    zqueued = start_zqueued(published(f"ipc://{path}") + ONE_QUEUE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    subscriber = Subscriber(context, zqueued).joined()
    zqueued.ctl("pause")
    assert subscriber.recv()[0] == "queue.paused default "
    assert zqueued.stop() == 0
    assert not path.exists()


def test_an_endpoint_in_use_is_told(start_zqueued: StartZqueued, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        zqueued = start_zqueued(published(f"tcp://127.0.0.1:{port}") + ONE_QUEUE, ready=False)
        assert zqueued.process.wait(DEADLINE) == 1
    said = zqueued.log_path.read_text()
    assert f"events.publish: tcp://127.0.0.1:{port}: port {port} is in use by " in said
    assert f"(pid {os.getpid()})" in said


def test_a_reload_moves_it(start_zqueued: StartZqueued, context: Context, tmp_path: Path) -> None:
    zqueued = start_zqueued(ONE_QUEUE)
    port = free_port()
    for number, endpoint in enumerate(
        (
            f"tcp://127.0.0.1:{port}",
            f"tcp://*:{port}",
            f"ipc://{tmp_path}/events",
            f"tcp://127.0.0.1:{port}",
        ),
        1,
    ):
        zqueued.write(published(endpoint) + ONE_QUEUE)
        done = zqueued.ctl("reload")
        assert done.returncode == 0, done.stderr
        assert "needs a restart" not in done.stdout
        zqueued.wait_events("events.publishing", number)
        subscriber = Subscriber(context, zqueued, "queue.").joined()
        zqueued.ctl("pause")
        assert subscriber.recv()[0] == "queue.paused default "
        zqueued.ctl("resume")
    assert len(zqueued.events("daemon.open_to_anyone")) == 1
    assert not (tmp_path / "events").exists()
    zqueued.write(ONE_QUEUE)
    assert zqueued.ctl("reload").returncode == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert zqueued.ctl("pause").returncode == 0


def test_a_reload_that_is_refused_moves_nothing(
    start_zqueued: StartZqueued, context: Context
) -> None:
    first = free_port()
    metrics = '[metrics]\nlisten = "127.0.0.1:{}"\n'
    zqueued = start_zqueued(published(f"tcp://127.0.0.1:{first}") + ONE_QUEUE)
    free = free_port()  # not before: its queue might get that one
    subscriber = Subscriber(context, zqueued, "queue.").joined()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = ONE_QUEUE.replace("127.0.0.1:*", f"127.0.0.1:{port}", 1)
        for config, told in (
            (
                published(f"tcp://127.0.0.1:{port}") + ONE_QUEUE,
                f"events.publish: tcp://127.0.0.1:{port}",
            ),
            (
                metrics.format(free) + published(f"tcp://127.0.0.1:{port}") + ONE_QUEUE,
                "events.publish",
            ),
            (published(f"tcp://127.0.0.1:{free}") + taken, "queues.default"),
            (
                published(f"tcp://127.0.0.1:{first}") + metrics.format(first),
                "taken by events.publish",
            ),
        ):
            zqueued.write(config)
            done = zqueued.ctl("reload")
            assert (done.returncode, told in done.stderr) == (1, True), done.stderr
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", free))
    zqueued.ctl("pause")
    assert subscriber.recv()[0] == "queue.paused default "


@pytest.mark.skipif(bool(support.missing()), reason="the libzmq engine hands nothing over")
@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:*", "ipc://{folder}/events"])
def test_it_is_handed_over(
    start_zqueued: StartZqueued, context: Context, tmp_path: Path, endpoint: str
) -> None:
    zqueued = start_zqueued(published(endpoint.format(folder=tmp_path)) + ONE_QUEUE)
    subscriber = Subscriber(context, zqueued, "queue.").joined()
    before, where = zqueued.process.pid, zqueued.wait_event("events.publishing")["endpoint"]
    assert zqueued.upgrade().returncode == 0
    wait_for(lambda: before not in zqueued.pids(), "the old process to be gone")
    zqueued.wait_events("events.publishing", 2)
    assert zqueued.wait_event("events.publishing")["endpoint"] == where
    subscriber.joined()
    zqueued.ctl("pause")
    assert subscriber.until("queue.paused")
