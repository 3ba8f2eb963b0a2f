"""What a shell offers after zqueuectl, with the scripts that the package installs."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from click.testing import CliRunner

from tests.conftest import StartZqueued
from tests.engines import on_wire
from tests.waiting import wait_for
from tests.zqueued import Zqueued
from zqueue.cli.completion import instance_names
from zqueue.cli.zqueuectl import main

GENERATE = Path(__file__).parent.parent / "packaging" / "completions" / "generate.py"
QUEUES = "".join(
    f'[queues."{name}"]\nfrontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'
    for name in ("orders", "prices.eu", "prices.us")
)
PROGRAM = """\
#!{python}
from zqueue.cli.zqueuectl import main
main(prog_name="zqueuectl")
"""


class Shells:
    """The scripts, and a zqueuectl in the path."""

    def __init__(self, folder: Path) -> None:
        self.scripts = folder / "scripts"
        subprocess.run([sys.executable, str(GENERATE), str(self.scripts)], check=True)
        programs = folder / "bin"
        programs.mkdir()
        program = programs / "zqueuectl"
        program.write_text(PROGRAM.format(python=sys.executable))
        program.chmod(0o755)
        self.environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment | environment,
        )

    def bash(self, line: str, at: int | None = None, **environment: str) -> list[str]:
        """What bash offers at the end of ``line``, or ``at`` so many characters.

        Nothing else may be printed.
        """
        point = str(len(line) if at is None else at)
        script = (
            'source "$SCRIPT"\n'
            "set -- $(complete -p zqueuectl)\n"
            "while [[ $1 != -F ]]; do shift; done\n"
            'COMP_LINE=$LINE COMP_POINT=$POINT; "$2" "${LINE%% *}"\n'
            '[[ ${#COMPREPLY[@]} = 0 ]] || printf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        where = {"SCRIPT": str(self.scripts / "zqueuectl"), "LINE": line, "POINT": point}
        done = self.run("bash", "--norc", "-c", script, **where, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()


@pytest.fixture(scope="module")
def shells(tmp_path_factory: pytest.TempPathFactory) -> Shells:
    return Shells(tmp_path_factory.mktemp("completion"))


@pytest.fixture
def broker(start_zqueued: StartZqueued) -> Zqueued:
    return start_zqueued(QUEUES)


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[str]:
    """The endpoint of somebody who takes connections and says nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "deaf.sock"))
        listener.listen()
        yield f"ipc://{tmp_path}/deaf.sock"


# -- bash ------------------------------------------------------------------------------------------


def test_verbs_and_options_need_no_daemon(shells: Shells) -> None:
    assert shells.bash("zqueuectl pa") == ["pause"]
    assert {"status", "drain", "log-level", "demo"} <= set(shells.bash("zqueuectl "))
    assert shells.bash("zqueuectl drain --th") == ["--then"]
    assert shells.bash("zqueuectl drain --then ") == ["pause", "terminate"]
    assert shells.bash("zqueuectl drain --then=t") == ["terminate"]
    assert shells.bash("zqueuectl log-level d") == ["debug"]
    assert shells.bash("zqueuectl config ") == ["show"]
    assert shells.bash("zqueuectl --json sh") == ["shutdown"]


def test_names_of_queues_are_those_of_the_daemon_on_the_line(
    shells: Shells, broker: Zqueued
) -> None:
    every = ["orders", "prices.eu", "prices.us"]
    here = f"zqueuectl -e {broker.control}"
    assert shells.bash(f"{here} pause ") == every
    assert shells.bash(f"{here} pause pri") == ["prices.eu", "prices.us"]
    assert shells.bash(f"{here} pause prices.eu ") == ["orders", "prices.us"]
    assert shells.bash(f"{here} pause --all ") == []
    assert shells.bash(f"{here} stats o") == ["orders"]
    assert shells.bash(f"{here} events --queue ") == every
    assert shells.bash(f"{here} events -q o") == ["orders"]
    assert shells.bash(f"{here} events --queue=o") == ["orders"]
    assert shells.bash(f"zqueuectl pause --endpoint={broker.control} o") == ["orders"]
    assert shells.bash("zqueuectl pause o", ZQUEUE_ENDPOINT=broker.control) == ["orders"]
    assert shells.bash(f"zqueuectl pause o -e {broker.control}/nobody ") == []
    elsewhere = f"{broker.control}/nobody"
    assert shells.bash(f"{here} pause o", ZQUEUE_ENDPOINT=elsewhere) == ["orders"]
    assert shells.bash("zqueuectl --instance no pause ", ZQUEUE_ENDPOINT=broker.control) == []


def test_a_verb_is_offered_the_queues_that_it_would_change(shells: Shells, broker: Zqueued) -> None:
    here = f"zqueuectl -e {broker.control}"
    assert shells.bash(f"{here} resume ") == []
    assert shells.bash(f"{here} start ") == []
    broker.ctl("pause", "orders")
    broker.ctl("terminate", "prices.eu")
    assert shells.bash(f"{here} resume ") == ["orders"]
    assert shells.bash(f"{here} start ") == ["prices.eu"]
    assert shells.bash(f"{here} pause ") == ["prices.us"]
    assert shells.bash(f"{here} drain ") == ["orders", "prices.us"]
    assert shells.bash(f"{here} terminate ") == ["orders", "prices.us"]
    assert shells.bash(f"{here} stats ") == ["orders", "prices.eu", "prices.us"]


@on_wire
def test_dead_letters_are_offered_in_short(
    shells: Shells, start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    zqueued = start_zqueued(QUEUES.replace("backend", 'max_waiting_time = "1ms"\nbackend'))
    clients = []
    for queue in ("orders", "orders", "prices.eu"):
        clients.append(context.socket(zmq.DEALER))
        clients[-1].connect(zqueued.frontend(queue))
        clients[-1].send_multipart([b"", b"x"])

    def kept() -> int:
        return sum(queue.dead_letters.kept for queue in zqueued.status().queues)

    wait_for(lambda: kept() == 3)
    here = f"zqueuectl -e {zqueued.control} dead"
    with zqueued.client() as control:
        short = ["/".join(letter.id.split("/")[-2:]) for letter in control.dead_list()]
    assert sorted(shells.bash(f"{here} retry ")) == sorted(short)
    assert shells.bash(f"{here} show prices") == short[-1:]
    assert sorted(shells.bash(f"{here} drop {short[0]} ")) == sorted(short[1:])
    assert shells.bash(f"{here} list or") == ["orders"]
    assert shells.bash("zqueuectl dead e") == ["export"]


def test_without_an_answer_nothing_is_offered_or_said(
    shells: Shells, broker: Zqueued, deaf: str
) -> None:
    assert shells.bash("zqueuectl -e ipc:///nowhere/control.sock pause ") == []
    assert shells.bash("zqueuectl -e nonsense pause ") == []
    assert shells.bash(f"zqueuectl -e {deaf} pause ") == []
    assert shells.bash("zqueuectl --instance no-such-instance pause ") == []
    broker.process.send_signal(signal.SIGSTOP)
    try:
        assert shells.bash(f"zqueuectl -e {broker.control} pause ") == []
    finally:
        broker.process.send_signal(signal.SIGCONT)
    wait_for(lambda: shells.bash(f"zqueuectl -e {broker.control} pause o"), "an answer again")


def test_the_cursor_ends_the_line(shells: Shells) -> None:
    assert shells.bash("zqueuectl pa --all", at=len("zqueuectl pa")) == ["pause"]


def test_nothing_is_said_where_the_program_has_gone(shells: Shells) -> None:
    assert shells.bash("no-such-zqueuectl pa") == []


def test_instances_are_the_configs_of_the_folder(tmp_path: Path) -> None:
    for name in ("b.toml", "a.toml", "notes.txt"):
        (tmp_path / name).touch()
    assert instance_names(tmp_path) == ["a", "b"]
    assert instance_names(tmp_path / "missing") == []


def test_the_instances_of_this_machine_are_offered(shells: Shells) -> None:
    assert shells.bash("zqueuectl --instance ") == instance_names(Path("/etc/zqueue"))


def test_completion_of_a_verb_imports_little() -> None:
    code = (
        "import sys\n"
        "from click.shell_completion import BashComplete\n"
        "from zqueue.cli.zqueuectl import main\n"
        "offered = BashComplete(main, {}, 'zqueuectl', '').get_completions([], 'pa')\n"
        "print([item.value for item in offered])\n"
        "print([name for name in ('zmq', 'pydantic', 'rich', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["['pause']", "[]"]


# -- zsh and fish ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("shell", "name"), [("zsh", "_zqueuectl"), ("fish", "zqueuectl.fish")])
def test_the_script_for_another_shell_is_sound(shells: Shells, shell: str, name: str) -> None:
    script = shells.scripts / name
    text = script.read_text()
    assert "zqueuectl" in text
    assert f"_ZQUEUECTL_COMPLETE={shell}_complete" in text
    if shell == "zsh":
        assert text.startswith("#compdef zqueuectl\n"), "else zsh does not load it"
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its syntax is not checked")
    done = shells.run(shell, "-n", str(script))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes_verbs_and_queues(shells: Shells, broker: Zqueued, tmp_path: Path) -> None:
    """A zsh at a terminal, whose TAB completes as ever, and then writes the line into a file."""
    line = tmp_path / "line"
    setup = (
        f"fpath=({shells.scripts} $fpath); autoload -Uz compinit; compinit -u -D\n"
        f"tab() {{ zle expand-or-complete; print -r -- $BUFFER > {line}.new; BUFFER=; "
        f"mv {line}.new {line} }}; zle -N tab; bindkey '^I' tab\n"
    )
    master, terminal = pty.openpty()
    zsh = subprocess.Popen(
        ["zsh", "-f", "-i"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=shells.environment | {"HOME": str(tmp_path), "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(terminal)
    try:
        os.write(master, setup.encode())

        def completed(typed: str) -> str:
            line.unlink(missing_ok=True)
            os.write(master, f"{typed}\t".encode())
            wait_for(line.exists, f"zsh to complete {typed}")
            return line.read_text().strip()

        here = f"zqueuectl -e {broker.control}"
        assert completed("zqueuectl pau") == "zqueuectl pause"
        assert completed(f"{here} pause o") == f"{here} pause orders"
        assert completed(f"{here} pause pri") == f"{here} pause prices."
        assert completed(f"{here} events --queue=o") == f"{here} events --queue=orders"
    finally:
        zsh.kill()
        zsh.wait()
        os.close(master)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_offers_verbs_and_queues(shells: Shells, broker: Zqueued, tmp_path: Path) -> None:
    def fish(line: str) -> list[str]:
        code = f"source {shells.scripts}/zqueuectl.fish; complete -C '{line}'"
        done = shells.run("fish", "--no-config", "-c", code, HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
        return [offered.partition("\t")[0] for offered in done.stdout.splitlines()]

    assert fish("zqueuectl pau") == ["pause"]
    assert fish(f"zqueuectl -e {broker.control} pause pri") == ["prices.eu", "prices.us"]
    assert fish(f"zqueuectl -e {broker.control} events --queue=o") == ["--queue=orders"]
    assert fish("zqueuectl -e ipc:///nowhere/control.sock pause ") == []


@pytest.mark.parametrize(
    ("shell", "file"), [("bash", "zqueuectl"), ("zsh", "_zqueuectl"), ("fish", "zqueuectl.fish")]
)
def test_zqueuectl_prints_what_the_package_has(shell: str, file: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(GENERATE), str(tmp_path)], check=True, timeout=60)
    printed = CliRunner().invoke(main, ["completion", shell])
    assert printed.exit_code == 0
    assert printed.output == (tmp_path / file).read_text()
    assert "zqueuectl" in printed.output
    assert CliRunner().invoke(main, ["completion", "tcsh"]).exit_code == 2
