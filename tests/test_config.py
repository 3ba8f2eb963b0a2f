from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from zqueue import config
from zqueue.config import Config, LoadedConfig, SocketConfig, difference, load, needs_rebind
from zqueue.errors import ConfigError

EXAMPLE = Path(__file__).parent.parent / "etc" / "zqueue.toml"
QUEUE = """\
[queues.default]
frontend = "tcp://*:5559"
backend = "tcp://*:5560"
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "zqueue.toml"
        path.write_bytes(text.encode())
        return path

    return write


def problems(path: Path) -> list[str]:
    """What is wrong with a file, each problem without the path of the file."""
    with pytest.raises(ConfigError) as refusal:
        load(path)
    assert refusal.value.exit_code == 78
    assert str(refusal.value) == "\n".join(refusal.value.problems)
    for problem in refusal.value.problems:
        assert problem.startswith(f"{path}:")
        assert "\n" not in problem
        for jargon in ("Input should", "validation", "SocketConfig", "Value error", "_type"):
            assert jargon not in problem
    return [problem.removeprefix(f"{path}:") for problem in refusal.value.problems]


# -- where a config comes from -----------------------------------------------------------------


def test_an_empty_file_is_the_default(write: Write) -> None:
    loaded = load(write(""))
    assert loaded.config == Config()
    [(name, queue)] = loaded.config.queues.items()
    assert (name, queue.type, queue.engine) == ("default", "queue", "auto")
    assert (queue.frontend.bind, queue.backend.bind) == (("tcp://*:5559",), ("tcp://*:5560",))
    assert loaded.config.daemon.name == os.uname().nodename
    assert loaded.warnings == ()


def test_a_file_without_queues_has_the_default_queue(write: Write) -> None:
    loaded = load(write('[log]\nlevel = "debug"\n'))
    assert loaded.config.queues == Config().queues
    assert loaded.config.log.level == "debug"


def test_without_a_file_the_built_in_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "zqueue.toml")
    loaded = load(None)
    assert (loaded.path, loaded.config) == (None, Config())
    (tmp_path / "zqueue.toml").write_text('[log]\nlevel = "error"\n')
    loaded = load(None)
    assert (loaded.path, loaded.config.log.level) == (tmp_path / "zqueue.toml", "error")


def test_a_missing_file(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.toml") == [" there is no such file"]


def test_a_folder(tmp_path: Path) -> None:
    assert problems(tmp_path) == [" this is a folder, not a file"]


def test_a_file_in_a_file(write: Write) -> None:
    assert problems(write("") / "a") == [" cannot be read: Not a directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(write: Write) -> None:
    path = write("")
    path.chmod(0)
    assert problems(path) == [" cannot be read: Permission denied"]


def test_an_endless_file() -> None:
    assert problems(Path("/dev/zero")) == [" more than 16 MiB; this is no config"]


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "zqueue.toml"
    path.write_bytes(b"[daemon]\nname = 'K\xf6ln'\n")
    assert problems(path) == ["2: this line is not UTF-8 text"]


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "zqueue.toml"
    path.write_bytes(b"\xef\xbb\xbf[log]\r\nlevel = 'debug'\r\n")
    assert load(path).origin("log.level") == f"{path}:2"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = 1\nb 2\n", "2:3: not TOML: Expected '='"),
        ("[log]\nlevel = \n", "2:9: not TOML: Invalid value"),
        ("[log]\n[log]\n", "2:5: not TOML: Cannot declare"),
        ("a = [1,\n2\n", "2: not TOML: Unclosed array"),
        ("a = " + "9" * 5000, " not TOML: a number has too many digits"),
        ("a = " + "[" * 100_000, " too many brackets"),
    ],
)
def test_what_is_not_toml(write: Write, text: str, problem: str) -> None:
    [found] = problems(write(text))
    assert found.startswith(problem)


# -- what a config may say ---------------------------------------------------------------------


def test_everything_said(write: Write) -> None:
    loaded = load(
        write("""
[daemon]
name = "broker-1"
drain_timeout = "1m30s"
[control]
endpoint = "ipc:///run/zqueue/control.sock"
mode = "600"
group = "root"
[log]
level = "warning"
format = "json"
[queues."eu.orders"]
type = "queue"
engine = "libzmq"
capture = "tcp://127.0.0.1:5561"
control = "ipc:///run/zqueue/orders.pair"
start = "paused"
drain_timeout = "5m"
frontend = { bind = "tcp://*:1", connect = "tcp://host:2", tcp_keepalive = false }
[queues."eu.orders".backend]
bind = ["ipc:///run/zqueue/orders", "tcp://[::1]:3"]
high_water_mark = 0
linger = "1s"
tcp_keepalive = "60s"
tcp_keepalive_interval = "10s"
tcp_keepalive_count = 3
heartbeat = "10s"
heartbeat_timeout = "5s"
handshake_timeout = "3s"
max_message_size = "64MiB"
backlog = 10
ipv6 = true
mode = "0666"
reconnect = "1s"
reconnect_max = "1m"
send_buffer = 4096
receive_buffer = "1MiB"
""")
    ).config
    queue = loaded.queues["eu.orders"]
    assert loaded.daemon.drain_timeout == 90
    assert int(loaded.control.mode, 8) == 0o600
    assert (queue.type, queue.start, queue.drain_timeout) == ("queue", "paused", 300)
    assert (queue.frontend.bind, queue.frontend.connect) == (("tcp://*:1",), ("tcp://host:2",))
    assert queue.frontend.tcp_keepalive is False
    assert queue.backend == SocketConfig.model_validate(
        {
            "bind": ["ipc:///run/zqueue/orders", "tcp://[::1]:3"],
            "high_water_mark": 0,
            "linger": "1s",
            "tcp_keepalive": "1m",
            "tcp_keepalive_interval": "10s",
            "tcp_keepalive_count": 3,
            "heartbeat": "10s",
            "heartbeat_timeout": "5s",
            "handshake_timeout": "3s",
            "max_message_size": 64 << 20,
            "backlog": 10,
            "ipv6": True,
            "mode": "0666",
            "reconnect": "1s",
            "reconnect_max": "60s",
            "send_buffer": "4KiB",
            "receive_buffer": 1 << 20,
        }
    )
    assert queue.backend.tcp_keepalive == 60


def test_ports_that_the_kernel_chooses_are_never_in_conflict(write: Write) -> None:
    text = '[queues.{0}]\nfrontend = "tcp://127.0.0.1:*"\nbackend = "ipc://*"\n'
    assert len(load(write(text.format("a") + text.format("b"))).config.queues) == 2


# -- what is refused ---------------------------------------------------------------------------


def in_queue(line: str) -> str:
    return QUEUE + line + "\n"


def in_frontend(line: str) -> str:
    return (
        '[queues.q]\nbackend = "tcp://*:2"\n[queues.q.frontend]\nbind = "tcp://*:1"\n' + line + "\n"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        # unknown keys
        ("[deamon]\n", '1: deamon: unknown key; did you mean "daemon"?'),
        (
            "[xyz]\n",
            "1: xyz: unknown key; known here are daemon, control, log, events, metrics, queues",
        ),
        ('frontend = "tcp://*:1"\n', "1: frontend: unknown here; it belongs in [queues.NAME]"),
        (in_queue("captur = 1"), '4: queues.default.captur: unknown key; did you mean "capture"?'),
        (
            in_queue("linger = '1s'"),
            "4: queues.default.linger: unknown here; "
            "it belongs in [queues.NAME.frontend] or [queues.NAME.backend]",
        ),
        (in_frontend("Linger = '1s'"), "5: queues.q.frontend.Linger: unknown key; did you mean"),
        # wrong types
        ("log = 1\n", "1: log: found 1, expected a table"),
        ("queues = []\n", "1: queues: found a list, expected a table"),
        ("[queues]\na = 3\n", "2: queues.a: found 3, expected a table"),
        ("[daemon]\nname = 1979-05-27\n", "2: daemon.name: found a date or time, expected text"),
        (in_frontend("ipv6 = 'yes'"), '5: queues.q.frontend.ipv6: found "yes", expected true or'),
        (
            in_frontend("high_water_mark = '1'"),
            '5: queues.q.frontend.high_water_mark: found "1", expected a whole number',
        ),
        (in_frontend("high_water_mark = true"), "found true, expected a whole number"),
        (in_frontend("high_water_mark = -1"), "found -1, expected 0 or more"),
        (in_frontend("high_water_mark = 0x" + "f" * 5000), "found a huge number, expected at most"),
        (in_frontend("backlog = 0"), "found 0, expected 1 or more"),
        # choices
        (
            "[log]\nlevel = 'warn'\n",
            '2: log.level: found "warn", expected "debug", "info", "warning" or "error"; '
            'did you mean "warning"?',
        ),
        (in_queue("type = 'router'"), 'found "router", expected "queue", "forwarder" or'),
        (in_queue("start = 1"), 'found 1, expected "running" or "paused"'),
        (
            in_queue("type = 'streamer'\nengine = 'wire'"),
            "5: queues.default.engine: the wire engine cannot be had here: "
            'it does not do type = "streamer"; say auto or libzmq',
        ),
        (
            in_queue("engine = 'libzmq'\nprefetch = 3"),
            "5: queues.default.prefetch: means nothing here; it is for a queue on the wire engine",
        ),
        (
            in_queue("type = 'forwarder'\nmax_waiting = 3"),
            "5: queues.default.max_waiting: means nothing here",
        ),
        (in_queue("prefetch = 0"), 'prefetch: found 0, expected "auto", or a number from 1'),
        (in_queue("prefetch = 'many'"), 'prefetch: found "many", expected "auto", or a number'),
        (in_queue("max_attempts = 0"), "max_attempts: found 0"),
        (
            in_queue("dead_letters = 'dead.db'"),
            '4: queues.default.dead_letters: found "dead.db", expected the whole path of a file',
        ),
        (in_queue("dead_letters = true"), "found true, expected the whole path of a file"),
        (
            in_queue("dead_letters_max_bytes = 0"),
            "dead_letters_max_bytes: found 0, expected more than 0; dead_letters_max = 0 keeps no",
        ),
        (in_queue("dead_letters_sync = 'on'"), 'expected "full", "normal" or "off"'),
        (
            in_queue("engine = 'libzmq'\ndead_letters_max = 3"),
            "5: queues.default.dead_letters_max: means nothing here",
        ),
        (in_queue("duplicate_id = 'drop'"), 'expected "refuse" or "handover"'),
        # durations, sizes, modes, names
        (
            "[daemon]\ndrain_timeout = 30\n",
            "2: daemon.drain_timeout: found 30, expected a duration",
        ),
        ("[daemon]\ndrain_timeout = 30\n", 'write "30s"'),
        ("[daemon]\ndrain_timeout = nan\n", "found nan, expected a duration"),
        ("[daemon]\ndrain_timeout = '-1s'\n", 'found "-1s", expected a duration such as'),
        ("[daemon]\nname = ''\n", 'found "", expected a name'),
        (in_frontend("send_buffer = '3GiB'"), 'found "3GiB", expected more than 0 and less than'),
        (in_frontend("max_message_size = 0"), "found 0, expected more than 0; without this key"),
        (in_frontend("max_message_size = '1 MB'"), 'found "1 MB", expected a size such as "64MiB"'),
        (in_frontend("reconnect = '0s'"), 'found "0s", expected 1ms or more'),
        (in_frontend("tcp_keepalive = true"), "found true, expected false, or a duration"),
        (in_frontend("tcp_keepalive = '12h'"), 'found "12h", expected false, or a duration'),
        (in_frontend("mode = 660"), "found 660, expected permissions in octal and in quotes"),
        (in_frontend("mode = '0668'"), 'found "0668", expected permissions in octal'),
        ("[control]\nmode = 'rw'\n", '2: control.mode: found "rw", expected permissions'),
        (f"[queues.'a b']\n{QUEUE[17:]}", '1: queues."a b": the name of a queue is'),
        (f"[queues.{'a' * 65}]\n{QUEUE[17:]}", "the name of a queue is"),
        # endpoints
        (
            "[queues.q]\nfrontend = 12\nbackend = 'tcp://*:2'\n",
            '2: queues.q.frontend: found 12, expected an endpoint such as "tcp://*:5559", or a',
        ),
        (
            "[queues.q]\nfrontend = 'tcp://*:99999'\nbackend = 'tcp://*:2'\n",
            '2: queues.q.frontend: found "tcp://*:99999": "99999" is not a port',
        ),
        (in_queue("capture = '*:5561'"), 'capture: found "*:5561": an endpoint looks like'),
        (
            in_queue("capture = ['tcp://*:1']"),
            "capture: found a list, expected an endpoint such as",
        ),
        (in_queue("control = 'inproc://x'"), 'control: found "inproc://x": the transport'),
        (in_queue(f"control = 'ipc:///{'x' * 107}'"), "the path has 108 bytes"),
        (in_frontend("connect = ['tcp://a:1', 2]"), "frontend.connect[1]: found 2, expected an"),
        (in_frontend("connect = 7"), "connect: found 7, expected an endpoint or a list of"),
        (
            "[control]\nendpoint = 'tcp://*:1'\n",
            'control.endpoint: found "tcp://*:1", expected an ipc',
        ),
        (
            "[control]\nendpoint = 'ipc://@z'\n",
            'control.endpoint: found "ipc://@z", expected an ipc',
        ),
        ("[control]\nendpoint = 'ipc://*'\n", 'control.endpoint: found "ipc://*", expected an ipc'),
        (in_queue('capture = "tcp://a\\n\\u009b:1"'), r'"a\n\x9b" is neither an address'),
        (
            "[metrics]\nlisten = '9560'\n",
            '2: metrics.listen: found "9560", expected HOST:PORT, such as "127.0.0.1:9560", or ',
        ),
        ("[metrics]\nlisten = 'tcp://*:9560'\n", 'found "tcp://*:9560", expected HOST:PORT'),
        ("[metrics]\nlisten = 'a:b'\n", '2: metrics.listen: found "a:b": "b" is not a port'),
        ("[events]\npublish = '127.0.0.1:9561'\n", '2: events.publish: found "127.0.0.1:9561"'),
        ("[events]\npublish = 9561\n", "2: events.publish: found 9561, expected an endpoint such"),
        ("[events]\nlevel = 'all'\n", '2: events.level: found "all"'),
        ("[metrics]\nworkers = 1\n", "2: metrics.workers: found 1, expected true or false"),
        # what is missing or means nothing
        ("[queues]\n", "1: queues: no queue; describe one in [queues.NAME], or leave [queues] out"),
        (
            "[queues.q]\nbackend = 'tcp://*:2'\n",
            '1: queues.q: frontend is missing; say frontend = "tcp://*:5559"',
        ),
        (
            "[queues.q]\nfrontend = 'tcp://*:1'\n[queues.q.backend]\nlinger = '1s'\n",
            "3: queues.q.backend: no endpoint: say bind = ",
        ),
        (
            in_frontend("tcp_keepalive_count = 3"),
            "5: queues.q.frontend.tcp_keepalive_count: means",
        ),
        (
            in_frontend("tcp_keepalive = false\ntcp_keepalive_interval = '1s'"),
            "6: queues.q.frontend.tcp_keepalive_interval: means",
        ),
        (in_frontend("heartbeat_timeout = '1s'"), "5: queues.q.frontend.heartbeat_timeout: means"),
        (
            "[queues.q]\nfrontend = 'tcp://*:1'\n[queues.q.backend]\nbind = 'tcp://*:2'\n"
            "reply_high_water_mark = 5\n",
            "5: queues.q.backend.reply_high_water_mark: means nothing here",
        ),
        (
            in_frontend("reply_high_water_mark = 5").replace("q]\n", "q]\ntype = 'streamer'\n", 1),
            "6: queues.q.frontend.reply_high_water_mark: means nothing here",
        ),
        (
            "[queues.q]\ntype = 'streamer'\nfrontend = 'tcp://*:1'\n[queues.q.backend]\n"
            "bind = 'tcp://*:2'\nheartbeat = '1s'\n",
            "6: queues.q.backend.heartbeat: would disconnect peers that are only busy, and what "
            "they had would be lost: a PULL ",
        ),
        (
            "[queues.q]\ntype = 'forwarder'\nfrontend = 'tcp://*:1'\n"
            "backend = { bind = 'tcp://*:2', heartbeat = '1s' }\n",
            "4: queues.q.backend.heartbeat: would disconnect peers that are only busy, and what "
            "they had would be lost: a SUB ",
        ),
        (
            "[queues.q]\ntype = 'forwarder'\nfrontend = 'tcp://*:1'\n[queues.q.backend]\n"
            "bind = 'tcp://*:2'\nmax_message_size = '65KiB'\n",
            "6: queues.q.backend.max_message_size: is how long a subscription may be here; with "
            "more than 64KiB one subscriber could end zqueued",
        ),
        # one endpoint, two sockets
        (
            "[queues.q]\nfrontend = 'tcp://*:1'\nbackend = 'tcp://127.0.0.1:1'\n",
            '3: queues.q.backend: "tcp://127.0.0.1:1" is taken by queues.q.frontend (line 2), '
            '"tcp://*:1"',
        ),
        (
            f"{QUEUE}[queues.b]\nfrontend = 'tcp://*:1'\nbackend = {{bind = ['tcp://*:5560']}}\n",
            '6: queues.b.backend.bind[0]: "tcp://*:5560" is taken by queues.default.backend (line ',
        ),
        (
            in_queue("capture = 'tcp://*:5559'"),
            '4: queues.default.capture: "tcp://*:5559" is taken',
        ),
        (
            in_queue("control = 'ipc:///run/c'\n[control]\nendpoint = 'ipc:///run//c'"),
            '4: queues.default.control: "ipc:///run/c" is taken by control.endpoint (line 6)',
        ),
        (
            f"[metrics]\nlisten = '127.0.0.1:5560'\n{QUEUE}",
            '5: queues.default.backend: "tcp://*:5560" is taken by metrics.listen (line 2), '
            '"tcp://127.0.0.1:5560"',
        ),
        (
            f"[events]\npublish = 'tcp://127.0.0.1:9560'\n[metrics]\nlisten = '*:9560'\n{QUEUE}",
            '4: metrics.listen: "tcp://*:9560" is taken by events.publish (line 2), '
            '"tcp://127.0.0.1:9560"',
        ),
        (in_frontend("connect = 'tcp://localhost:2'"), '5: queues.q.frontend.connect: "tcp://'),
        (
            in_frontend("connect = 'tcp://localhost:2'"),
            "is this queue itself, bound by queues.q.back",
        ),
        (in_frontend("connect = ['tcp://a:9', 'tcp://127.0.0.1:1']"), "frontend.connect[1]: "),
    ],
)
def test_what_is_refused(write: Write, text: str, problem: str) -> None:
    found = problems(write(text))
    assert len(found) == 1
    assert problem in found[0]
    if problem[0].isdigit():
        assert found[0].startswith(problem)


def test_all_problems_are_told_at_once_in_the_order_of_the_file(write: Write) -> None:
    found = problems(
        write("""\
[log]
level = "loud"
[queues.a]
type = 1
frontned = "tcp://*:1"
backend = "tcp://*:1"
[queues.b]
engine = "fast"
frontend = { bind = "tcp://*:1", heartbeat_timeout = "1s", reconnect = 5 }
backend = {}
[daemon]
drain_timeout = 30
""")
    )
    keys = [re.match(r"(\d+): ([^:]*):", problem) for problem in found]
    assert [key.groups() for key in keys if key] == [
        ("2", "log.level"),
        ("3", "queues.a"),
        ("4", "queues.a.type"),
        ("5", "queues.a.frontned"),
        ("8", "queues.b.engine"),
        ("9", "queues.b.frontend.bind"),
        ("9", "queues.b.frontend.heartbeat_timeout"),
        ("9", "queues.b.frontend.reconnect"),
        ("10", "queues.b.backend"),
        ("12", "daemon.drain_timeout"),
    ]


# -- warnings ----------------------------------------------------------------------------------


def test_a_control_socket_for_everybody_is_worth_a_warning(write: Write) -> None:
    path = write("[control]\nmode = '0666'\n")
    [warning] = load(path).warnings
    assert warning.startswith(f'{path}:2: control.mode: "0666" lets every user')


def test_a_reconnect_max_that_changes_nothing(write: Write) -> None:
    [warning] = load(write(in_frontend("reconnect = '1m'"))).warnings
    assert "queues.q.frontend.reconnect: reconnect_max is shorter" in warning


def test_what_the_machine_lacks(tmp_path: Path, write: Write) -> None:
    path = write(f"""\
[control]
endpoint = "ipc://{tmp_path}/control.sock"
group = "no-such-group"
[queues.q]
frontend = "ipc://{tmp_path}/none/front"
backend = {{ bind = "ipc://*", connect = ["ipc://{tmp_path}/none/back", "tcp://host:1"] }}
capture = "ipc://capture"
control = "ipc://@pair"
dead_letters = "{tmp_path}/none/dead.db"
""")
    loaded = load(path)
    assert loaded.warnings == ()
    places = [warning.split(": ")[:2] for warning in config.check(loaded)]
    assert places == [
        [f"{path}:5", "queues.q.frontend.bind"],
        [f"{path}:6", "queues.q.backend.connect"],
        [f"{path}:7", "queues.q.capture"],
        [f"{path}:9", "queues.q.dead_letters"],
        [f"{path}:3", "control.group"],
    ]
    (tmp_path / "none").mkdir()
    assert len(config.check(loaded)) == 2


def test_the_default_needs_nothing() -> None:
    assert config.check(LoadedConfig(Config())) == []


# -- origins -----------------------------------------------------------------------------------


def test_where_each_value_came_from(write: Write) -> None:
    path = write(
        '[daemon]\ndrain_timeout = "90s"\n[queues."a.b"]\nfrontend = "tcp://*:1"\n'
        'backend = { bind = [\n"tcp://*:2"], send_buffer = 1024 }\n'
    )
    loaded = load(path)
    told = {key: (value, origin) for key, value, origin in loaded.effective()}
    assert told["daemon.drain_timeout"] == ("1m30s", f"{path}:2")
    assert told["log.level"] == ("info", "default")
    assert told['queues."a.b".frontend.bind'] == (["tcp://*:1"], f"{path}:4")
    assert told['queues."a.b".frontend.linger'] == ("0s", "default")
    assert told['queues."a.b".backend.bind'] == (["tcp://*:2"], f"{path}:5")
    assert told['queues."a.b".backend.send_buffer'] == ("1KiB", f"{path}:5")
    assert told['queues."a.b".backend.heartbeat'] == (None, "default")
    assert json.loads(json.dumps(loaded.effective())) == [list(row) for row in loaded.effective()]
    assert loaded.origin('queues."a.b"') == f"{path}:3"


def test_the_default_comes_from_nowhere() -> None:
    effective = LoadedConfig(Config()).effective()
    assert {origin for _, _, origin in effective} == {"default"}
    assert {key for key, _, _ in effective} >= {"daemon.name", "queues.default.frontend.bind"}


# -- etc/zqueue.toml ---------------------------------------------------------------------------

_COMMENTED = re.compile(r"#([a-z][a-z_0-9]* = .*)")


def test_the_example_is_the_default() -> None:
    loaded = load(EXAMPLE)
    assert loaded.warnings == ()
    assert loaded.config == Config()


def uncommented() -> str:
    return "\n".join(
        found[1] if (found := _COMMENTED.fullmatch(line)) else line
        for line in EXAMPLE.read_text().splitlines()
    )


def test_the_example_with_every_key_in_force(write: Write) -> None:
    loaded = load(write(uncommented()))
    assert loaded.warnings == ()
    not_there = [key for key, _, origin in loaded.effective() if origin == "default"]
    assert not_there == ["queues.default.backend.reply_high_water_mark"]


def test_the_example_says_every_default_and_comments_out_the_rest() -> None:
    loaded = load(EXAMPLE)
    for key, value, origin in loaded.effective():
        has_default = value is not None and key != "daemon.name"
        if key != "queues.default.backend.reply_high_water_mark":
            assert (origin != "default") == has_default, key


@pytest.mark.parametrize(
    ("table", "model"),
    [
        ("daemon", config.DaemonConfig),
        ("control", config.ControlConfig),
        ("log", config.LogConfig),
        ("events", config.EventsConfig),
        ("metrics", config.MetricsConfig),
        ("queues.default", config.QueueConfig),
        ("queues.default.frontend", SocketConfig),
        ("queues.default.backend", SocketConfig),
    ],
)
def test_the_example_documents_every_key(table: str, model: type[BaseModel]) -> None:
    """In its own table, and in the order that the model has."""
    section = uncommented().split(f"\n[{table}]\n")[1].split("\n[")[0]
    there = re.findall(r"^(\w+) = ", section, re.M)
    wanted = [name for name in model.model_fields if name not in ("frontend", "backend")]
    if table.endswith("backend"):
        wanted.remove("reply_high_water_mark")
    assert there == wanted


# -- the difference ----------------------------------------------------------------------------


def queues(**named: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {"frontend": f"ipc:///{name}/f", "backend": f"ipc:///{name}/b", **more}
        for name, more in named.items()
    }


def test_the_difference() -> None:
    old = Config.model_validate({"queues": queues(a={}, b={}, c={}, d={"start": "paused"})})
    new = Config.model_validate(
        {
            "log": {"level": "debug"},
            "daemon": {"drain_timeout": "1m"},
            "queues": queues(
                e={},
                a={},
                c={"frontend": {"bind": "ipc:///c/f", "high_water_mark": 5}, "capture": "ipc:///x"},
                d={"drain_timeout": "1s"},
            ),
        }
    )
    found = difference(old, new)
    assert found.added == ("e",)
    assert found.removed == ("b",)
    assert found.unchanged == ("a",)
    assert found.changed == {
        "c": ("frontend.high_water_mark", "capture"),
        "d": ("start", "drain_timeout"),
    }
    assert found.settings == ("daemon.drain_timeout", "log.level")
    assert needs_rebind(found.changed["c"])
    assert not needs_rebind(found.changed["d"])


def test_what_is_written_otherwise_is_not_a_change() -> None:
    old = {"queues": queues(a={"drain_timeout": "90s"})}
    new = {"queues": queues(a={"drain_timeout": "1m30s", "backend": {"bind": ["ipc:///a/b"]}})}
    found = difference(Config.model_validate(old), Config.model_validate(new))
    assert (found.changed, found.unchanged) == ({}, ("a",))


_SIDES = st.fixed_dictionaries(
    {"bind": st.sampled_from(["ipc:///a", "ipc:///b"])},
    optional={
        "high_water_mark": st.integers(0, 3),
        "linger": st.sampled_from(["1s", "1000ms", "2s"]),
        "tcp_keepalive": st.sampled_from([False, "1s", "5s"]),
        "max_message_size": st.sampled_from([1024, "1KiB", "1MiB"]),
    },
)
_QUEUES = st.fixed_dictionaries(
    {"frontend": _SIDES, "backend": _SIDES},
    optional={
        "start": st.sampled_from(["running", "paused"]),
        "drain_timeout": st.sampled_from(["1s", "60s", "1m"]),
        "type": st.sampled_from(["queue", "streamer"]),
    },
)
_CONFIGS = st.builds(
    lambda queues, level: Config.model_validate({"queues": queues, "log": {"level": level}}),
    st.dictionaries(st.sampled_from("abcd"), _QUEUES, min_size=1),
    st.sampled_from(["info", "debug"]),
)


@given(_CONFIGS)
def test_a_config_does_not_differ_from_itself(one: Config) -> None:
    found = difference(one, Config.model_validate(one.model_dump(mode="json", exclude_unset=True)))
    assert (found.added, found.removed, found.changed, found.settings) == ((), (), {}, ())
    assert found.unchanged == tuple(one.queues)


@given(_CONFIGS, _CONFIGS)
def test_every_queue_is_in_one_part_of_the_difference(old: Config, new: Config) -> None:
    found = difference(old, new)
    parts = [*found.added, *found.removed, *found.changed, *found.unchanged]
    assert sorted(parts) == sorted({*old.queues, *new.queues})
    assert all(old.queues[name] == new.queues[name] for name in found.unchanged)
    assert all(old.queues[name] != new.queues[name] for name in found.changed)
    assert all(found.changed.values())
    back = difference(new, old)
    assert (set(back.added), set(back.removed)) == (set(found.removed), set(found.added))
    assert {name: set(keys) for name, keys in back.changed.items()} == {
        name: set(keys) for name, keys in found.changed.items()
    }


# -- rubbish -----------------------------------------------------------------------------------


def to_toml(document: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(key)} = {_inline(value)}\n" for key, value in document.items())


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        members = (f"{json.dumps(key)} = {_inline(member)}" for key, member in value.items())
        return "{" + ", ".join(members) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    return str(value)


_MODELS: tuple[type[BaseModel], ...] = (
    Config,
    config.DaemonConfig,
    config.ControlConfig,
    config.LogConfig,
    config.QueueConfig,
    SocketConfig,
)
_KEYS = {name for model in _MODELS for name in model.model_fields}
_NAMES = st.sampled_from(sorted(_KEYS | {"default", "a b", "", "[key]", "x.y"})) | st.text(
    st.characters(codec="utf-8"), max_size=4
)
_SCALARS = (
    st.sampled_from(
        [
            "tcp://*:5559",
            "tcp://localhost:5559",
            "ipc:///a",
            "ipc://@",
            "tcp://",
            "0660",
            "30s",
            "1MiB",
            "queue",
            "wire",
        ]
    )
    | st.sampled_from([0, 1000, -1, 2**63, True, False])
    | st.text(st.characters(codec="utf-8"), max_size=12)
    | st.integers()
    | st.floats()
)
_JUNK = st.recursive(
    _SCALARS,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(_NAMES, inside, max_size=4),
    max_leaves=12,
)


@st.composite
def mutants(draw: st.DrawFn) -> dict[str, Any]:
    """A good config in which a few places were replaced, removed or added to."""
    document: dict[str, Any] = {
        "daemon": {"name": "x", "drain_timeout": "30s"},
        "control": {"endpoint": "ipc:///run/zqueue/control.sock", "mode": "0660", "group": "root"},
        "log": {"level": "info", "format": "auto"},
        "queues": {
            "one": {
                "frontend": "tcp://*:5559",
                "backend": {"bind": ["tcp://*:5560"], "heartbeat": "1s", "heartbeat_timeout": "1s"},
                "capture": "tcp://*:5561",
            },
            "two": {"type": "streamer", "frontend": {"connect": "ipc:///a"}, "backend": "ipc:///b"},
        },
    }
    for _ in range(draw(st.integers(0, 4))):
        inside: dict[str, Any] = document
        while inside:
            key = draw(st.sampled_from(sorted(inside)))
            if not isinstance(inside[key], dict) or draw(st.integers(0, 3)) == 0:
                break
            inside = inside[key]
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "remove" if inside:
                del inside[key]
            case "replace" if inside:
                inside[key] = draw(_JUNK)
            case _:
                inside[draw(_NAMES)] = draw(_JUNK)
    return document


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutants() | st.dictionaries(_NAMES, _JUNK, max_size=4))
def test_any_document_is_a_config_or_a_config_error(write: Write, document: dict[str, Any]) -> None:
    path = write(to_toml(document))
    loaded = load_or_refuse(path)
    if isinstance(loaded, ConfigError):
        assert loaded.problems
        assert all(problem.startswith(str(path)) for problem in loaded.problems)
        assert all(problem.isprintable() for problem in loaded.problems)
        assert "another value" not in str(loaded)
    else:
        json.dumps(loaded.effective())
        config.check(loaded)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_a_config_or_a_config_error(write: Write, text: str) -> None:
    load_or_refuse(write(text))


def load_or_refuse(path: Path) -> LoadedConfig | ConfigError:
    try:
        return load(path)
    except ConfigError as error:
        return error


# -- the command -------------------------------------------------------------------------------


def zqueued_check(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zqueue.cli.zqueued", "--check", "--config", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_command_tells_a_good_config(write: Write) -> None:
    path = write(QUEUE)
    done = zqueued_check(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{path}: good")


def test_the_command_warns_of_a_missing_folder(write: Write) -> None:
    done = zqueued_check(write(in_queue("control = 'ipc:///no/such/folder/pair'")))
    assert done.returncode == 0
    assert "the folder /no/such/folder of ipc:///no/such/folder/pair is missing" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (in_queue("frontned = 1"), '4: queues.default.frontned: unknown key; did you mean "fronte'),
        ("[queues.q]\nfrontend = 12\n", "2: queues.q.frontend: found 12, expected an endpoint"),
        ("[queues.q]\nfrontend = 12\n", "1: queues.q: backend is missing"),
        ("[queues\n", ":1:"),
        (in_queue("engine = 'fast'"), 'expected "auto", "wire" or "libzmq"'),
    ],
)
def test_the_command_refuses_a_bad_config(write: Write, text: str, said: str) -> None:
    done = zqueued_check(write(text))
    assert (done.returncode, done.stdout) == (78, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_and_a_missing_file(tmp_path: Path) -> None:
    done = zqueued_check(tmp_path / "none.toml")
    assert done.returncode == 78
    assert "none.toml: there is no such file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("type", ["queue", "forwarder", "streamer"])
def test_a_heartbeat_is_for_those_who_can_answer_it(write: Write, type: str) -> None:
    """Also where a full backend could not: at the frontend, and where it is off."""
    heartbeat = "1s" if type == "queue" else "0s"
    loaded = load(
        write(f"""\
[queues.q]
type = "{type}"
frontend = {{ bind = "tcp://*:1", heartbeat = "1s" }}
backend = {{ bind = "tcp://*:2", heartbeat = "{heartbeat}", max_message_size = "64KiB" }}
""")
    )
    assert loaded.config.queues["q"].frontend.heartbeat == 1


def test_a_link_to_nothing_is_no_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would open the built-in queue to anybody."""
    path = tmp_path / "zqueue.toml"
    monkeypatch.setattr(config, "DEFAULT_PATH", path)
    assert load(None).path is None
    (tmp_path / "missing").mkdir()
    for target in ("elsewhere.toml", str(tmp_path / "missing" / "zqueue.toml"), "zqueue.toml"):
        path.symlink_to(target)
        for named in (None, path):
            with pytest.raises(ConfigError, match=r"it links to|cannot be read: Too many levels"):
                load(named)
        path.unlink()
