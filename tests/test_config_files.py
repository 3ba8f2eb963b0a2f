"""A config of several files, with values from the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import StartZqueued
from zqueue import config
from zqueue.config import LoadedConfig
from zqueue.errors import ConfigError

A = '[queues.a]\nfrontend = "tcp://127.0.0.1:11001"\nbackend = "tcp://127.0.0.1:11002"\n'
B = '[queues.b]\nfrontend = "tcp://127.0.0.1:11003"\nbackend = "tcp://127.0.0.1:11004"\n'


@pytest.fixture
def main(tmp_path: Path) -> Path:
    (tmp_path / "zqueue.d").mkdir()
    return tmp_path / "zqueue.toml"


def write(main: Path, **files: str) -> None:
    for name, text in files.items():
        (main.parent / "zqueue.d" / f"{name}.toml").write_text(text)


def refused(main: Path) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        config.load(main)
    return [each.replace(f"{main.parent}/", "") for each in refusal.value.problems]


def origins(loaded: LoadedConfig) -> dict[str, str]:
    return {key: Path(origin).name for key, _, origin in loaded.effective()}


def test_a_file_for_each_queue(main: Path) -> None:
    main.write_text('[log]\nlevel = "debug"\n')
    write(main, a=A, b=B + 'capture = "ipc:///c"\n')
    loaded = config.load(main)
    assert list(loaded.config.queues) == ["a", "b"]
    assert loaded.config.log.level == "debug"
    where = origins(loaded)
    assert where["log.level"] == "zqueue.toml:2"
    assert where["queues.a.frontend.bind"] == "a.toml:2"
    assert where["queues.b.capture"] == "b.toml:4"
    assert where["queues.b.deadline"] == "default"
    assert loaded.path == main


def test_a_queue_and_a_table_may_be_in_several_files(main: Path) -> None:
    main.write_text(A + '[log]\nlevel = "debug"\n')
    write(main, more='[queues.a]\ndeadline = "5s"\n[log]\nformat = "json"\n')
    loaded = config.load(main)
    assert loaded.config.queues["a"].deadline == 5
    assert (loaded.config.log.level, loaded.config.log.format) == ("debug", "json")
    assert origins(loaded)["queues.a.deadline"] == "more.toml:2"


def test_other_files_are_none_of_it(main: Path) -> None:
    main.write_text(A)
    folder = main.parent / "zqueue.d"
    for name in ("b.toml.dpkg-old", ".b.toml", "b.toml~", "README"):
        (folder / name).write_text("no TOML")
    assert list(config.load(main).config.queues) == ["a"]


@pytest.mark.parametrize("folder", ["absent", "a file"])
def test_there_need_be_no_folder(folder: str, tmp_path: Path) -> None:
    main = tmp_path / "zqueue.toml"
    main.write_text(A)
    if folder == "a file":
        (tmp_path / "zqueue.d").write_text("")
    assert list(config.load(main).config.queues) == ["a"]


def test_the_folder_alone_is_a_config_at_the_usual_place(
    main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", main)
    assert config.load(None).path is None
    write(main, b=B)
    assert list(config.load(None).config.queues) == ["b"]
    assert refused(main) == ["zqueue.toml: there is no such file"], "one that was named must be"
    main.symlink_to("nothing")
    with pytest.raises(ConfigError, match="it links to nothing, which is missing"):
        config.load(None)


def test_all_that_is_wrong_is_told_with_its_file(main: Path) -> None:
    main.write_text(A + "x = 1\n")
    write(main, b=B.replace("11004", "11001") + "y = 2\n", c="[queues.c]\n")
    told = refused(main)
    assert [each.split(": ")[:2] for each in told] == [
        ["zqueue.toml:4", "queues.a.x"],
        ["zqueue.d/b.toml:3", "queues.b.backend"],
        ["zqueue.d/b.toml:4", "queues.b.y"],
        ["zqueue.d/c.toml:1", "queues.c"],
        ["zqueue.d/c.toml:1", "queues.c"],
    ]
    taken = '"tcp://127.0.0.1:11001" is taken by queues.a.frontend (zqueue.toml:2)'
    assert told[1].split(": ", 2)[2] == taken


def test_what_two_files_set_is_refused_with_both_places(main: Path) -> None:
    main.write_text(A)
    write(main, a='[queues.a]\nfrontend = "tcp://127.0.0.1:11009"\n', b='queues = "x"\n')
    assert refused(main) == [
        "zqueue.d/a.toml:2: queues.a.frontend: it is set in zqueue.toml:2, too; keep one of them",
        "zqueue.d/b.toml:1: queues: it is set in zqueue.toml:1, too; keep one of them",
    ]


def test_each_file_that_is_no_toml_is_told(main: Path) -> None:
    main.write_text("a = \n")
    write(main, b="b\n", c="\0")
    told = refused(main)
    assert [each.partition(":")[0] for each in told] == [
        "zqueue.toml",
        "zqueue.d/b.toml",
        "zqueue.d/c.toml",
    ]


def test_files_that_cannot_be_read(main: Path) -> None:
    main.write_text(A)
    (main.parent / "zqueue.d" / "f.toml").mkdir()
    assert refused(main) == ["zqueue.d/f.toml: this is a folder, not a file"]
    (main.parent / "zqueue.d" / "f.toml").rmdir()
    (main.parent / "zqueue.d" / "f.toml").symlink_to("nowhere")
    assert refused(main) == ["zqueue.d/f.toml: it links to nowhere, which is missing"]


# -- the environment ---------------------------------------------------------------------------


def test_values_from_the_environment(main: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PORT": "11011", "N": "12", "YES": "true", "AGE": "5s"}.items():
        monkeypatch.setenv(f"ZQ_{name}", value)
    main.write_text(
        '[daemon]\nname = "n-$${x}-${ZQ_N}$"\n'
        '[queues.a]\nfrontend = {bind = ["tcp://127.0.0.1:${ZQ_PORT}"], ipv6 = {env = "ZQ_YES"}}\n'
        'backend = "tcp://127.0.0.1:1${ZQ_N}0"\n'
        'max_attempts = {env = "ZQ_N"}\ndeadline = {env = "ZQ_AGE"}\n'
    )
    loaded = config.load(main)
    queue = loaded.config.queues["a"]
    assert queue.frontend.bind == ("tcp://127.0.0.1:11011",)
    assert queue.frontend.ipv6 is True
    assert queue.backend.bind == ("tcp://127.0.0.1:1120",)
    assert (queue.max_attempts, queue.deadline) == (12, 5)
    assert loaded.config.daemon.name == "n-${x}-12$"
    assert origins(loaded)["queues.a.max_attempts"] == "zqueue.toml:6"


def test_what_the_environment_has_not_is_told(main: Path) -> None:
    assert "ZQ_NONE" not in os.environ
    main.write_text(
        '[queues.a]\nfrontend = "tcp://127.0.0.1:${ZQ_NONE}"\nbackend = "ipc:///${"\n'
        'deadline = {env = "ZQ=NONE"}\n'
    )
    assert refused(main) == [
        'zqueue.toml:2: queues.a.frontend: the environment has no "ZQ_NONE"; systemd gives it by '
        "Environment=ZQ_NONE=VALUE",
        'zqueue.toml:3: queues.a.backend: after "${" a name and "}" are expected; say "$${" for '
        '"${" itself',
        'zqueue.toml:4: queues.a.deadline: the environment has no "ZQ=NONE"; systemd gives it by '
        "Environment=ZQ=NONE=VALUE",
    ]


def test_a_value_from_the_environment_is_checked_as_any_other(
    main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZQ_BAD", '"] \n[x')
    main.write_text(A + 'deadline = {env = "ZQ_BAD"}\n')
    (told,) = refused(main)
    assert told.startswith(r'zqueue.toml:4: queues.a.deadline: found "\"] \n[x"')


# -- a daemon ----------------------------------------------------------------------------------


def test_a_reload_sees_all_files(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued()
    folder = zqueued.folder / "zqueue.d"
    folder.mkdir()
    more = '[queues.more]\nfrontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'
    (folder / "more.toml").write_text(more)
    assert zqueued.ctl("reload").returncode == 0
    shown = json.loads(zqueued.ctl("--json", "config", "show").stdout)["values"]
    origin = {each["key"]: each["origin"] for each in shown}
    assert origin["queues.more.backend.bind"] == f"{folder}/more.toml:3"
    assert zqueued.queue("more").state == "running"

    (folder / "more.toml").write_text(more + "wrong = 1\n")
    done = zqueued.ctl("reload")
    assert done.returncode == 1
    assert f"{folder}/more.toml:4: queues.more.wrong" in done.stderr
    (folder / "more.toml").unlink()
    assert zqueued.ctl("reload").returncode == 0
    assert [queue.name for queue in zqueued.status().queues] == ["default"]
