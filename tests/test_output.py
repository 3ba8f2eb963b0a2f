"""What zqueuectl prints: in any locale, to whatever reads it, whatever peers have said."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.conftest import StartZqueued
from tests.terminal import Terminal
from tests.test_versions import RECORDED, Recording
from tests.zqueued import ONE_QUEUE, Zqueued
from zqueue import printable as printables
from zqueue.cli import doctor, render, render_dead, render_lists, render_tap
from zqueue.cli.tables import Table
from zqueue.cli.top import table as top_table
from zqueue.cli.zqueuectl import main
from zqueue.control import messages
from zqueue.events import Event
from zqueue.findings import Finding
from zqueue.logs import _renderer
from zqueue.web import http, page

EVERY_CHARACTER = "".join(map(chr, (*range(0x100), 0x202E, 0x2028, 0x200B, 0xFEFF, 0xDC9B)))
"""All that is one byte in latin-1, and what turns a line round, ends it, or is no text."""

WORDS = (
    *("by", "reason", "engine_reason", "detail", "peer", "identity", "message", "name", "type"),
    *("state", "zmtp", "broker", "client", "client_peer", "worker_peer", "version", "config"),
    *("control", "log", "log_level", "key", "origin", "value", "failure", "path", "id", "queue"),
    *("python", "libzmq", "pyzmq", "level", "outcome", "client_identity", "capture", "engine"),
)


def spoiled(value: Any, name: str = "") -> Any:
    """The same with every character in each field that holds text, whoever may have filled it."""
    if isinstance(value, dict):
        return {
            key: each if key in ("kind", "v") else spoiled(each, key) for key, each in value.items()
        }
    if isinstance(value, list):
        return [spoiled(each, name) for each in value]
    if isinstance(value, str) and name not in ("content", "bodies", "data"):
        return EVERY_CHARACTER.replace("\udc9b", "") + value
    return value


def assert_harmless(text: str, about: object) -> None:
    wrong = {each for each in text if not each.isprintable()} - {"\n"}
    assert not wrong, (about, wrong)


class Spoiled(Recording):
    """A zqueued of which every text is all characters that there are."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, later=False)
        identities = ("identity", "client_identity")
        for verb, replies in self.replies.items():
            told = [spoiled(reply) for reply in replies]
            encoded = json.dumps(told)
            self.replies[verb] = json.loads(encoded)
            for reply in self.replies[verb]:
                _put_hex(reply, identities, EVERY_CHARACTER.encode("utf-8", "ignore").hex())


def _put_hex(value: Any, names: tuple[str, ...], text: str) -> None:
    """Routing ids are told in hex."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key in names or (key == "client" and isinstance(each, str)):
                value[key] = text
            else:
                _put_hex(each, names, text)
    elif isinstance(value, list):
        for each in value:
            _put_hex(each, names, text)


def test_no_view_lets_a_peer_steer_the_terminal(tmp_path: Path) -> None:
    recording = Spoiled(tmp_path)
    try:
        for words in (
            *("status", "status --timeout 5", "queues", "stats", "stats --explain", "top --once"),
            *("watch --count 1", "workers x", "clients x", "connections x", "requests x"),
            *("events -n 3", "config show", "version", "dead list x", "reload", "log-level"),
            *("tap x --count 1", "tap x --count 1 --render json", "tap x --count 1 --render hex"),
            *("resume x", "pause x --wait", "drain x", "kick 1", "dead drop --all"),
        ):
            for json_too in ((), ("--json",)):
                line = ("-e", recording.endpoint, *json_too, *words.split())
                done = CliRunner().invoke(main, line)
                wrong = done.exception
                assert wrong is None or isinstance(wrong, SystemExit), (words, wrong)
                assert_harmless(done.output, words)
                shown = "\\x1b" in done.output or "\\u001b" in done.output
                empty = words in ("requests x", "tap x --count 1 --render hex")
                assert shown or empty or done.exit_code, words
    finally:
        recording.close()


def test_errors_too(tmp_path: Path) -> None:
    recording = Recording(tmp_path, later=False)
    error = {"v": 1, "kind": "error", "code": "failed", "message": EVERY_CHARACTER[:-1]}
    recording.replies = {verb: [error] for verb in recording.replies}
    try:
        done = CliRunner().invoke(main, ("-e", recording.endpoint, "reload"))
        assert done.exit_code == 1
        assert_harmless(done.output, "an error")
    finally:
        recording.close()


def test_no_frame_of_a_message_does(tmp_path: Path) -> None:
    shown = io.StringIO()
    for each in RECORDED:
        request, reply = each["request"], each["replies"][-1]
        for found in reply.get("result", {}).get("messages", ()):
            body = json.dumps([EVERY_CHARACTER[:-1]], ensure_ascii=False).encode()
            for frame in (body, EVERY_CHARACTER.encode("utf-8", "ignore"), bytes(range(256))):
                message = messages.TappedMessage.model_validate(found | {"bodies": [_b64(frame)]})
                for how in ("text", "json", "hex"):
                    assert_harmless(render_tap.line(message, how), how)
        if request["verb"] == "dead-list":
            for found in reply["result"]["letters"]:
                frame = EVERY_CHARACTER.encode("utf-8", "ignore")
                said = {"content": _b64(frame), "sizes": [len(frame)], "envelope": 0}
                letter = messages.DeadLetter.model_validate(found | said | {"size": len(frame)})
                with pytest.MonkeyPatch.context() as patch:
                    console = Console(file=shown, width=200)
                    patch.setattr(render_dead, "new_console", lambda console=console: console)
                    render_dead.letter(letter, in_hex=False)
    assert_harmless(shown.getvalue(), "dead letters")


def _b64(frame: bytes) -> str:
    import base64

    return base64.b64encode(frame).decode()


def test_neither_do_the_log_and_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    said = EVERY_CHARACTER[:-1]
    doctor._show([Finding("bad", said, said, "operator", (said,))])
    assert_harmless(capsys.readouterr().out, "the doctor")
    event = Event(
        *("queue.steering_refused", "warning", 0.0, "q", EVERY_CHARACTER),
        {"by": EVERY_CHARACTER, "word": EVERY_CHARACTER, "error": [EVERY_CHARACTER] * 2},
    )
    for format in ("console", "logfmt", "json", "journal"):
        assert_harmless(_renderer(format, 2)(event), format)
    assert_harmless(page.escape(EVERY_CHARACTER), "the status page")
    assert_harmless(http.text(200, EVERY_CHARACTER).body.decode(), "a plain answer")
    assert_harmless(top_table.plain(EVERY_CHARACTER).plain, "top")
    assert printables.printable("a\x1b[2J\x9b\u202eb") == "a\\x1b[2J\\x9b\\u202eb"


LOCALES = (
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "euc_jp"},
    {"PYTHONIOENCODING": "shift_jis"},
    {"PYTHONIOENCODING": "cp437"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "koi8-r"},
)


@pytest.mark.parametrize("locale", LOCALES, ids=lambda locale: "-".join(locale.values()))
def test_every_locale_is_good(locale: dict[str, str], tmp_path: Path) -> None:
    """Every command in one process of that locale, about a zqueued with names from everywhere."""
    recording = Recording(tmp_path, later=False)
    for replies in recording.replies.values():
        replies[:] = json.loads(
            json.dumps(replies).replace("0/root", "0/J\\u00f6rg \\u2014 \\u732b")
        )
    lines = [
        *("--help", "workers --help", "tap --help", "status", "queues", "stats", "stats --explain"),
        *("workers orders", "clients orders", "connections orders", "requests orders", "events"),
        *("config show", "dead list orders", "resume orders", "top --once", "version", "doctor"),
        *("--json status", "--json events", "--json workers orders", "--json config show", "fly"),
        *("pause --\u732b", "watch --count 1", "dead export orders -", "tap orders --count 1"),
    ]
    code = (
        "import os, sys, traceback\n"
        "from zqueue.cli.zqueuectl import main\n"
        "from zqueue.cli.zqueued import main as zqueued\n"
        f"for line in {lines!a}:\n"
        "    try:\n"
        f"        main(['-e', {recording.endpoint!r}, *line.split()])\n"
        "    except SystemExit as end:\n"
        "        if end.code not in (0, 1, 2): print('WRONG', line, end.code)\n"
        "    except BaseException:\n"
        "        traceback.print_exc()\n"
        "for line in ['--help'], ['--check', '--config', os.fsdecode(b'/\\xe7\\x8c\\xab/x')]:\n"
        "    try: zqueued(line)\n"
        "    except SystemExit: pass\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            timeout=120,
            env={key: value for key, value in os.environ.items() if key[:3] != "LC_"} | locale,
        )
    finally:
        recording.close()
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    assert b"WRONG" not in done.stdout
    assert done.returncode == 0
    assert b"orders" in done.stdout


def printed_to(command: str, zqueued: Zqueued) -> subprocess.CompletedProcess[str]:
    ctl = f"{sys.executable} -m zqueue.cli.zqueuectl -e {zqueued.control}"
    script = f'set -o pipefail; ctl() {{ {ctl} "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)


def test_what_cannot_be_written_undoes_nothing(zqueued: Zqueued) -> None:
    full = "what there was to say cannot be written: No space left on device"
    for command, code, says in (
        ("ctl pause > /dev/full", 0, full),
        ("ctl --json resume > /dev/full", 0, full),
        ("ctl drain > /dev/full 2>&1", 0, ""),
        ("ctl log-level info > /dev/full", 0, full),
        ("ctl status > /dev/full", 1, full),
        ("ctl --json status > /dev/full", 1, full),
        ("ctl --help > /dev/full", 1, full),
        ("ctl stats | head -1", 0, ""),
        ("ctl --help | head -1", 0, ""),
        ("ctl config show | true", 0, ""),
        ("ctl resume | true", 0, ""),
        ("ctl resume nobody | true", 1, "there is no queue"),
        ("ctl status >&-", 0, ""),
        ("ctl pause >&- 2>&-", 0, ""),
    ):
        done = printed_to(command, zqueued)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), (command, done)
        assert says in done.stderr, command
        if not says:
            assert done.stderr == "", command
    assert zqueued.queue().state == "paused"


def test_files_of_payloads_are_their_users_alone(
    start_zqueued: StartZqueued, tmp_path: Path
) -> None:
    zqueued = start_zqueued(ONE_QUEUE + "tap = true\n")
    recorded, exported = tmp_path / "recorded", tmp_path / "exported"
    assert zqueued.ctl("dead", "export", str(exported)).returncode == 0
    tapping = subprocess.Popen(
        [
            *(sys.executable, "-m", "zqueue.cli.zqueuectl", "-e", zqueued.control),
            *("tap", "--write", str(recorded)),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tapping.stderr is not None
    assert "recording default to" in tapping.stderr.readline()
    tapping.kill()
    tapping.wait(20)
    for file in (recorded, exported):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    missing = zqueued.ctl("tap", "--write", str(tmp_path / "no" / "file"))
    assert (missing.returncode, "Traceback" in missing.stderr) == (1, False)


def seen_at(width: int, words: tuple[str, ...]) -> list[str]:
    """What zqueuectl shows at a terminal of this width."""
    command = [sys.executable, "-m", "zqueue.cli.zqueuectl", *words]
    terminal = Terminal(command, columns=width, lines=100)
    try:
        terminal.wait(lambda: terminal.process.poll() is not None, "its end")
        return terminal.lines
    finally:
        terminal.close()


@pytest.mark.parametrize("width", [80, 40])
def test_tables_fit(width: int, tmp_path: Path) -> None:
    """No heading and no number is broken; what is left out is named."""
    recording = Recording(tmp_path, later=False)
    try:
        for words in (("status",), ("workers", "orders"), ("stats",), ("config", "show")):
            lines = seen_at(width, ("-e", recording.endpoint, *words))
            heads = [word for line in lines for word in line.split() if word.isupper()]
            known = {word for name in _HEADINGS for word in name.split()}
            assert {word.strip(",") for word in heads if len(word) > 3} <= known, (words, lines)
            assert heads or words == ("stats",), words
    finally:
        recording.close()


_HEADINGS = {
    *(name.upper().replace("_", " ") for each in render_lists._COLUMNS.values() for name in each),
    *("QUEUE", "TYPE", "ENGINE", "STATE", "FRONTEND", "BACKEND", "CAPTURE", "CONTROL", "SINCE"),
    *("BY", "CLIENTS", "WORKERS", "WAITING", "IN FLIGHT", "REQUESTS", "REQUESTS/S", "DIED", "AGE"),
    *("ID", "REASON", "ATTEMPTS", "SIZE", "CLIENT", "MESSAGES", "FRAMES", "BYTES", "MESSAGES/S"),
    *("BYTES/S", "CONNECTED", "ACCEPTED", "DISCONNECTED", "REJECTED", "KEY", "VALUE", "FROM"),
    *(name.upper().replace("_", " ") for each in (messages.Ends, messages.Died, messages.Incidents)
      for name in each.model_fields), *("LOST", "DEALER", "ROUTER"),
}  # fmt: skip


def test_a_table_leaves_out_what_matters_less() -> None:
    table = Table("QUEUE", "TYPE", "WAITING", "STATE")
    table.add_row("orders", "forwarder", "1234567", "running")
    shown = io.StringIO()
    Console(file=shown, width=30).print(table)
    first, *_, last = shown.getvalue().rstrip().splitlines()
    assert first.split() == ["QUEUE", "WAITING", "STATE"]
    assert last == "no room for: TYPE"
    assert render.new_console().width >= 80
