"""Reload: the difference is applied, the unchanged does not notice, a bad file changes nothing."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import StartZqueued
from tests.crowd import CrowdProcess, assert_undisturbed
from tests.engines import on_every_engine, on_wire
from tests.failing_step import STEPS
from tests.http import SERVED, ask
from tests.peers import Peers
from tests.waiting import wait_for
from tests.zqueued import Zqueued, free_port
from zqueue.control.client import Refused

QUEUE = """
[queues.{name}]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
{more}
"""


def queue(name: str, more: str = "") -> str:
    return QUEUE.format(name=name, more=more)


@on_every_engine
def test_unchanged_queues_do_not_notice(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(queue("kept") + queue("removed"))
    peers.worker(zqueued.backend("kept"))
    client = peers.client(zqueued.frontend("kept"))
    wait_for(lambda: client.replies)
    zqueued.write(queue("kept") + queue("added"))
    with zqueued.client() as control:
        result = control.reload()
        assert (result.added, result.removed, result.unchanged) == (
            ("added",),
            ("removed",),
            ("kept",),
        )
        status = control.status()
    assert [each.name for each in status.queues] == ["kept", "added"]
    assert {each.state for each in status.queues} == {"running"}
    kept = status.queues[0]
    assert (kept.workers.accepted, kept.workers.disconnected) == (1, 0)
    assert (kept.clients.accepted, kept.clients.disconnected) == (1, 0)
    assert len(client.stop()) == client.asked
    zqueued.wait_event("config.reloaded", added=["added"], removed=["removed"], by="0/root")


@on_every_engine
def test_a_removed_queue_drains_first(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(queue("kept") + queue("removed"))
    peers.worker(zqueued.backend("removed"), work=1.0)
    client = peers.client(zqueued.frontend("removed"), requests=1)
    wait_for(lambda: zqueued.queue("removed").in_flight == 1)
    zqueued.write(queue("kept"))
    with zqueued.client() as control:
        assert control.reload().removed == ("removed",)
    assert len(client.finish()) == 1


@on_every_engine
def test_what_needs_no_new_sockets_is_applied_in_place(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    zqueued = start_zqueued(queue("q"))
    peers.worker(zqueued.backend("q"))
    wait_for(lambda: zqueued.queue("q").workers.connected)
    zqueued.write(queue("q", 'drain_timeout = "7s"\nstart = "paused"'))
    with zqueued.client() as control:
        result = control.reload()
    assert (set(result.changed["q"]), result.rebound) == ({"drain_timeout", "start"}, ())
    status = zqueued.queue("q")
    assert (status.state, status.workers.disconnected) == ("running", 0)
    zqueued.ctl("drain", "q")
    zqueued.wait_event("queue.draining", timeout=7.0)


@on_every_engine
@pytest.mark.parametrize("more", ["", 'type = "queue"\nbackend = "ipc://*"'])
def test_a_pause_survives(more: str, start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(queue("q"))
    zqueued.ctl("pause")
    zqueued.write(queue("q") if not more else f'[queues.q]\nfrontend = "ipc://*"\n{more}\n')
    with zqueued.client() as control:
        control.reload()
    assert zqueued.queue("q").state == "paused"


@on_every_engine
def test_an_endpoint_may_move_from_one_queue_to_another(
    start_zqueued: StartZqueued, peers: Peers, tmp_path: object
) -> None:
    text = """
[queues.one]
frontend = "ipc://{folder}/{a}"
backend = "ipc://{folder}/c"
[queues.two]
frontend = "ipc://{folder}/{b}"
backend = "ipc://{folder}/d"
"""
    zqueued = start_zqueued(text.format(folder=tmp_path, a="a", b="b"))
    zqueued.write(text.format(folder=tmp_path, a="b", b="a"))
    with zqueued.client() as control:
        assert set(control.reload().rebound) == {"one", "two"}
    peers.worker(f"ipc://{tmp_path}/c", "one")
    assert peers.client(f"ipc://{tmp_path}/b", requests=1).finish() == [b"one:c 0"]


@on_every_engine
def test_a_bad_file_changes_nothing_and_the_caller_hears_why(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    zqueued = start_zqueued(queue("q"))
    peers.worker(zqueued.backend("q"))
    client = peers.client(zqueued.frontend("q"))
    wait_for(lambda: client.replies)
    for bad, says in (
        ("[queues.q", "TOML"),
        (queue("q", 'engine = "fast"'), "fast"),
        (queue("q", "frontent = 3"), 'did you mean "frontend"'),
    ):
        zqueued.path.write_text(bad)
        done = zqueued.ctl("reload")
        assert done.returncode == 1
        assert f"{zqueued.path}:" in done.stderr
        assert says in done.stderr
    zqueued.path.unlink()
    with (
        zqueued.client() as control,
        pytest.raises(Refused, match="there is no such file") as refused,
    ):
        control.reload()
    assert refused.value.code == "config"
    assert zqueued.queue("q").workers.disconnected == 0
    assert len(zqueued.events("config.refused")) == 4
    assert len(client.stop()) == client.asked


@on_every_engine
def test_an_endpoint_that_cannot_be_had_refuses_the_whole_file(
    start_zqueued: StartZqueued,
) -> None:
    other = start_zqueued(queue("other"))
    taken = other.frontend("other")
    zqueued = start_zqueued(queue("q"))
    zqueued.write(
        queue("q", 'start = "paused"') + queue("new").replace("tcp://127.0.0.1:*", taken, 1)
    )
    with zqueued.client() as control, pytest.raises(Refused) as refused:
        control.reload()
    message = str(refused.value)
    assert message.startswith(f"queues.new: {taken}: port {taken.rpartition(':')[2]} is in use by")
    assert f"(pid {other.process.pid})" in message
    assert [each.name for each in zqueued.status().queues] == ["q"]
    with zqueued.client() as control:
        origins = {value.key: value for value in control.config().values}
    assert origins["queues.q.start"].value == "running", "the old config stays in force"


def test_settings(start_zqueued: StartZqueued) -> None:
    head = '[control]\nendpoint = "ipc://{folder}/control.sock"\n[log]\nformat = "json"\n'
    zqueued = start_zqueued(queue("q"))
    name = zqueued.status().name
    zqueued.path.write_text(
        head.format(folder=zqueued.folder)
        + 'level = "warning"\n[daemon]\nname = "x"\n'
        + queue("q")
    )
    with zqueued.client() as control:
        result = control.reload()
        assert set(result.settings) == {"log.level", "daemon.name"}
        assert result.needs_restart == ("daemon.name",)
        status = control.status()
        assert (status.log_level, status.name) == ("warning", name)
        in_force = {value.key: value.value for value in control.config().values}
    assert (in_force["log.level"], in_force["daemon.name"]) == ("warning", name)
    done = zqueued.ctl("doctor", "--json")
    [found] = [each for each in json.loads(done.stdout)["findings"] if "in force" in each["what"]]
    assert found["what"] == f"{zqueued.path} has changed and is not in force: daemon.name"
    # This one is nobody's unit.
    assert found["do"] == [f"zqueued --upgrade --config {zqueued.path}"]


@on_every_engine
def test_sighup_reloads(zqueued: Zqueued) -> None:
    zqueued.write(queue("default") + queue("more"))
    zqueued.process.send_signal(signal.SIGHUP)
    zqueued.wait_event("config.reloaded", by="SIGHUP", added=["more"])
    zqueued.path.write_text("rubbish")
    zqueued.process.send_signal(signal.SIGHUP)
    zqueued.wait_event("config.refused", by="SIGHUP")
    assert zqueued.queue("more").state == "running"


@on_every_engine
def test_an_address_that_is_not_here_is_refused_though_the_port_is_ours(
    start_zqueued: StartZqueued,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = '[queues.q]\nfrontend = "tcp://{host}:{port}"\nbackend = "ipc://*"\n'
    zqueued = start_zqueued(text.format(host="*", port=port))
    zqueued.write(text.format(host="192.0.2.1", port=port))
    done = zqueued.ctl("reload")
    assert done.returncode == 1
    assert "not an address of this machine" in done.stderr
    assert zqueued.queue("q").state == "running"
    zqueued.write(text.format(host="127.0.0.1", port=port))
    assert zqueued.ctl("reload").returncode == 0
    assert zqueued.queue("q").state == "running"


@on_every_engine
def test_a_port_that_the_kernel_chose_stays_with_its_queue(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(queue("a"))
    frontend = zqueued.frontend("a")
    zqueued.write(queue("b") + queue("a", 'capture = "ipc://*"'))
    with zqueued.client() as control:
        assert control.reload().rebound == ("a",)
    assert zqueued.frontend("a") == frontend


@on_wire
def test_who_is_connected_stays_so_when_sockets_are_made_anew(
    start_zqueued: StartZqueued, tmp_path: Path
) -> None:
    zqueued = start_zqueued(queue("q"))
    zqueued.ctl("pause")
    since = zqueued.queue("q").since
    zqueued.ctl("resume")
    crowd = CrowdProcess(zqueued.frontend("q"), zqueued.backend("q"), clients=6, pause=0.002)
    try:
        crowd.wait_ready()
        for more in ("prefetch = 2", f'capture = "ipc://{tmp_path}/c"\nclient_grace = "1s"', ""):
            zqueued.write(queue("q", more))
            with zqueued.client() as control:
                assert control.reload().rebound == ("q",)
        zqueued.write(queue("q").replace("127.0.0.1", "127.0.0.2"))
        with zqueued.client() as control:
            assert control.reload().rebound == ("q",)
        assert zqueued.frontend("q").startswith("tcp://127.0.0.2:")
        status = zqueued.queue("q")
        assert (status.clients.accepted, status.clients.disconnected) == (6, 0)
        assert (status.state, status.restarts) == ("running", 0)
        assert status.since >= since
        noticed = crowd.finish()
    finally:
        crowd.kill()
    assert_undisturbed(noticed)
    wait_for(lambda: zqueued.queue("q").replies.messages == noticed["replies"])
    assert zqueued.events("queue.drained") == []


@on_wire
def test_another_engine_is_drained_for(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(queue("q"))
    peers.worker(zqueued.backend("q"), work=0.3)
    client = peers.client(zqueued.frontend("q"), requests=1)
    wait_for(lambda: zqueued.queue("q").in_flight)
    zqueued.write(queue("q", 'engine = "libzmq"'))
    with zqueued.client() as control:
        assert control.reload().rebound == ("q",)
    assert len(client.finish()) == 1
    zqueued.wait_event("queue.drained")


@on_every_engine
def test_a_resumed_queue_stays_running(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(queue("q", 'start = "paused"'))
    zqueued.ctl("resume")
    zqueued.write(queue("q", 'start = "paused"\ncapture = "ipc://*"'))
    with zqueued.client() as control:
        assert control.reload().rebound == ("q",)
    assert zqueued.queue("q").state == "running"


@on_every_engine
def test_callers_are_answered_while_sockets_are_replaced(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    def config_of(number: int) -> str:
        moving = queue("moving").replace(
            'frontend = "tcp://127.0.0.1:*"',
            f'frontend = {{ bind = "tcp://127.0.0.1:*", handshake_timeout = "{number + 1}s" }}',
        )
        return SERVED + queue("still") + moving

    zqueued = start_zqueued(config_of(0))
    seen: list[tuple[str, ...]] = []
    wrong: list[str] = []
    over = threading.Event()

    def look() -> None:
        with zqueued.client() as control:
            while not over.is_set():
                try:
                    status = control.status()
                    started = control.start("still", "moving")  # they have been, long before
                except Exception as error:
                    wrong.append(repr(error))
                    continue
                seen.append(tuple(each.name for each in status.queues))
                wrong.extend(f"{each.name} is stale" for each in status.queues if each.stale)
                wrong.extend(each.detail for each in started.queues if each.outcome != "done")

    def look_by_http() -> None:
        while not over.is_set():
            ready = ask(zqueued, "/readyz")
            if ready.status != 200:
                wrong.append(ready.text)

    looking = [threading.Thread(target=each) for each in (look, look, look_by_http)]
    for each in looking:
        each.start()
    with zqueued.client() as control:
        for number in range(1, 16):
            zqueued.write(config_of(number))
            assert control.reload().rebound == ("moving",)
    over.set()
    for each in looking:
        each.join()
    assert wrong == []
    assert set(seen) == {("still", "moving")}


def test_a_file_that_was_emptied_is_refused(start_zqueued: StartZqueued) -> None:
    """Else every queue would be gone, and the built-in one be open to anybody."""
    zqueued = start_zqueued(queue("orders"))
    control = f'[control]\nendpoint = "{zqueued.control}"\n[log]\nformat = "json"\n'
    for emptied in ("", "\n# queues\n", control, control + "[daemon]\n"):
        zqueued.path.write_text(emptied)
        with zqueued.client() as client, pytest.raises(Refused, match="it names no queue any more"):
            client.reload()
    assert [each.name for each in zqueued.status().queues] == ["orders"]
    zqueued.write(queue("default"))
    with zqueued.client() as client:
        assert client.reload().removed == ("orders",)


NEXT = (
    *("RuntimeError", "OSError", "MemoryError", "ZMQError", "KeyError"),
    *("ZqueueError", "EndpointError", "RecursionError"),
)


@pytest.mark.parametrize("engine", ["wire", "libzmq"], indirect=True)
def test_after_a_reload_that_failed_the_next_one_has_all(
    start_zqueued: StartZqueued, peers: Peers, tmp_path: Path, engine: str
) -> None:
    """Whatever fails at whatever step: it is an event, those that did not change do not notice, and
    a reload after that makes everything as the file says."""
    wanted = tmp_path / "wanted"
    program = tmp_path / "zqueued"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.failing_step {wanted} "$@"\n')
    program.chmod(0o755)
    port = free_port()

    def config_of(number: int) -> str:
        """Each has a queue of its own, one whose sockets it makes anew, a setting, a service."""
        side = f'{{ bind = "tcp://127.0.0.1:{port}", handshake_timeout = "{number % 7 + 1}s" }}'
        changing = queue("changing", f'start = "{("running", "paused")[number % 2]}"')
        moving = queue("moving").replace('frontend = "tcp://127.0.0.1:*"', f"frontend = {side}")
        served = "" if number % 2 else SERVED
        letters = f'dead_letters = "{tmp_path}/{number % 5}.db"' if has_letters else ""
        return served + queue("still") + changing + moving + queue(f"own-{number}", letters)

    has_letters = engine == "wire"
    zqueued = start_zqueued(config_of(0), program=program)
    peers.worker(zqueued.backend("still"))
    client = peers.client(zqueued.frontend("still"))
    unreached = []
    for number, step in enumerate(STEPS, start=1):
        before = [queue.name for queue in zqueued.status().queues]
        told = len(zqueued.events("config.refused") + zqueued.events("config.failed"))
        wanted.write_text(f"{step} {NEXT[number % len(NEXT)]}")
        zqueued.write(config_of(number))
        with zqueued.client() as control:
            refused = False
            try:
                control.reload()
            except Refused:
                refused = True
            if refused:
                now = [queue.name for queue in control.status().queues]
                refusals = len(zqueued.events("config.refused") + zqueued.events("config.failed"))
                assert refusals == told + 1, step
                if zqueued.events("config.refused")[-1:] and not zqueued.events("config.failed"):
                    assert now == before, (step, "refused, and yet something has changed")
            if wanted.exists():
                unreached.append(step)
                wanted.unlink()
            result = control.reload()
            assert result.failed == {}, step
            queues = control.status().queues
        assert [each.name for each in queues] == ["still", "changing", "moving", f"own-{number}"]
        assert {each.state for each in queues if each.name != "changing"} == {"running"}, step
        with socket.create_connection(("127.0.0.1", port)):
            pass
    of_letters_and_links = {
        "zqueue.letter_file:LetterFile.close",
        "zqueue.steering:Steering.take_up",
    }
    assert set(unreached) == (set() if engine == "wire" else of_letters_and_links)
    # Nothing is left of what was given up: a thread each for the queues that there are.
    threads = Path(f"/proc/{zqueued.process.pid}/task")
    names = [(each / "comm").read_text().strip() for each in threads.iterdir()]
    assert sorted(name for name in names if name.startswith("zq.own")) == [f"zq.own-{number}"]
    still = zqueued.queue("still")
    assert (still.clients.accepted, still.workers.accepted) == (1, 1)
    assert len(client.stop()) == client.asked
