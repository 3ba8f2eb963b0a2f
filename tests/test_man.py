"""The man pages say what the commands and the config say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from pydantic import BaseModel

from zqueue.cli import lists, zqueuectl, zqueued
from zqueue.config import Config
from zqueue.control import messages
from zqueue.control.client import Refused, Unreachable
from zqueue.errors import ConfigError, EndpointError

ROOT = Path(__file__).parent.parent
PAGES = ["zqueue.toml.5", "zqueuectl.1", "zqueued.8"]
ESCAPES = {r"\-": "-", r"\(dq": '"', r"\(aq": "'", r"\(ti": "~", r"\e": "\\", r"\&": ""}


def generate(
    folder: Path, *, root: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "packaging" / "man" / "generate.py"), str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )


def text_of(page: Path) -> str:
    """A page without what is for roff."""
    text = re.sub(r"\\f[BIR]", "", page.read_text(encoding="ascii"))
    text = re.sub(r"\\\[u([0-9A-F]+)\]", lambda found: chr(int(found[1], 16)), text)
    return re.sub(r"\\(?:\(..|.)", lambda found: ESCAPES.get(found[0], found[0]), text)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("man")
    done = generate(folder)
    assert done.returncode == 0, done.stderr
    return {path.name: path for path in folder.iterdir()}


def commands(command: click.Command, *words: str) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(words), command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from commands(below, *words, name)


def keys(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Every key in a model and in the tables in it, and what it may be."""
    for name, field in model.model_fields.items():
        yield name, field.annotation
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys(kind)


def test_there_are_three_pages(pages: dict[str, Path]) -> None:
    assert sorted(pages) == PAGES
    for name, path in pages.items():
        text = text_of(path)
        assert not re.search(r"@\w+@", text), f"{name} has an unfilled place"
        for section in ("NAME", "DESCRIPTION", "EXAMPLES", "FILES", "SEE ALSO"):
            assert f".SH {section}\n" in text


@pytest.mark.parametrize(
    ("page", "command"), [("zqueued.8", zqueued.main), ("zqueuectl.1", zqueuectl.main)]
)
def test_every_verb_and_option_is_in_the_page(
    pages: dict[str, Path], page: str, command: click.Command
) -> None:
    text = text_of(pages[page])
    flat = " ".join(text.split())
    for words, each in commands(command):
        if words and not isinstance(each, click.Group):
            assert re.search(rf"^\.TP\n{re.escape(words)}\b", text, re.MULTILINE), words
            assert " ".join((each.help or "").split("\n\n")[0].split()) in flat, words
        for option in each.params:
            if isinstance(option, click.Option):
                for name in (*option.opts, *option.secondary_opts):
                    assert re.search(rf"(?<![\w-]){name}(?![\w-])", text), f"{words} {name}"
                assert option.help, f"{words} {option.name} has no help"
                assert option.help in flat, f"{words} {option.name}"


def test_every_key_of_the_config_is_in_the_page(pages: dict[str, Path]) -> None:
    text = text_of(pages["zqueue.toml.5"])
    tags = set(re.findall(r"^\.T[PQ]\n(\w+)$", text, re.MULTILINE))
    headings = re.findall(r"^\.SS \[(.+)\]$", text, re.MULTILINE)
    tables = {part for heading in headings for part in heading.split(".")}
    for key, kind in keys(Config):
        assert key in tags | tables, f"{key} is not in the page"
        for value in get_args(kind):
            if isinstance(value, str):
                assert re.search(rf"\b{value}\b", text), f"{key}: {value} is not in the page"
    assert 'Default: drain_timeout = "30s"' in text
    assert 'Example: heartbeat = "10s"' in text


def test_each_value_of_a_list_has_a_line_of_its_own(pages: dict[str, Path]) -> None:
    """Also where there is text around the list, or a meaning has several lines."""
    text = text_of(pages["zqueue.toml.5"])
    tags = set(re.findall(r"^\.TP\n(\w+)$", text, re.MULTILINE))
    for key, kind in keys(Config):
        if key in ("type", "engine", "redeliver", "when_full", "dead_letters_sync"):
            assert tags >= {value for value in get_args(kind) if isinstance(value, str)}, key
    assert not re.search(r"\w {2,}\w", text), "a list that was not known for one"


def test_the_exit_codes_are_in_the_pages(pages: dict[str, Path]) -> None:
    daemon, control = text_of(pages["zqueued.8"]), text_of(pages["zqueuectl.1"])
    for text, error in (
        (daemon, ConfigError),
        (daemon, EndpointError),
        (control, Refused),
        (control, Unreachable),
    ):
        assert f".TP\n.B {error.exit_code}\n" in text


def test_the_same_source_gives_the_same_bytes(pages: dict[str, Path], tmp_path: Path) -> None:
    assert generate(tmp_path / "again", COLUMNS="40", TZ="Asia/Tokyo").returncode == 0
    for name, path in pages.items():
        assert (tmp_path / "again" / name).read_bytes() == path.read_bytes()


def test_the_date_is_that_of_the_source(tmp_path: Path) -> None:
    assert generate(tmp_path, SOURCE_DATE_EPOCH="1700000000").returncode == 0
    for name in PAGES:
        assert '"2023-11-14"' in (tmp_path / name).read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('level = "info"', "level = 1", "log.level: found 1"),
        ('#group = "zqueue"', '#groups = "zqueue"', "[control] groups: there is no such key"),
        ("backlog = 1024\n", "", "backlog of SocketConfig is not explained"),
    ],
)
def test_a_file_that_has_drifted_is_refused(tmp_path: Path, old: str, new: str, told: str) -> None:
    for part in ("packaging/man", "etc"):
        shutil.copytree(ROOT / part, tmp_path / part)
    file = tmp_path / "etc" / "zqueue.toml"
    file.write_text(file.read_text().replace(old, new))
    done = generate(tmp_path / "out", root=tmp_path)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("page", PAGES)
def test_groff_has_nothing_to_say(pages: dict[str, Path], page: str) -> None:
    command = ["groff", "-man", "-ww", "-Tutf8", str(pages[page])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "SEE ALSO" in done.stdout or "S\bSE\bEE" in done.stdout


@pytest.mark.parametrize(
    ("verb", "row"),
    [
        ("workers", messages.Worker),
        ("clients", messages.Client),
        ("requests", messages.OpenRequest),
    ],
)
def test_every_column_is_explained(verb: str, row: type[messages.Message]) -> None:
    text = " ".join((getattr(lists, verb).help or "").split())
    unexplained = [name for name in row.model_fields if name.upper().replace("_", " ") not in text]
    assert not unexplained
