"""A new process takes over from the old one; who is connected notices no more than a pause."""

from __future__ import annotations

import os
import signal
import socket
import stat
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.crowd import CrowdProcess, assert_undisturbed
from tests.peers import Peers
from tests.waiting import wait_for
from tests.wire.raw import hello
from tests.zqueued import Zqueued
from zqueue.control.client import Refused
from zqueue.engine.wire import support

pytestmark = pytest.mark.skipif(
    bool(support.missing()), reason="the libzmq engine has no connections to hand over"
)

HANDOVERS = int(os.environ.get("ZQUEUE_TEST_HANDOVERS", "5"))

START = """#!{python}
import os, signal, sys, time
import zqueue
from zqueue import engine, handover, upgrade
from zqueue.cli.zqueued import main

{changed}
main(prog_name="zqueued")
"""

ONE_QUEUE = """
[queues.default]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
{more}
"""

StartCrowd = Callable[..., CrowdProcess]


@pytest.fixture
def start_crowd() -> Iterator[StartCrowd]:
    crowds: list[CrowdProcess] = []

    def start(zqueued: Zqueued, **options: float) -> CrowdProcess:
        crowds.append(CrowdProcess(zqueued.frontend(), zqueued.backend(), **options))
        return crowds[-1].wait_ready()

    yield start
    for crowd in crowds:
        crowd.kill()


class Installed:
    """A zqueued that is installed somewhere, as which another can be installed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "zqueued"
        self.change("")

    def change(self, changed: str) -> None:
        """Install a version that differs in this from what is in this tree."""
        new = self.path.with_suffix(".new")
        new.write_text(START.format(python=sys.executable, changed=changed))
        new.chmod(0o755)
        new.replace(self.path)


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path)


def upgrade(zqueued: Zqueued) -> int:
    """Hand over; the pid of the new process, once it serves and the old one has gone."""
    before = zqueued.status().pid
    with zqueued.client() as control:
        taken = control.upgrade()
    wait_for(lambda: zqueued.pids() == [taken.pid], "the old process to be gone")
    assert zqueued.status().pid == taken.pid != before
    return taken.pid


# -- all goes well -----------------------------------------------------------------------------


def test_nobody_notices_more_than_a_pause(
    start_zqueued: StartZqueued, start_crowd: StartCrowd, tmp_path: Path
) -> None:
    text = ONE_QUEUE.format(more="").replace(
        'backend = "tcp://127.0.0.1:*"',
        f'backend = {{ bind = ["tcp://127.0.0.1:*", "ipc://{tmp_path}/w"] }}',
    )
    zqueued = start_zqueued(text)
    crowd = start_crowd(zqueued, clients=20, pause=0.002)
    on_ipc = CrowdProcess(zqueued.frontend(), f"ipc://{tmp_path}/w", clients=2).wait_ready()
    for _ in range(HANDOVERS):
        upgrade(zqueued)
    with zqueued.client() as control:
        queue = control.status().queues[0]
    assert (queue.clients.accepted, queue.clients.disconnected) == (22, 0)
    for each in (crowd, on_ipc):
        noticed = each.finish()
        print(f"{noticed['replies']} replies, the longest took {noticed['longest']} s")
        assert_undisturbed(noticed)
    wait_for(lambda: not zqueued.queue().clients.connected)
    queue = zqueued.queue()
    assert queue.ends is not None
    assert queue.requests.messages == queue.ends.replied == queue.replies.messages


def test_a_caller_notices_nothing(start_zqueued: StartZqueued) -> None:
    """Whoever asks just then is answered, by the one or by the other."""
    zqueued = start_zqueued(ONE_QUEUE.format(more=""))
    enough = threading.Event()
    failures: list[str] = []
    asked = [0]

    def ask() -> None:
        while not enough.is_set():
            try:
                with zqueued.client() as control:
                    control.status()
                    control.resume()
                asked[0] += 1
            except Exception as error:
                failures.append(str(error))

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    for _ in range(HANDOVERS):
        before = asked[0]
        upgrade(zqueued)
        wait_for(lambda before=before: asked[0] > before + 8)  # type: ignore[misc]
    enough.set()
    for caller in callers:
        caller.join()
    assert failures == []


def test_the_command_says_what_became_of_it(
    start_zqueued: StartZqueued, start_crowd: StartCrowd
) -> None:
    zqueued = start_zqueued(ONE_QUEUE.format(more=""))
    crowd = start_crowd(zqueued, clients=2, workers=1, pause=0.01)
    done = zqueued.upgrade()
    assert done.returncode == 0, done.stderr
    pid = zqueued.status().pid
    assert f"pid {pid}, has taken up 3 connections after a pause of " in done.stdout
    assert zqueued.process.wait(20) == 0
    assert_undisturbed(crowd.finish())
    zqueued.wait_event("handover.begins", to=f"pid {pid}", queues=["default"], by="0/root")
    zqueued.wait_event("handover.done", connections=3)
    zqueued.wait_event("handover.taken_up", connections=3)
    zqueued.wait_event("queue.taken_up", clients=2, workers=1)


def test_what_waits_and_what_is_in_flight_goes_along(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    zqueued = start_zqueued(ONE_QUEUE.format(more="prefetch = 1"))
    clients = [peers.client(zqueued.frontend(), f"c{n}", requests=1) for n in range(5)]
    wait_for(lambda: zqueued.queue().waiting == 5)
    worker = peers.worker(zqueued.backend(), work=1.0)
    wait_for(lambda: (zqueued.queue().in_flight, zqueued.queue().waiting) == (1, 4))
    upgrade(zqueued)
    for client in clients:
        assert len(client.finish()) == 1
    assert len(worker.served) == len(set(worker.served)) == 5


def test_clients_that_are_held_back_all_get_their_turn(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]], peers: Peers
) -> None:
    """Whose turn it was is not handed over: what each has sent waits in the kernel."""
    each = 200
    zqueued = start_zqueued(ONE_QUEUE.format(more="max_waiting = 4\nprefetch = 1"))
    clients = [context.socket(zmq.DEALER) for _ in range(6)]
    for client in clients:
        client.connect(zqueued.frontend())
        for number in range(each):
            client.send_multipart([b"", b"%d" % number])
    wait_for(lambda: zqueued.queue().waiting == 4)
    peers.worker(zqueued.backend(), work=0.002)
    for _ in range(3):
        done = zqueued.queue().replies.messages
        upgrade(zqueued)
        # On a slow machine all may be done by now.
        enough = min(done + 1, each * len(clients))
        wait_for(partial(has_replied, zqueued, enough), "the queue to go on")
    for client in clients:
        got = [client.recv_multipart()[-1] for _ in range(each) if client.poll(20_000)]
        assert [reply.rpartition(b":")[2] for reply in got] == [b"%d" % n for n in range(each)]


def has_replied(zqueued: Zqueued, times: int) -> bool:
    return zqueued.queue().replies.messages >= times


def test_the_hand_over_is_no_activity(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(ONE_QUEUE.format(more=""))
    peers.worker(zqueued.backend())
    assert len(peers.client(zqueued.frontend(), requests=1).finish()) == 1
    wait_for(lambda: zqueued.queue().replies.messages == 1)
    last_activity = zqueued.queue().last_activity
    upgrade(zqueued)
    assert zqueued.queue().last_activity == last_activity


def test_a_reply_is_kept_for_a_client_that_is_away(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    zqueued = start_zqueued(ONE_QUEUE.format(more='client_grace = "60s"'))
    rep = context.socket(zmq.REP)
    rep.connect(zqueued.backend())
    client = asking(context, zqueued)
    assert rep.recv() == b"question"
    client.close(0)
    wait_for(lambda: not zqueued.queue().clients.connected)
    rep.send(b"answer")
    wait_for(lambda: zqueued.queue().kept)
    upgrade(zqueued)
    assert zqueued.queue().kept == 1
    again = context.socket(zmq.DEALER)
    again.set(zmq.IDENTITY, b"me")
    again.connect(zqueued.frontend())
    assert again.poll(20_000)
    assert again.recv_multipart() == [b"", b"answer"]


def asking(context: zmq.Context[zmq.Socket[bytes]], zqueued: Zqueued) -> zmq.Socket[bytes]:
    client = context.socket(zmq.DEALER)
    client.set(zmq.IDENTITY, b"me")
    client.connect(zqueued.frontend())
    client.send_multipart([b"", b"question"])
    return client


def test_a_connection_that_the_new_one_ends_is_at_its_end(start_zqueued: StartZqueued) -> None:
    """Nothing of the hand-over holds it open."""
    zqueued = start_zqueued(ONE_QUEUE.format(more=""))
    host, _, port = zqueued.frontend().removeprefix("tcp://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(hello("DEALER", (3, 1), b""))
        wait_for(lambda: zqueued.queue().clients.connected)
        upgrade(zqueued)
        client.sendall(b"\xff no frame")
        while client.recv(1000):
            pass
    zqueued.wait_event("peer.protocol_error")


def test_what_it_connects_to_is_connected_once(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]], peers: Peers
) -> None:
    rep = context.socket(zmq.REP)
    port = rep.bind_to_random_port("tcp://127.0.0.1")
    monitor = rep.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
    backend = f'backend = {{ connect = ["tcp://127.0.0.1:{port}"] }}'
    zqueued = start_zqueued(
        ONE_QUEUE.format(more="").replace('backend = "tcp://127.0.0.1:*"', backend)
    )
    wait_for(lambda: zqueued.queue().workers.connected)
    for _ in range(2):
        upgrade(zqueued)
        client = peers.client(zqueued.frontend(), requests=1)
        assert rep.poll(20_000)
        rep.send(rep.recv())
        client.finish()
    assert zqueued.queue().workers.accepted == 1
    assert monitor.poll(0)
    monitor.recv_multipart()
    assert not monitor.poll(0), "accepted once, and never disconnected"


@pytest.mark.parametrize("offset", range(2))
def test_a_connect_path_with_letters_of_two_bytes(
    start_zqueued: StartZqueued,
    peers: Peers,
    context: zmq.Context[zmq.Socket[bytes]],
    offset: int,
) -> None:
    """Wherever names are cut, one of the two has such a letter there."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{'x' * offset}{'é' * 30}{end}" for end in "ab"]
        workers = [context.socket(zmq.REP) for _ in paths]
        for worker, path in zip(workers, paths, strict=True):
            worker.linger = 0
            worker.bind(f"ipc://{path}")
        endpoints = ", ".join(f'"ipc://{path}"' for path in paths)
        zqueued = start_zqueued(
            '[queues.default]\nengine = "wire"\nfrontend = "tcp://127.0.0.1:*"\n'
            f"[queues.default.backend]\nconnect = [{endpoints}]\n"
            'reconnect = "10ms"\nreconnect_max = "10ms"\n'
        )
        wait_for(lambda: zqueued.queue().workers.connected == 2, "both to be connected")
        done = zqueued.upgrade()
        assert done.returncode == 0, done.stderr
        assert "handover.taken_up" in zqueued.ctl("events", "-n", "50").stdout
        assert zqueued.queue().workers.connected == 2
        # The connection that was taken over is of the endpoint that it was of.
        workers[0].close()
        wait_for(lambda: zqueued.queue().workers.connected == 1, "the worker to have left")
        workers[0] = context.socket(zmq.REP)
        workers[0].linger = 0
        workers[0].bind(f"ipc://{paths[0]}")
        wait_for(lambda: zqueued.queue().workers.connected == 2, "both to be connected again")
        for worker in workers:
            worker.close()


def test_dead_letters_in_a_file_go_along(
    start_zqueued: StartZqueued, tmp_path: Path, peers: Peers, installed: Installed
) -> None:
    """The file is for one process at a time: whoever serves has it."""
    more = f'dead_letters = "{tmp_path}/dead.db"\nmax_waiting_time = "50ms"\nerror_reply = "late"'
    zqueued = start_zqueued(ONE_QUEUE.format(more=more), program=installed.path)

    def another_dies(letters: int) -> None:
        with zmq.Context() as context, context.socket(zmq.REQ) as req:
            req.linger = 0
            req.connect(zqueued.frontend())
            req.send(b"x")
            assert req.poll(20_000)
        wait_for(lambda: zqueued.queue().dead_letters.kept == letters)
        assert zqueued.queue().dead_letters.failure == ""

    another_dies(1)
    upgrade(zqueued)
    another_dies(2)
    installed.change(PHASES["told to go"].format(what=KILL_ITSELF))
    assert zqueued.upgrade().returncode == 1
    another_dies(3)
    zqueued.ctl("terminate")
    installed.change("")
    upgrade(zqueued)
    assert zqueued.queue().dead_letters.kept == 3, "also of a queue that is stopped"


def test_what_an_operator_made_of_a_queue_stays_so(start_zqueued: StartZqueued) -> None:
    names = ("runs", "paused", "stopped", "empties")
    text = "".join(ONE_QUEUE.format(more="").replace("default", name) for name in names)
    zqueued = start_zqueued(text)
    for verb, name in (("pause", "paused"), ("terminate", "stopped")):
        assert zqueued.ctl(verb, name).returncode == 0
    before = {queue.name: queue for queue in zqueued.status().queues}
    upgrade(zqueued)
    after = {queue.name: queue for queue in zqueued.status().queues}
    assert list(after) == list(before)
    for name, queue in after.items():
        old = before[name]
        assert (queue.state, queue.by, queue.since) == (old.state, old.by, old.since)
        assert queue.restarts == old.restarts
    assert zqueued.ctl("resume", "paused").returncode == 0
    assert zqueued.ctl("start", "stopped").returncode == 0
    assert {queue.state for queue in zqueued.status().queues} == {"running"}


def test_a_drain_goes_on(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    zqueued = start_zqueued(ONE_QUEUE.format(more=""))
    rep = context.socket(zmq.REP)
    rep.connect(zqueued.backend())
    client = asking(context, zqueued)
    assert rep.recv() == b"question"
    with zqueued.client() as control, pytest.raises(Refused):
        # Asked without waiting: its answer would come when the drain has ended.
        control.drain("nobody")
    drain = context.socket(zmq.DEALER)
    drain.connect(zqueued.control)
    drain.send(b'{"v": 1, "id": "1", "verb": "drain", "timeout": 60, "then": "terminate"}')
    wait_for(lambda: zqueued.queue().state == "draining")
    upgrade(zqueued)
    assert zqueued.queue().state == "draining"
    rep.send(b"answer")
    assert client.poll(20_000)
    wait_for(lambda: zqueued.queue().state == "stopped")


def test_the_other_sockets_come_up_too(
    start_zqueued: StartZqueued,
    context: zmq.Context[zmq.Socket[bytes]],
    peers: Peers,
    tmp_path: Path,
) -> None:
    more = f'capture = "ipc://{tmp_path}/capture"\ncontrol = "ipc://{tmp_path}/pair"'
    zqueued = start_zqueued(ONE_QUEUE.format(more=more))
    peers.worker(zqueued.backend())
    pair = context.socket(zmq.PAIR)
    pair.connect(f"ipc://{tmp_path}/pair")
    capture = context.socket(zmq.SUB)
    capture.subscribe(b"")
    capture.connect(f"ipc://{tmp_path}/capture")
    for handovers in range(2):
        zqueued.wait_events("capture.subscribed", handovers + 1)
        upgrade(zqueued)
        # A SUB subscribes again only while it is looked at.
        while len(zqueued.events("capture.subscribed")) < handovers + 2:
            capture.poll(10)
        peers.client(zqueued.frontend(), requests=1).finish()
        for _ in ("its request", "its reply"):
            assert capture.poll(20_000)
            assert capture.recv_multipart()[0] == b"default"
        pair.send(b"STATISTICS")
        assert pair.poll(20_000)
        assert struct.unpack("=Q", pair.recv_multipart()[0])[0]
    # While a script is served the next one finds no socket there, and tries again.
    sockets = {path.name for path in tmp_path.iterdir() if path.is_socket()}
    assert sockets == {"capture", "pair.full"}
    pair.close(0)
    wait_for((tmp_path / "pair").is_socket)
    zqueued.ctl("shutdown")
    assert not [path for path in tmp_path.rglob("*") if path.is_socket()], (
        "the last one removes them"
    )


def test_no_descriptor_is_left_behind(start_zqueued: StartZqueued, start_crowd: StartCrowd) -> None:
    zqueued = start_zqueued(ONE_QUEUE.format(more=""))
    crowd = start_crowd(zqueued, clients=4, workers=2, pause=0.02)
    most = descriptors(upgrade(zqueued))
    for _ in range(4 * HANDOVERS):
        pid = upgrade(zqueued)
        # The connection of a caller may still be about to go.
        wait_for(partial(has_at_most, pid, most), f"{pid} to have {most} descriptors at most")
    assert_undisturbed(crowd.finish())


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def has_at_most(pid: int, most: int) -> bool:
    return descriptors(pid) <= most


def test_what_another_config_wants_otherwise_is_made_so(
    start_zqueued: StartZqueued, start_crowd: StartCrowd, peers: Peers
) -> None:
    """A port moves, a queue comes, a queue goes: what is connected stays connected."""
    gone = ONE_QUEUE.format(more="").replace("default", "gone")
    zqueued = start_zqueued(ONE_QUEUE.format(more="") + gone)
    crowd = start_crowd(zqueued, clients=4, pause=0.01)
    peers.worker(zqueued.backend("gone"), work=0.5)
    last = peers.client(zqueued.frontend("gone"), requests=1)
    wait_for(lambda: zqueued.queue("gone").in_flight)
    came = ONE_QUEUE.format(more="").replace("default", "came")
    moved = ONE_QUEUE.format(more='heartbeat = "10s"').replace("127.0.0.1", "127.0.0.2", 1)
    zqueued.write(moved.replace('heartbeat = "10s"', "prefetch = 3") + came)
    upgrade(zqueued)
    assert len(last.finish()) == 1, "what is not in the new config drains first"
    assert [queue.name for queue in zqueued.status().queues] == ["default", "came"]
    assert zqueued.frontend().startswith("tcp://127.0.0.2:")
    peers.client(zqueued.frontend(), requests=3).finish()
    assert_undisturbed(crowd.finish())


def test_the_libzmq_engine_drains_and_keeps_its_ports(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    zqueued = start_zqueued(ONE_QUEUE.format(more='engine = "libzmq"'))
    frontend, backend = zqueued.frontend(), zqueued.backend()
    peers.worker(backend, work=0.3)
    client = peers.client(frontend, requests=1)
    wait_for(lambda: zqueued.queue().in_flight)
    upgrade(zqueued)
    assert len(client.finish()) == 1
    assert (zqueued.frontend(), zqueued.backend()) == (frontend, backend)
    assert zqueued.queue().state == "running"
    assert len(peers.client(frontend, requests=3).finish()) == 3


# -- it does not -------------------------------------------------------------------------------

KILL_ITSELF = "os.kill(os.getpid(), signal.SIGKILL)"
STOP_ITSELF = "os.kill(os.getpid(), signal.SIGSTOP)"
KILL_THE_OLD = "os.kill(os.getppid(), signal.SIGKILL)"

BEFORE = """
def before(self, *arguments, called=upgrade.Predecessor.{method}):
    {what}
    return called(self, *arguments)
upgrade.Predecessor.{method} = before
"""
ONCE_IT_HAS = """
async def heard(self, word, expect=upgrade.Predecessor._expect):
    found = await expect(self, word)
    if word == "{word}":
        {what}
    return found
upgrade.Predecessor._expect = heard
"""
PHASES = {
    "before its offer": BEFORE.format(method="offer", what="{what}"),
    "after its offer": BEFORE.format(method="parcel", what="{what}"),
    "with the state": ONCE_IT_HAS.format(word="state", what="{what}"),
    "when it would be ready": BEFORE.format(method="ready", what="{what}"),
    "told to go": ONCE_IT_HAS.format(word="go", what="{what}"),
}
WRONG = {
    "a config that it refuses": ("sys.argv[1:] = ['--config', '/nowhere/at.all']", "no such file"),
    "an option that it does not know": ("sys.argv.append('--fast')", "ended with exit code 2"),
    "a state in a format that it does not know": (
        "handover.FORMATS = range(2, 9)",
        "cannot read a state in format 1",
    ),
    "a queue in a format that it does not know": (
        "handover.support.STATE_FORMATS = range(2, 9)",
        "cannot read a queue in format 1",
    ),
    "a state that it finds to be damaged": (
        "handover._MAGIC = b'another'",
        "the state cannot be read: it is no state of a zqueued",
    ),
    "an end by itself": ("raise SystemExit(7)", "ended with exit code 7"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_the_new_one_is_killed(
    phase: str, start_zqueued: StartZqueued, start_crowd: StartCrowd, installed: Installed
) -> None:
    zqueued = start_zqueued(ONE_QUEUE.format(more=""), program=installed.path)
    crowd = start_crowd(zqueued, clients=6, pause=0.005)
    installed.change(PHASES[phase].format(what=KILL_ITSELF))
    done = zqueued.upgrade()
    assert done.returncode == 1
    assert "the new zqueued ended with signal 9" in done.stderr
    assert_goes_on(zqueued, crowd, installed)


def test_the_new_one_is_killed_with_what_a_drained_queue_left(
    start_zqueued: StartZqueued, peers: Peers, installed: Installed
) -> None:
    """Its connections end, for what they hold is counted before; its peers connect again."""
    zqueued = start_zqueued(ONE_QUEUE.format(more='engine = "libzmq"'), program=installed.path)
    frontend, backend = zqueued.frontend(), zqueued.backend()
    peers.worker(backend)
    assert len(peers.client(frontend, requests=3).finish()) == 3
    installed.change(PHASES["with the state"].format(what=KILL_ITSELF))
    assert zqueued.upgrade().returncode == 1
    queue = zqueued.queue()
    assert (queue.state, queue.lost, queue.frontend) == ("running", 0, (frontend,))
    assert len(peers.client(frontend, requests=3).finish()) == 3
    assert zqueued.queue().requests.messages == 6


@pytest.mark.parametrize("version", WRONG)
def test_the_new_one_refuses(
    version: str, start_zqueued: StartZqueued, start_crowd: StartCrowd, installed: Installed
) -> None:
    changed, reason = WRONG[version]
    zqueued = start_zqueued(ONE_QUEUE.format(more=""), program=installed.path)
    crowd = start_crowd(zqueued, clients=6, pause=0.005)
    installed.change(f"if '--upgrade' not in sys.argv:\n    {changed}")
    done = zqueued.upgrade()
    assert done.returncode == 1
    assert reason in done.stderr
    zqueued.wait_event("handover.refused", then="go on", by="0/root")
    assert_goes_on(zqueued, crowd, installed)


def test_the_new_one_hangs(
    start_zqueued: StartZqueued, start_crowd: StartCrowd, installed: Installed
) -> None:
    zqueued = start_zqueued(ONE_QUEUE.format(more=""), program=installed.path)
    crowd = start_crowd(zqueued, clients=6, pause=0.005)
    installed.change(PHASES["told to go"].format(what=STOP_ITSELF))
    done = zqueued.upgrade()
    assert done.returncode == 1
    assert "the new zqueued was silent for" in done.stderr
    assert_goes_on(zqueued, crowd, installed)


def test_there_is_no_new_one(
    start_zqueued: StartZqueued, start_crowd: StartCrowd, installed: Installed
) -> None:
    zqueued = start_zqueued(ONE_QUEUE.format(more=""), program=installed.path)
    crowd = start_crowd(zqueued, clients=6, pause=0.005)
    installed.path.with_suffix(".new").write_text("#!/nowhere/python\n")
    installed.path.with_suffix(".new").chmod(stat.S_IRWXU)
    installed.path.with_suffix(".new").replace(installed.path)
    with zqueued.client() as control, pytest.raises(Refused, match="cannot be started"):
        control.upgrade()
    assert_goes_on(zqueued, crowd, installed)


def assert_goes_on(zqueued: Zqueued, crowd: CrowdProcess, installed: Installed) -> None:
    """The old process serves as before, and a good new one takes over from it."""
    assert zqueued.process.poll() is None
    wait_for(lambda: zqueued.pids() == [zqueued.process.pid], "the new process to be gone")
    assert zqueued.queue().state == "running"
    installed.change("")
    upgrade(zqueued)
    assert_undisturbed(crowd.finish())


@pytest.mark.parametrize("phase", ["with the state", "when it would be ready", "told to go"])
def test_the_old_one_is_killed(
    phase: str, start_zqueued: StartZqueued, start_crowd: StartCrowd, installed: Installed
) -> None:
    """Whoever has all that there is goes on with it."""
    zqueued = start_zqueued(ONE_QUEUE.format(more=""), program=installed.path)
    crowd = start_crowd(zqueued, clients=6, pause=0.005)
    installed.change(PHASES[phase].format(what=KILL_THE_OLD))
    assert zqueued.upgrade().returncode != 0
    assert zqueued.process.wait(20) == -signal.SIGKILL
    zqueued.wait_event("handover.taken_up", connections=9)
    installed.change("")
    upgrade(zqueued)
    assert_undisturbed(crowd.finish())


def test_the_old_one_is_killed_before_it_has_said_anything(
    start_zqueued: StartZqueued, peers: Peers, installed: Installed
) -> None:
    """Connections end with it, as by any kill; but there is a new one to connect to."""
    zqueued = start_zqueued(
        ONE_QUEUE.format(more="")
        .replace("tcp://127.0.0.1:*", "ipc://{0}/f", 1)
        .replace("tcp://127.0.0.1:*", "ipc://{0}/b")
        .format(installed.path.parent),
        program=installed.path,
    )
    peers.worker(zqueued.backend())
    peers.client(zqueued.frontend(), requests=1).finish()
    installed.change(PHASES["after its offer"].format(what=KILL_THE_OLD))
    zqueued.upgrade()
    assert zqueued.process.wait(20) == -signal.SIGKILL
    wait_for(lambda: len(zqueued.pids()) == 1 and zqueued.events("daemon.ready")[1:])
    assert len(peers.client(zqueued.frontend(), requests=3).finish()) == 3


def test_under_systemd_it_is_refused_with_a_hint(
    start_zqueued: StartZqueued, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        zqueued = start_zqueued(env=environment)
        done = zqueued.upgrade()
    assert done.returncode == 1
    assert "systemctl restart" in done.stderr


def test_where_nobody_runs_it_says_so(tmp_path: Path, start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued()
    zqueued.kill()
    done = zqueued.upgrade()
    assert done.returncode == 69
    assert "nobody listens" in done.stderr
