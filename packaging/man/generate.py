"""Write the man pages: ``python packaging/man/generate.py OUTDIR``.

The ``*.in`` files beside this one are the pages in man(7), with ``@NAME@`` where something is put
in that must not be written twice: options and verbs come from click's commands, the keys of the
config from its model and from the comments of ``etc/zqueue.toml``. The date of the pages is
``$SOURCE_DATE_EPOCH``; without it they have none. The same source gives the same bytes.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import BaseModel

import zqueue
from zqueue import config
from zqueue.cli import zqueuectl, zqueued
from zqueue.errors import ConfigError

_HERE = Path(__file__).parent
_CONFIG = _HERE.parent.parent / "etc" / "zqueue.toml"
_PAGES = ("zqueued.8", "zqueuectl.1", "zqueue.toml.5")


class Drift(Exception):
    """The model and ``etc/zqueue.toml`` contradict each other; the message names the key."""


# -- roff ------------------------------------------------------------------------------------------

_SPECIAL = {
    "\\": r"\e",
    "-": r"\-",
    "'": r"\(aq",
    '"': r"\(dq",
    "`": r"\(ga",
    "^": r"\(ha",
    "~": r"\(ti",
}


def _plain(text: str) -> str:
    """One line of text, all ASCII, with nothing in it that roff would take for its own."""
    text = "".join(
        _SPECIAL.get(each, each if each.isascii() else rf"\[u{ord(each):04X}]")
        for each in " ".join(text.split())
    )
    return rf"\&{text}" if text.startswith(".") else text


def _bold(text: str) -> str:
    return rf"\fB{_plain(text)}\fR"


def _typed(text: str) -> str:
    """``--endpoint ENDPOINT``: what is typed as it stands is bold, what is replaced is italic."""

    def styled(word: re.Match[str]) -> str:
        return rf"\fI{word[0]}\fR" if word[0].isupper() else _bold(word[0])

    return re.sub(r"[\w-]+", styled, text)


# -- options and verbs -----------------------------------------------------------------------------


def _context(command: click.Command, parent: click.Context | None = None) -> click.Context:
    settings: dict[str, Any] = dict(command.context_settings)
    return click.Context(command, parent=parent, info_name=command.name, **settings)


def _options(ctx: click.Context) -> list[tuple[str, str]]:
    """What is typed, and what it does, for each option of a command."""
    found = []
    for option in ctx.command.get_params(ctx):
        record = option.get_help_record(ctx)
        if isinstance(option, click.Option) and record is not None:
            found.append((record[0], option.help or ""))
    return found


def _option_list(options: list[tuple[str, str]]) -> Iterator[str]:
    for typed, text in options:
        yield from (".TP", _typed(typed), _plain(text))


def _verbs(group: click.Group, ctx: click.Context, common: list[tuple[str, str]]) -> Iterator[str]:
    """The verbs in the group's order, without the options that all of them have in common."""
    for name in group.list_commands(ctx):
        command = group.commands[name]
        below = _context(command, ctx)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield from _verb(below, common)
        if isinstance(command, click.Group):
            yield from _verbs(command, below, common)


def _verb(ctx: click.Context, common: list[tuple[str, str]]) -> Iterator[str]:
    own = [option for option in _options(ctx) if option not in common]
    words = ctx.command_path.split()[1:]
    arguments = [
        _typed(piece)
        for param in ctx.command.get_params(ctx)
        if isinstance(param, click.Argument)
        for piece in param.get_usage_pieces(ctx)
    ]
    option = [r"[\fIOPTION\fR]..."] if own else []
    yield from (".TP", " ".join([_bold(" ".join(words)), *option, *arguments]))
    for number, paragraph in enumerate((ctx.command.help or "").split("\n\n")):
        if number:
            yield ".IP"
        yield _plain(paragraph)
    if own:
        yield from (".RS", *_option_list(own), ".RE")


# -- the config ------------------------------------------------------------------------------------

_HEADING = re.compile(r"\[([\w.]+)\]")
_KEY = re.compile(r"#?((\w+) = .+)")
_TERM = re.compile(r"(\S+) {2,}(\S.*)")
_DEFINITION = re.compile(r"An? \w+ is ")


@dataclass
class _Keys:
    """Keys that share a comment; each with its line as it stands in the file."""

    lines: dict[str, str]
    comment: list[str]


@dataclass
class _Table:
    """``[name]`` of the file; ``comment`` stands above it."""

    name: str
    comment: list[str]
    keys: list[_Keys]


def _read(text: str) -> tuple[list[str], list[_Table]]:
    """The comment that the file begins with, and its tables."""
    header: list[str] = []
    tables: list[_Table] = []
    comment: list[str] = []
    below_a_key = False
    for line in text.splitlines():
        if heading := _HEADING.fullmatch(line):
            tables.append(_Table(heading[1], comment, []))
            comment = []
        elif tables and (key := _KEY.fullmatch(line)):
            if comment or not below_a_key:
                tables[-1].keys.append(_Keys({}, comment))
            tables[-1].keys[-1].lines[key[2]] = key[1]
            comment = []
        elif line.startswith("#"):
            comment.append(line[1:].removeprefix(" "))
        else:
            header = header or comment
            comment = []
        below_a_key = bool(tables and _KEY.fullmatch(line))
    return header, tables


def _values(header: list[str]) -> Iterator[str]:
    """How durations, sizes and endpoints are written: the last paragraph of the header."""
    first = max(number for number, line in enumerate(header) if not line) + 1
    for number, line in enumerate(header[first:]):
        if number and _DEFINITION.match(line):
            yield ".PP"
        yield _plain(line)


def _tables(tables: list[_Table], shipped: config.Config) -> Iterator[str]:
    for table in tables:
        name = re.sub(r"^queues\.\w+", "queues.NAME", table.name)
        yield f".SS [{name}]"
        yield from map(_plain, table.comment)
        for keys in table.keys:
            if keys.comment:
                yield from _described(keys, _reach(shipped, table.name))


def _described(keys: _Keys, model: BaseModel) -> Iterator[str]:
    for number, name in enumerate(keys.lines):
        yield from (".TQ" if number else ".TP", _bold(name))
    yield from _comment(keys.comment)
    defaults = [_bold(line) for name, line in keys.lines.items() if _is_default(name, model)]
    examples = [_bold(line) for name, line in keys.lines.items() if not _is_default(name, model)]
    for word, lines in (("Default", defaults), ("Example", examples)):
        if lines:
            yield from (".IP", f"{word}: {', '.join(lines)}")


def _comment(lines: list[str]) -> Iterator[str]:
    """A comment as text, in which may be lists. In a list two blanks come after each word that a
    key may be, and a line that goes on with its meaning is indented."""
    is_list = False
    for number, line in enumerate(lines):
        term = _TERM.fullmatch(line)
        if term is not None:
            if not is_list:
                yield from (*([] if number else ["One of these:"]), ".RS")
            yield from (".TP", _bold(term[1]), _plain(term[2]))
            is_list = True
        elif is_list and not line.startswith(" "):
            yield from (".RE", ".IP", _plain(line))
            is_list = False
        else:
            yield _plain(line)
    if is_list:
        yield ".RE"


def _is_default(name: str, model: BaseModel) -> bool:
    """Whether the file has the key, and not just an example of it, with what counts without it."""
    written = name in model.model_fields_set
    return written and bool(getattr(model, name) == type(model).model_fields[name].default)


def _reach(shipped: config.Config, table: str) -> BaseModel:
    found: Any = shipped
    for name in table.split("."):
        found = found[name] if isinstance(found, Mapping) else getattr(found, name)
    assert isinstance(found, BaseModel)
    return found


def _must_be_whole(tables: list[_Table], shipped: config.Config) -> None:
    """Every key of the model is explained in the file, and the file explains none that is not."""
    explained: dict[type[BaseModel], set[str]] = {}
    for table in tables:
        model = type(_reach(shipped, table.name))
        for keys in table.keys:
            for name in keys.lines:
                if name not in model.model_fields:
                    raise Drift(f"{_CONFIG.name}: [{table.name}] {name}: there is no such key")
            if keys.comment:
                explained.setdefault(model, set()).update(keys.lines)
    for model in _models(config.Config):
        for name, field in model.model_fields.items():
            if not _tables_in(field.annotation) and name not in explained.get(model, ()):
                raise Drift(f"{_CONFIG.name}: {name} of {model.__name__} is not explained in it")


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for table in _tables_in(field.annotation):
            yield from _models(table)


def _tables_in(annotation: Any) -> list[type[BaseModel]]:
    kinds = (annotation, *get_args(annotation))
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


# -- pages -----------------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """Each page's file name, and its text.

    Raises:
        ConfigError: etc/zqueue.toml is no good config.
        Drift: it does not have the keys that the model has.
    """
    shipped = config.load(_CONFIG).config
    header, tables = _read(_CONFIG.read_text(encoding="utf-8"))
    _must_be_whole(tables, shipped)
    daemon, control = _context(zqueued.main), _context(zqueuectl.main)
    common = _options(control)
    parts = {
        "DATE": [_date()],
        "VERSION": [_plain(zqueue.__version__)],
        "ZQUEUED": _option_list(_options(daemon)),
        "ZQUEUECTL": _option_list(common),
        "VERBS": _verbs(zqueuectl.main, control, common),
        "VALUES": _values(header),
        "TABLES": _tables(tables, shipped),
    }
    texts = {name: "\n".join(lines) for name, lines in parts.items()}
    return {page: _filled((_HERE / f"{page}.in").read_text("utf-8"), texts) for page in _PAGES}


def _filled(template: str, texts: Mapping[str, str]) -> str:
    return re.sub(r"@([A-Z]+)@", lambda place: texts[place[1]], template)


def _date() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(epoch), UTC).strftime("%Y-%m-%d") if epoch else ""


@click.command()
@click.argument("outdir", type=click.Path(file_okay=False, path_type=Path))
def generate(outdir: Path) -> None:
    """Write zqueued.8, zqueuectl.1 and zqueue.toml.5 into OUTDIR."""
    try:
        written = pages()
    except (ConfigError, Drift) as error:
        raise click.ClickException(str(error)) from None
    outdir.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        (outdir / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(generate())
