"""What a config takes, and what this process may have: said before it is too late."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import StartZqueued
from zqueue import limits
from zqueue.config import Config
from zqueue.control.client import Refused


def described(count: int, engine: str = "libzmq", connect: str = "") -> str:
    """So many queues, on ports that the kernel chooses."""
    more = f', connect = "{connect}"' if connect else ""
    return "".join(
        f'[queues.q{number}]\nengine = "{engine}"\nfrontend = "tcp://127.0.0.1:*"\n'
        f'backend = {{ bind = "tcp://127.0.0.1:*"{more} }}\n'
        for number in range(count)
    )


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def check(path: Path, *, few: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zqueue.cli.zqueued", "--check", "--config", str(path)]
    limit = few_descriptors if few else None
    return subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=limit)


def test_a_start_beyond_the_limits_is_refused_with_figures(
    start_zqueued: StartZqueued, tmp_path: Path
) -> None:
    zqueued = start_zqueued(described(40), ready=False, preexec_fn=few_descriptors)
    assert zqueued.process.wait(60) == 1
    log = zqueued.log_path.read_text()
    assert "40 queues take 861 descriptors before anybody connects" in log
    assert "this process may have 224: raise LimitNOFILE=" in log
    assert "Traceback" not in log
    checked = check(zqueued.path, few=True)
    assert "40 queues take 861 descriptors" in checked.stderr
    assert "good, but too much for what this process may have, 40 queues" in checked.stdout
    path = tmp_path / "few.toml"
    path.write_text(described(1))
    assert "good, 1 queue, at least 10 threads and 42 descriptors" in check(path).stdout


def test_a_reload_beyond_them_changes_nothing(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(described(2), preexec_fn=few_descriptors)
    before = zqueued.queue("q0")
    zqueued.write(described(40))
    with zqueued.client() as control:
        with pytest.raises(Refused, match="40 queues take 861 descriptors"):
            control.reload()
        assert [queue.name for queue in control.status().queues] == ["q0", "q1"]
        zqueued.write(described(3))
        assert control.reload().added == ("q2",)
    assert zqueued.queue("q0").since == before.since


def test_threads_and_sockets_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate(
        {
            "queues": {
                f"q{number}": {
                    "engine": "libzmq",
                    "frontend": "tcp://127.0.0.1:*",
                    "backend": "tcp://127.0.0.1:*",
                }
                for number in range(3)
            }
        }
    )
    assert limits.needs(config) == limits.Needs(threads=18, descriptors=84, sockets=6)
    monkeypatch.setattr(limits, "_thread_limits", lambda: iter([(17, "a limit", "TasksMax=")]))
    monkeypatch.setattr(limits, "MOST_SOCKETS", 5)
    assert limits.problems(config) == [
        "3 queues take 18 threads, and a limit leaves 17: raise TasksMax=",
        "3 queues take 6 sockets of libzmq, which has 5: have several zqueued share them",
    ]


def test_what_is_counted_is_what_is_taken(start_zqueued: StartZqueued) -> None:
    """The figures are no more than what a queue really takes."""
    for each in ("wire", "libzmq"):
        zqueued = start_zqueued(described(5, each))
        config = Config.model_validate({"queues": _sides(5, each)})
        needed = limits.needs(config)
        process = Path(f"/proc/{zqueued.process.pid}")
        assert len(list((process / "task").iterdir())) >= needed.threads
        assert len(list((process / "fd").iterdir())) >= needed.descriptors
        assert len(list((process / "fd").iterdir())) <= needed.descriptors + 30


def _sides(count: int, engine: str) -> dict[str, dict[str, str]]:
    sides = {"frontend": "tcp://127.0.0.1:*", "backend": "tcp://127.0.0.1:*"}
    return {f"q{number}": {"engine": engine} | sides for number in range(count)}


def test_a_name_without_an_address_is_told(tmp_path: Path) -> None:
    path = tmp_path / "named.toml"
    path.write_text(described(1, connect="tcp://nobody.invalid:5555"))
    checked = check(path)
    assert (
        "queues.q0.backend.connect: tcp://nobody.invalid:5555: the name nobody.invalid has no"
        in (checked.stderr)
    )
    path.write_text(described(1, connect="tcp://127.0.0.1:5555"))
    assert check(path).stderr == ""


@pytest.mark.parametrize("count", [600])
def test_there_may_be_more_queues_than_libzmq_has_sockets_by_default(count: int) -> None:
    """Its 1,023 sockets of a context are enough for 511 queues."""
    import zmq

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    limits.raise_sockets(context)
    pairs = [context.socket(zmq.PAIR) for _ in range(2 * count)]
    for each in pairs:
        each.close(0)
    context.term()
