"""The files of a config: ``zqueue.toml``, and each ``*.toml`` of ``zqueue.d`` beside it.

What they say is put together, and values are taken from the environment where they ask for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zqueue.errors import ConfigError
from zqueue.printable import printable
from zqueue.toml_positions import Path as KeyPath
from zqueue.toml_positions import Place, positions

_LARGEST_FILE = 16 << 20
_SYNTAX_ERROR = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_REFERENCE = re.compile(r"\$(\$\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")
_PLAIN_VALUE = re.compile(r"[+-]?(0|[1-9]\d{0,18})(\.\d{1,18})?|true|false")


@dataclass
class Document:
    """What the files say together. ``places`` has the place of each key, table and array element.
    ``missing`` has what the environment does not give, each a key and what is wrong there."""

    content: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, Place] = field(default_factory=dict)
    missing: list[tuple[KeyPath, str]] = field(default_factory=list)


def folder_of(path: Path) -> Path:
    """Where further files of a config are: ``/etc/zqueue.d`` for ``/etc/zqueue.toml``."""
    return path.with_suffix(".d")


def read(path: Path, *, may_be_missing: bool = False) -> Document | None:
    """The config ``path`` with what is in its folder.

    ``may_be_missing``: without that file the folder alone is the config, and without either there
    is none, which is ``None``.

    Raises:
        ConfigError: a file cannot be read or is not TOML, or two of them set one key.
    """
    texts = []
    try:
        texts.append((path, _read(path)))
    except FileNotFoundError:
        target = _points_to(path)
        if not may_be_missing or target is not None:
            what = "there is no such file"
            what = what if target is None else f"it links to {target}, which is missing"
            raise ConfigError([f"{path}: {what}"]) from None
    for further in _further_files(folder_of(path)):
        try:
            texts.append((further, _read(further)))
        except FileNotFoundError:
            what = f"it links to {_points_to(further)}, which is missing"
            raise ConfigError([f"{further}: {what}"]) from None
    return _together(texts) if texts else None


def read_bytes(content: bytes, path: Path) -> Document:
    """The config that ``content`` is; ``path`` is how its problems call it.

    Raises:
        ConfigError: it is not TOML.
    """
    return _together([(path, _text_of(content, path))])


# -- files -------------------------------------------------------------------------------------


def _further_files(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError([f"{folder}: cannot be read: {error.strerror}"]) from None
    # What an editor or a package manager leaves (.swp, .dpkg-old) is no config.
    return [
        folder / name
        for name in sorted(names)
        if name.endswith(".toml") and not name.startswith(".")
    ]


def _points_to(path: Path) -> str | None:
    """Where a symbolic link points to."""
    with contextlib.suppress(OSError):
        return os.readlink(path)
    return None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise ConfigError([f"{path}: this is a folder, not a file"]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([f"{path}: cannot be read: {reason}"]) from None
    return _text_of(content, path)


def _text_of(content: bytes, path: Path) -> str:
    if len(content) > _LARGEST_FILE:
        raise ConfigError([f"{path}: more than {_LARGEST_FILE >> 20} MiB; this is no config"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: this line is not UTF-8 text"]) from None


# -- together ----------------------------------------------------------------------------------


def _together(texts: list[tuple[Path, str]]) -> Document:
    whole = Document()
    problems: list[str] = []
    for path, text in texts:
        try:
            content = tomllib.loads(text)
            places = {key: Place(path, line) for key, line in positions(text).items()}
        except ValueError as error:
            problems.append(_syntax_problem(error, text, path))
        except RecursionError:
            problems.append(f"{path}: too many brackets inside of each other")
        else:
            problems += _add(whole, whole.content, content, places, ())
            for key, place in places.items():
                whole.places.setdefault(key, place)
    if problems:
        raise ConfigError(problems)
    _resolve(whole, whole.content, ())
    return whole


def _syntax_problem(error: ValueError, text: str, path: Path) -> str:
    found = _SYNTAX_ERROR.fullmatch(str(error))
    if found is None:
        # Not tomllib's own: int() refuses thousands of digits.
        return f"{path}: not TOML: a number has too many digits"
    line = int(found[2] or text.rstrip("\n").count("\n") + 1)
    column = f":{found[3]}" if found[3] else ""
    return f"{path}:{line}{column}: not TOML: {printable(found[1])}"


def _add(
    whole: Document,
    table: dict[str, Any],
    more: dict[str, Any],
    places: dict[KeyPath, Place],
    at: KeyPath,
) -> Iterator[str]:
    """Add to ``table``, which is at ``at``, what another file has for it; what two files set."""
    for name, value in more.items():
        key = (*at, name)
        if name not in table:
            table[name] = value
        elif isinstance(table[name], dict) and isinstance(value, dict):
            yield from _add(whole, table[name], value, places, key)
        else:
            # Not at the top: zqueuectl looks into a config, too, and need not wait for pydantic.
            from zqueue.config_problems import dotted

            yield (
                f"{places[key]}: {printable(dotted(key))}: it is set in {whole.places[key]}, too; "
                "keep one of them"
            )


# -- the environment ---------------------------------------------------------------------------


def _resolve(whole: Document, value: Any, at: KeyPath) -> Any:
    """``value`` with what it takes from the environment: ``${NAME}`` in a text, ``{env = "NAME"}``
    for a whole value, which is a number or true or false if it looks like one."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: _referred(whole, found, at), value)
    if isinstance(value, dict):
        if list(value) == ["env"] and isinstance(value["env"], str) and at:
            text = _variable(whole, value["env"], at)
            return tomllib.loads(f"v = {text}")["v"] if _PLAIN_VALUE.fullmatch(text) else text
        for name, member in value.items():
            value[name] = _resolve(whole, member, (*at, name))
    elif isinstance(value, list):
        value[:] = [_resolve(whole, member, (*at, index)) for index, member in enumerate(value)]
    return value


def _referred(whole: Document, found: re.Match[str], at: KeyPath) -> str:
    if found[1]:
        return found[1]
    if found[2]:
        return _variable(whole, found[2], at)
    whole.missing.append((at, 'after "${" a name and "}" are expected; say "$${" for "${" itself'))
    return found[0]


def _variable(whole: Document, name: str, at: KeyPath) -> str:
    # A name with an = or a NUL is none that the environment could have.
    text = os.environ.get(name)
    if text is None:
        whole.missing.append(
            (at, f'the environment has no "{name}"; systemd gives it by Environment={name}=VALUE')
        )
        return ""
    return text
