"""zqueuectl as an operator and a deploy script use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.conftest import StartZqueued
from tests.engines import about, on_every_engine, on_wire
from tests.nobody import zqueuectl_as_nobody
from tests.peers import Client, Peers
from tests.waiting import wait_for
from tests.zqueued import Zqueued

VERBS = (
    "status", "queues", "stats", "watch", "top", "workers", "events", "pause", "resume", "drain",
    "terminate", "start", "dead", "reload", "shutdown", "log-level", "config", "version", "demo",
)  # fmt: skip


def zqueuectl(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zqueue.cli.zqueuectl", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )


def test_help_needs_no_daemon_and_imports_little() -> None:
    done = zqueuectl("--help")
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout, "plain text, for a pipe"
    assert max(map(len, done.stdout.splitlines())) <= 80
    for verb in VERBS:
        assert zqueuectl(verb, "--help").returncode == 0
    code = (
        "import sys, zqueue.cli.zqueuectl\n"
        "print([name for name in ('zmq', 'pydantic', 'rich', 'structlog', 'asyncio')"
        " if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.stdout.strip() == "[]", "what help does not need makes it slow"


def test_completion_needs_no_daemon() -> None:
    done = zqueuectl(_ZQUEUECTL_COMPLETE="bash_complete", COMP_WORDS="zqueuectl pa", COMP_CWORD="1")
    # python -m names the program differently; the completion variable follows the name.
    program = subprocess.run(
        [
            sys.executable,
            "-c",
            "from zqueue.cli.zqueuectl import main; main(prog_name='zqueuectl')",
        ],
        env=os.environ
        | {
            "_ZQUEUECTL_COMPLETE": "bash_complete",
            "COMP_WORDS": "zqueuectl pa",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
    )
    assert "plain,pause" in program.stdout
    assert done.returncode in (0, 2)


@on_every_engine
def test_json_status_has_the_fixed_form(zqueued: Zqueued, engine: str) -> None:
    done = zqueued.ctl("--json", "status")
    status = json.loads(done.stdout)
    queue = status["queues"][0]
    assert {key: queue[key] for key in ("name", "type", "engine", "state")} == {
        "name": "default",
        "type": "queue",
        "engine": engine,
        "state": "running",
    }
    assert queue["estimated"] is (engine == "libzmq")
    assert status["control"] == zqueued.control


def test_options_may_stand_before_and_after_the_verb(zqueued: Zqueued) -> None:
    for arguments in (
        ("-e", zqueued.control, "--json", "--timeout", "5s", "status"),
        ("status", "--json", "--endpoint", zqueued.control, "--timeout", "5"),
        ("--json", "status", "-e", zqueued.control),
        ("-e", "ipc:///nowhere", "status", "-e", zqueued.control, "--json"),
    ):
        done = zqueuectl(*arguments)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["queues"]
    assert zqueuectl("--json", "version", ZQUEUE_ENDPOINT=zqueued.control).returncode == 0


ARGUMENTS = {
    "kick": ("1",),
    "pause": ("--wait",),
    "shutdown": ("--now",),
    "dead show": ("1",),
    "dead retry": ("--all",),
    "dead drop": ("--all",),
    "dead export": ("-",),
    "log-level": ("debug",),
}


def verbs_that_call(group: click.Group, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every verb that talks to a daemon, each with the words of its groups."""
    found = []
    for name, command in group.commands.items():
        words = (*before, name)
        if isinstance(command, click.Group):
            found += verbs_that_call(command, words)
        elif words[0] not in ("demo", "replay", "completion"):
            found.append(words)
    return found


def test_the_command_line_beats_the_environment_wherever_it_stands(
    zqueued: Zqueued, tmp_path: Path
) -> None:
    from zqueue.cli.zqueuectl import main

    verbs = verbs_that_call(main)
    assert len(verbs) > 20
    nobody = f"ipc://{tmp_path}/nobody"
    run = CliRunner(env={"ZQUEUE_ENDPOINT": zqueued.control}).invoke
    for words in verbs:
        arguments = ARGUMENTS.get(" ".join(words), ())
        for option, expected in (
            (("-e", nobody), nobody),
            ((f"--endpoint={nobody}",), nobody),
            (("--instance", "nobody"), "ipc:///run/zqueue-nobody/control.sock"),
        ):
            for place in range(len(words) + 1):
                line = (*words[:place], *option, *words[place:], *arguments)
                done = run(main, line)
                assert done.exit_code == (1 if words == ("doctor",) else 69), (line, done.output)
                assert expected in done.output, line
        for line in (
            ("-e", zqueued.control, *words, *arguments, "--instance", "nobody"),
            ("--instance", "nobody", *words, *arguments, "-e", zqueued.control),
            (*words, "-e", zqueued.control, "--instance", "nobody", *arguments),
        ):
            done = run(main, line)
            assert (done.exit_code, "say one of them" in done.output) == (2, True), line
    assert zqueued.queue().state == "running"
    zqueued.ctl("pause")
    assert zqueued.queue().state == "paused"
    assert run(main, ("resume",)).exit_code == 0
    assert zqueued.queue().state == "running", "it counts where the line names no daemon"


@on_every_engine
def test_every_view_shows_the_queue(zqueued: Zqueued, peers: Peers, engine: str) -> None:
    peers.worker(zqueued.backend())
    peers.client(zqueued.frontend(), requests=12).finish()
    for verb in (("status",), ("queues",), ("stats",), ("watch", "--count", "1")):
        done = zqueued.ctl(*verb)
        assert (done.returncode, done.stderr) == (0, "")
        assert "default" in done.stdout
        assert "running" in done.stdout or verb == ("stats",)
    shown = f" {about(engine)}12 "
    assert shown in zqueued.ctl("status").stdout, "an estimate is shown as one"
    stats = zqueued.ctl("stats").stdout
    assert shown in stats
    assert " 36 " in stats, "frames are exact"
    assert json.loads(zqueued.ctl("stats", "default", "--json").stdout)["queues"][0]["replies"]
    assert zqueued.ctl("stats", "nobody").returncode == 1
    lines = zqueued.ctl("--json", "watch", "--count", "2", "--interval", "10ms").stdout.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["running"] * 2


@on_every_engine
def test_stats_explain_where_every_request_has_gone(
    zqueued: Zqueued, peers: Peers, engine: str
) -> None:
    peers.worker(zqueued.backend())
    peers.client(zqueued.frontend(), requests=3).finish()
    explained = zqueued.ctl("stats", "--explain").stdout
    if engine == "libzmq":
        assert "engine libzmq does not know how requests end" in explained
    else:
        assert "received = waiting + in flight + kept + replied + unclaimed + w" in explained
        assert "3 = 0 + 0 + 0 + 3 + 0 + 0 + 0 + 0 + 0 + 0 + 0: it adds up" in explained
        assert "its reply went to its client" in explained


@on_every_engine
def test_status_of_one_queue_says_what_its_engine_does_not_promise(
    zqueued: Zqueued, engine: str
) -> None:
    promises = (
        "default: engine libzmq does not promise: redelivery, deadlines, dead letters, exact counts"
    )
    closely = zqueued.ctl("status", "default")
    assert closely.returncode == 0
    assert (promises in closely.stdout) == (engine == "libzmq")
    assert promises not in zqueued.ctl("status").stdout
    assert zqueued.ctl("status", "nobody").returncode == 1


def test_events_are_shown(zqueued: Zqueued) -> None:
    zqueued.ctl("pause")
    shown = zqueued.ctl("events").stdout
    assert "queue.paused queue=default by=0/root" in shown
    as_json = [json.loads(line) for line in zqueued.ctl("events", "--json").stdout.splitlines()]
    assert as_json[-1]["name"] == "queue.paused"
    follower = subprocess.Popen(
        [
            *(sys.executable, "-m", "zqueue.cli.zqueuectl", "-e", zqueued.control),
            *("events", "--follow", "-n", "1"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, a shell may have had SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert follower.stdout is not None
    assert "queue.paused" in follower.stdout.readline()
    zqueued.ctl("resume")
    assert "queue.running" in follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    assert follower.wait(20) == 130


def test_log_level(zqueued: Zqueued) -> None:
    assert zqueued.ctl("log-level").stdout == "debug\n"
    assert zqueued.ctl("log-level", "warning").returncode == 0
    assert zqueued.ctl("log-level").stdout == "warning\n"
    wait_for(lambda: zqueued.events("log.level_changed") == [])
    zqueued.ctl("log-level", "info")
    zqueued.wait_event("log.level_changed", old="warning", new="info")
    assert zqueued.ctl("log-level", "loud").returncode == 2


def test_config_show_tells_where_each_value_came_from(zqueued: Zqueued) -> None:
    values = {
        value["key"]: value
        for value in json.loads(zqueued.ctl("config", "show", "--json").stdout)["values"]
    }
    frontend = values["queues.default.frontend.bind"]
    assert frontend["value"] == ["tcp://127.0.0.1:*"]
    assert frontend["origin"].startswith(f"{zqueued.path}:")
    assert values["daemon.drain_timeout"]["origin"] == "default"
    assert "daemon.drain_timeout" in zqueued.ctl("config", "show").stdout


def test_version(zqueued: Zqueued) -> None:
    assert f"pid {zqueued.process.pid}" in zqueued.ctl("version").stdout
    assert zqueuectl("--version").returncode == 0


def test_shutdown_returns_when_the_daemon_is_gone(zqueued: Zqueued) -> None:
    done = zqueued.ctl("shutdown")
    assert (done.returncode, done.stdout) == (0, "ended\n")
    assert zqueued.process.wait(10) == 0


@pytest.mark.parametrize(
    "arguments",
    [("fly",), ("pause", "--fly"), ("drain", "--timeout", "soon"), ("drain", "--then", "fly")],
)
def test_usage(arguments: tuple[str, ...]) -> None:
    done = zqueuectl(*arguments)
    assert done.returncode == 2
    assert "Usage" in done.stderr


class TestUnreachable:
    def test_no_daemon(self, tmp_path: Path) -> None:
        done = zqueuectl("status", RUNTIME_DIRECTORY=str(tmp_path), XDG_RUNTIME_DIR=str(tmp_path))
        assert done.returncode == 69
        assert "no zqueued is running" in done.stderr
        assert f"ipc://{tmp_path}/control.sock: no socket is there" in done.stderr
        done = zqueuectl("-e", f"ipc://{tmp_path}/x", "--json", "status")
        assert done.returncode == 69
        assert json.loads(done.stdout)["error"]["code"] == "unreachable"

    def test_found_where_the_daemon_put_it(
        self, start_zqueued: StartZqueued, tmp_path: Path
    ) -> None:
        environment = {"RUNTIME_DIRECTORY": str(tmp_path)}
        zqueued = start_zqueued(
            "[control]\n[queues.default]\nfrontend = 'tcp://127.0.0.1:*'\n"
            "backend = 'tcp://127.0.0.1:*'\n",
            ready=False,
            env=os.environ | environment,
        )
        zqueued.wait_event("daemon.ready", control=f"ipc://{tmp_path}/control.sock")
        assert zqueuectl("status", **environment).returncode == 0

    def test_an_instance(self) -> None:
        done = zqueuectl("--instance", "nobody", "status")
        assert done.returncode == 69
        assert "ipc:///run/zqueue-nobody/control.sock: no socket is there" in done.stderr
        assert "systemctl start zqueue@nobody" in done.stderr

    def test_no_answer_in_time(self, zqueued: Zqueued) -> None:
        zqueued.process.send_signal(signal.SIGSTOP)
        try:
            done = zqueued.ctl("--timeout", "300ms", "status")
        finally:
            zqueued.process.send_signal(signal.SIGCONT)
        assert done.returncode == 69
        assert "no answer within 0.3 s" in done.stderr

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
    def test_no_permission(self, zqueued: Zqueued) -> None:
        for folder in (zqueued.folder, *zqueued.folder.parents):
            if folder.stat().st_uid == 0 and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o055)
        os.chown(zqueued.folder / "control.sock", -1, 12345)
        done = zqueuectl_as_nobody("-e", zqueued.control, "status")
        assert done.returncode == 69, done.stderr
        assert "may not use it" in done.stderr
        assert 'open to the group "12345": usermod -aG' in done.stderr
        (zqueued.folder / "control.sock").chmod(0o600)
        done = zqueuectl_as_nobody("-e", zqueued.control, "status")
        assert "only its owner and root" in done.stderr
        # Nobody is ever to become a member of the group root.
        os.chown(zqueued.folder / "control.sock", -1, 0)
        for mode, of in ((0o660, zqueued.folder / "control.sock"), (0o750, zqueued.folder)):
            of.chmod(mode)
            done = zqueuectl_as_nobody("-e", zqueued.control, "status")
            assert "only its owner and root" in done.stderr
            assert "usermod" not in done.stderr


def test_a_closed_pipe_is_no_traceback(zqueued: Zqueued) -> None:
    command = f"{sys.executable} -m zqueue.cli.zqueuectl -e {zqueued.control} --json status | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_the_libzmq_engine_says_that_it_cannot_list_connections(
    start_zqueued: StartZqueued,
) -> None:
    zqueued = start_zqueued(
        '[queues.default]\nengine = "libzmq"\n'
        'frontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'
    )
    for verb in ("workers", "clients", "connections"):
        done = zqueued.ctl(verb)
        assert done.returncode == 1
        assert "the libzmq engine cannot tell connections apart" in done.stderr


def _has_replies(client: Client, count: int) -> bool:
    return len(client.replies) >= count


@on_wire
def test_lists_are_of_every_queue(start_zqueued: StartZqueued, peers: Peers) -> None:
    sides = 'frontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'
    queue = '[queues.{}]\nengine = "{}"\n' + sides
    zqueued = start_zqueued(
        queue.format("a", "wire") + queue.format("b", "wire") + queue.format("c", "libzmq")
    )
    for name, requests in (("a", 3), ("b", 1)):
        peers.worker(zqueued.backend(name))
        client = peers.client(zqueued.frontend(name))
        wait_for(partial(_has_replies, client, requests))

    def rows(*words: str) -> list[dict[str, str]]:
        done = zqueued.ctl("--json", *words)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, str]] = json.loads(done.stdout)[words[0]]
        return found

    for what in ("workers", "clients"):
        assert [row["queue"] for row in rows(what)] == ["a", "b"]
        assert [row["queue"] for row in rows(what, "b")] == ["b"]
        assert [row["queue"] for row in rows(what, "b", "a")] == ["b", "a"]
        assert len(rows(what, "--limit", "1")) == 1
        replies = [row["replies"] for row in rows(what, "--sort=-replies")]
        assert replies == sorted(replies, reverse=True)
        done = zqueued.ctl(what)
        heading, _, first, second = done.stdout.splitlines()[:4]
        assert (heading.split()[0], first.split()[0], second.split()[0]) == ("QUEUE", "a", "b")
        assert done.stderr == "c: the libzmq engine cannot tell them apart\n"
        assert "QUEUE" not in zqueued.ctl(what, "a").stdout
    assert {row["queue"] for row in rows("connections")} == {"a", "b"}
    assert zqueued.ctl("requests").returncode == 0
    assert zqueued.ctl("workers", "--sort", "fly").returncode == 1
    assert zqueued.ctl("workers", "a", "nobody").returncode == 1
    assert zqueued.ctl("workers", "c").returncode == 1
