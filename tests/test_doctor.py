"""What is wrong is found, and what to do about it said: each finding is provoked."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.engines import on_wire
from tests.peers import Peers
from tests.waiting import wait_for
from tests.wire import raw
from tests.zqueued import ONE_QUEUE, Zqueued

pytestmark = on_wire

Found = dict[str, Any]
Examine = Callable[..., list[Found]]

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t which, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(which, now);
    if (which == CLOCK_REALTIME) now->tv_sec -= 3600;
    return failed;
}
"""


def examined(zqueued: Zqueued, *arguments: str, **how: Any) -> list[Found]:
    """What the doctor finds; that its exit code tells of what is bad."""
    done = zqueued.ctl("doctor", "--json", *arguments, **how)
    found: list[Found] = json.loads(done.stdout)["findings"]
    assert done.returncode == any(each["weight"] == "bad" for each in found)
    assert "Traceback" not in done.stderr
    assert all(each["what"] for each in found)
    return found


def finds(zqueued: Zqueued, what: str, weight: str, queue: str = "default", **how: Any) -> Found:
    """Wait until something is found; it says what to do."""

    def found() -> list[Found]:
        return [each for each in examined(zqueued, **how) if what in each["what"]]

    [it] = wait_for(found, what)
    assert (it["weight"], it["queue"]) == (weight, queue)
    assert it["do"]
    return it


def test_nothing_is_wrong(zqueued: Zqueued, peers: Peers) -> None:
    peers.worker(zqueued.backend())
    peers.client(zqueued.frontend(), requests=3).finish()
    wait_for(lambda: not zqueued.queue().clients.connected)
    assert examined(zqueued) == []
    assert zqueued.ctl("doctor").stdout == "nothing is wrong that can be seen from here\n"


# -- the daemon --------------------------------------------------------------------------------


def test_no_daemon_and_why_it_may_not_start(zqueued: Zqueued) -> None:
    zqueued.stop()
    zqueued.write(ONE_QUEUE + "frontent = 1\n")
    config = ("--config", str(zqueued.path))
    absent, refused = examined(zqueued, *config)
    assert absent["what"].startswith("no daemon answers: ")
    assert "frontent" in refused["what"]
    assert refused["do"] == [f"zqueued --check --config {zqueued.path}"]
    shown = zqueued.ctl("doctor", *config).stdout
    assert shown.startswith("!! no daemon answers")


def test_a_port_that_another_has(zqueued: Zqueued) -> None:
    zqueued.stop()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        zqueued.write(
            ONE_QUEUE.replace(
                'frontend = "tcp://127.0.0.1:*', f'frontend = "tcp://127.0.0.1:{port}'
            )
        )
        found = examined(zqueued, "--config", str(zqueued.path))
    assert [each["weight"] for each in found] == ["bad", "bad"]
    assert f"port {port} is in use by" in found[1]["what"]
    assert f"(pid {os.getpid()})" in found[1]["what"]


def test_a_config_that_is_not_in_force(zqueued: Zqueued, peers: Peers) -> None:
    peers.worker(zqueued.backend())
    text = zqueued.path.read_text()
    zqueued.path.write_text(text + 'drain_timeout = "7s"\n')
    changed = finds(zqueued, "has changed and is not in force", "warn", "")
    assert "queues.default.drain_timeout" in changed["what"]
    assert changed["do"] == [f"zqueuectl -e {zqueued.control} reload"]
    zqueued.ctl("reload")
    assert examined(zqueued) == []
    zqueued.path.write_text(text + "drain_timeout = 7\n")
    finds(zqueued, "the config would be refused: ", "bad", "")
    zqueued.path.write_text(text + "drain_timeout = 7\nfrontnd = 1\n")
    refused = finds(zqueued, "the config would be refused, for 2 mistakes", "bad", "")
    assert len(refused["do"]) == 3, "it is one finding, whatever number of lines it has"
    zqueued.path.unlink()
    finds(zqueued, "is gone", "bad", "")


def test_another_version(start_zqueued: StartZqueued, tmp_path: Path) -> None:
    program = tmp_path / "zqueued"
    program.write_text(
        f"#!{sys.executable}\nimport zqueue\nzqueue.__version__ = '0.0.9'\n"
        "from zqueue.cli.zqueued import main\nmain()\n"
    )
    program.chmod(0o755)
    zqueued = start_zqueued(program=program)
    finds(zqueued, "zqueued 0.0.9 runs", "warn", "")


def test_who_may_steer(start_zqueued: StartZqueued, tmp_path: Path) -> None:
    control = f'[control]\nendpoint = "ipc://{tmp_path}/zqueued-0/control.sock"\n'
    zqueued = start_zqueued(f'{control}mode = "0666"\n{ONE_QUEUE}')
    finds(zqueued, "everybody on this machine may steer", "warn", "")
    control = control.replace("zqueued-0", "zqueued-1")
    zqueued = start_zqueued(f'{control}may_steer = ["nobody-of-that-name"]\n{ONE_QUEUE}')
    finds(zqueued, "control.may_steer names nobody-of-that-name", "warn", "")


def test_a_clock_that_is_off(zqueued: Zqueued, tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(CLOCK)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=60
    )
    env = os.environ | {"LD_PRELOAD": str(library)}
    finds(zqueued, "its clock is 3600 s ahead", "warn", "", env=env)


# -- the machine -------------------------------------------------------------------------------


def test_descriptors_run_out(start_zqueued: StartZqueued) -> None:
    if shutil.which("prlimit") is None:
        pytest.skip("no prlimit here (apt-get install util-linux)")
    zqueued = start_zqueued(
        ONE_QUEUE + "max_connections = 10000\n", prefix=("prlimit", "--nofile=256:256")
    )
    finds(zqueued, "max_connections allow 10000, and there are ", "warn", "")
    crowd = [raw.RawPeer(zqueued.frontend(), "REQ", shake=False) for _ in range(190)]
    finds(zqueued, " descriptors are in use of ", "bad")
    for each in crowd:
        each.close()


def test_max_connections_are_reached(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(ONE_QUEUE + "max_connections = 2\n")
    crowd = [raw.RawPeer(zqueued.frontend(), "REQ", shake=False) for _ in range(3)]
    finds(zqueued, "wait in the kernel: max_connections = 2 is reached", "bad")
    for each in crowd:
        each.close()
    wait_for(lambda: not any("max_connections" in each["what"] for each in examined(zqueued)))


def test_a_limit_that_was_raised_is_reached_no_more(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(ONE_QUEUE + "max_connections = 2\n")
    with contextlib.ExitStack() as crowd:
        for _ in range(3):
            crowd.enter_context(raw.RawPeer(zqueued.frontend(), "REQ", shake=False))
        finds(zqueued, "wait in the kernel: max_connections = 2 is reached", "bad")
        zqueued.write(ONE_QUEUE + "max_connections = 20\n")
        assert zqueued.ctl("reload").returncode == 0
        wait_for(
            lambda: not any("wait in the kernel" in each["what"] for each in examined(zqueued))
        )


def test_a_backlog_that_the_kernel_cuts(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(
        '[queues.default]\nbackend = "tcp://127.0.0.1:*"\n'
        '[queues.default.frontend]\nbind = "tcp://127.0.0.1:*"\nbacklog = 1000000\n'
    )
    finds(zqueued, "a backlog of 1000000 is wanted", "warn", "")


# -- queues ------------------------------------------------------------------------------------


def test_a_queue_that_is_steered_to_stand_still(zqueued: Zqueued, peers: Peers) -> None:
    peers.worker(zqueued.backend())
    zqueued.ctl("pause")
    call = f"zqueuectl -e {zqueued.control}"
    assert finds(zqueued, "has paused it", "warn")["do"] == [f"{call} resume default"]
    zqueued.ctl("terminate")
    assert finds(zqueued, "stopped it", "warn")["do"] == [f"{call} start default"]


def test_as_much_waits_as_may(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(ONE_QUEUE + "max_waiting = 3\n")
    for number in range(3):
        peers.client(zqueued.frontend(), f"c{number}", 1)
    finds(zqueued, "3 of 3 requests that may wait do; then clients are held", "warn")
    finds(zqueued, "no worker is connected, and 3 requests wait", "bad")
    peers.worker(zqueued.backend())


def test_requests_that_died(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(ONE_QUEUE + 'deadline = "50ms"\nerror_reply = "dead: {reason}"\n')
    with zmq.Context() as context, context.socket(zmq.REQ) as client:
        client.linger = 0
        client.connect(zqueued.frontend())
        client.send(b"x")
        client.recv()
    finds(zqueued, "1 request that died is kept; since the start have died: deadline 1", "note")


# -- peers -------------------------------------------------------------------------------------


def test_peers_at_the_wrong_port(zqueued: Zqueued, peers: Peers) -> None:
    with raw.RawPeer(zqueued.frontend(), "REP", shake=False) as lost:
        lost.say(raw.hello("REP"))
        lost.farewell()
    found = finds(zqueued, "a worker that connects to the clients' port", "warn")
    assert "tcp://127.0.0.1" in found["what"]
    assert found["do"][1] == f"workers connect to {zqueued.backend()}"


def test_too_few_workers(zqueued: Zqueued, peers: Peers) -> None:
    peers.worker(zqueued.backend(), work=60)
    for number in range(3):
        peers.client(zqueued.frontend(), f"c{number}", 1)
    finds(zqueued, "the only worker is busy, and 2 requests wait", "warn")


def test_workers_that_may_be_at_work_and_such_that_hang(zqueued: Zqueued, peers: Peers) -> None:
    peers.worker(zqueued.backend(), work=60)
    asking = [peers.client(zqueued.frontend(), f"c{number}", 1) for number in range(3)]
    finds(zqueued, "2 requests wait, and none was answered in the last seconds", "warn")
    fast = peers.worker(zqueued.backend(), "fast")
    wait_for(lambda: sum(len(each.replies) for each in asking) == 2)
    peers.client(zqueued.frontend(), "quick", 50).finish()
    fast.stop()
    wait_for(lambda: zqueued.queue().workers.connected == 1)
    peers.client(zqueued.frontend(), "late", 1)
    wait_for(lambda: zqueued.queue().waiting == 1)
    found = finds(zqueued, "1 request waits, and no worker answers", "bad")
    assert found["do"][1] == "restart those that hang"


def test_one_worker_is_slower_than_the_others(zqueued: Zqueued, peers: Peers) -> None:
    peers.worker(zqueued.backend(), "fast")
    wait_for(lambda: zqueued.queue().workers.connected == 1)
    with zqueued.client() as control:
        [fast] = control.workers().workers
    peers.worker(zqueued.backend(), "slow", work=0.03)
    wait_for(lambda: zqueued.queue().workers.connected == 2)
    for number in range(4):
        peers.client(zqueued.frontend(), f"c{number}")
    found = finds(zqueued, "times as long as others", "warn")
    with zqueued.client() as control:
        [slow] = control.workers(filter=[f"id!={fast.id}"]).workers
    assert found["what"].startswith(f"worker {slow.id} ({slow.peer})")


def test_a_worker_that_is_stuck(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(ONE_QUEUE + 'service_timeout = "100ms"\n')
    peers.worker(zqueued.backend(), work=60)
    peers.client(zqueued.frontend(), requests=1)
    finds(zqueued, "is at one request for longer than service_timeout", "bad")


def test_a_request_that_is_at_its_worker_for_long(zqueued: Zqueued, peers: Peers) -> None:
    fast = peers.worker(zqueued.backend())
    peers.client(zqueued.frontend(), requests=200).finish()
    fast.stop()
    wait_for(lambda: not zqueued.queue().workers.connected)
    peers.worker(zqueued.backend(), work=60)
    peers.client(zqueued.frontend(), "patient", 1)
    found = finds(zqueued, "request 201 is at worker", "warn")
    assert any(" kick " in line and "or dies" in line for line in found["do"])


def test_a_worker_that_was_drained(zqueued: Zqueued, peers: Peers) -> None:
    peers.worker(zqueued.backend())
    wait_for(lambda: zqueued.queue().workers.connected)
    zqueued.ctl("drain", "--worker", "1")
    finds(zqueued, "was drained: it gets no more", "note")


def test_a_client_that_does_not_read(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    zqueued = start_zqueued(ONE_QUEUE + 'max_unsent = "8MiB"\n')
    worker = context.socket(zmq.REP)
    worker.connect(zqueued.backend())
    wait_for(lambda: zqueued.queue().workers.connected)
    with raw.RawPeer(zqueued.frontend(), "DEALER", receive_buffer=4096) as client:
        for _ in range(8):
            client.send(b"", b"x")
        while zqueued.queue().requests.messages < 8 or zqueued.queue().in_flight:
            if worker.poll(100):
                worker.recv()
                worker.send(b"y" * (1 << 20))
        client.send(b"", b"x")
        finds(zqueued, "does not read its replies", "warn")


def test_a_queue_whose_thread_hangs(zqueued: Zqueued) -> None:
    """Stopped whole, the daemon does not answer at all: that is told within the time asked for."""
    os.kill(zqueued.process.pid, signal.SIGSTOP)
    try:
        done = zqueued.ctl("doctor", "--timeout", "500ms")
    finally:
        os.kill(zqueued.process.pid, signal.SIGCONT)
    assert done.returncode == 1
    assert done.stdout.startswith("!! no daemon answers: ")


# -- what the doctor itself leaves behind ------------------------------------------------------


def test_a_look_at_a_queue_of_libzmq_refuses_nothing(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(
        '[queues.q]\nengine = "libzmq"\nfrontend = "tcp://127.0.0.1:*"\n'
        'backend = "tcp://127.0.0.1:*"\n'
        '[queues.f]\nengine = "auto"\ntype = "forwarder"\nfrontend = "tcp://127.0.0.1:*"\n'
        'backend = "tcp://127.0.0.1:*"\n'
    )
    found = examined(zqueued)
    assert zqueued.ctl("top", "--once").returncode == 0
    assert zqueued.events("control.refused") == []
    assert not any("engine" in each["what"] for each in found)


def test_the_log_is_where_it_is(zqueued: Zqueued, tmp_path: Path) -> None:
    """Its stderr is a file; no journal has it."""
    for _ in range(2):
        with raw.RawPeer(zqueued.frontend(), "REP", shake=False) as lost:
            lost.say(raw.hello("REP"))
            lost.farewell()
    wait_for(lambda: zqueued.queue().clients.rejected == 2)
    found = finds(zqueued, "2 connections of clients turned away", "note")
    assert found["do"] == [f"grep -w default {zqueued.log_path} | tail -n 50"]
    shown = subprocess.run(found["do"][0], shell=True, capture_output=True, text=True, check=True)
    assert "peer.rejected" in shown.stdout
    assert "journalctl" not in zqueued.ctl("doctor").stdout


def test_the_log_is_read_by_nobody_known(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(stderr=subprocess.DEVNULL)
    with raw.RawPeer(zqueued.frontend(), "REP", shake=False) as lost:
        lost.say(raw.hello("REP"))
        lost.farewell()
    found = finds(zqueued, "1 connection of clients turned away", "note")
    call = f"zqueuectl -e {zqueued.control}"
    assert found["do"] == [f"{call} events -q default --level warning -n 50"]
    done = zqueued.ctl(*found["do"][0].removeprefix(f"{call} ").split())
    assert "peer.rejected" in done.stdout, done.stderr


def test_lines_of_the_log_that_are_lost(start_zqueued: StartZqueued) -> None:
    with open("/dev/full", "w") as full:
        zqueued = start_zqueued(stderr=full)
    found = finds(zqueued, "of the log could not be written since the start", "warn", "")
    assert int(found["what"].split()[0]) >= 3


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
@pytest.mark.parametrize("verb", ["doctor", "status", "queues", "stats", "config"])
def test_colours_only_where_they_are_wanted(
    zqueued: Zqueued, verb: str, plain: dict[str, str]
) -> None:
    zqueued.ctl("pause")
    program = [sys.executable, "-m", "zqueue.cli.zqueuectl", "-e", zqueued.control, verb]
    kept = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    coloured = on_a_terminal(program, kept | {"TERM": "xterm-256color"})
    assert ("\x1b[" in coloured) or verb in ("queues", "config")
    assert "\x1b" not in on_a_terminal(program, kept | {"TERM": "xterm-256color"} | plain)


def on_a_terminal(program: list[str], env: dict[str, str]) -> str:
    """What a program writes to a terminal."""
    ours, its = pty.openpty()
    with subprocess.Popen(program, stdin=its, stdout=its, stderr=its, env=env):
        os.close(its)
        written = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end open any more
            while read := os.read(ours, 4096):
                written += read
    os.close(ours)
    return written.decode()


def test_a_worker_that_speaks_another_protocol(
    zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with context.socket(zmq.DEALER) as pirate:
        pirate.linger = 0
        pirate.connect(zqueued.backend())
        pirate.send(b"\x01")
        for _ in range(8):
            pirate.send(b"\x02")
        found = finds(zqueued, "has sent 9 messages that answer nothing", "bad")
    assert "it speaks another protocol" in found["what"]
    assert any("Paranoid Pirate" in line for line in found["do"])


def test_a_worker_that_never_answers_is_told_first(
    zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with context.socket(zmq.DEALER) as silent, context.socket(zmq.DEALER) as client:
        silent.linger = client.linger = 0
        silent.connect(zqueued.backend())
        wait_for(lambda: zqueued.queue().workers.connected == 1)
        client.connect(zqueued.frontend())
        for _ in range(5):
            client.send_multipart([b"", b"x"])
        finds(zqueued, "and has never answered", "warn")
        first = examined(zqueued)[0]
    assert "has never answered" in first["what"]
    assert "start more workers" not in first["do"]
