from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from zqueue.toml_positions import Path, positions

EXAMPLE = """\
# a comment, [not] = "a table"
name = "x"        # 2
"a b".c = 1
d.e.f = [1, { g = 2 }]

[table]           # 6
text = '''
[not.a.table]
key = 1
''' # 10
list = [
  "]",  # ]
  ["=", '''
] ''' ],
]
after = 1         # 16

[[things]]        # 18
a = 1
[things.inner]    # 20
b = 2
[[things.inner.deep]]
[[things.inner.deep]]
c = 3
[[things]]        # 25
a = 4
[things."in.ner"] # 27

[w.x.y]
[w]               # 30
z.z = 1
"""


def test_the_line_of_every_key() -> None:
    assert positions(EXAMPLE) == {
        ("name",): 2,
        ("a b",): 3,
        ("a b", "c"): 3,
        ("d",): 4,
        ("d", "e"): 4,
        ("d", "e", "f"): 4,
        ("d", "e", "f", 0): 4,
        ("d", "e", "f", 1): 4,
        ("d", "e", "f", 1, "g"): 4,
        ("table",): 6,
        ("table", "text"): 7,
        ("table", "list"): 11,
        ("table", "list", 0): 11,
        ("table", "list", 1): 11,
        ("table", "list", 1, 0): 11,
        ("table", "list", 1, 1): 11,
        ("table", "after"): 16,
        ("things",): 18,
        ("things", 0): 18,
        ("things", 0, "a"): 19,
        ("things", 0, "inner"): 20,
        ("things", 0, "inner", "b"): 21,
        ("things", 0, "inner", "deep"): 22,
        ("things", 0, "inner", "deep", 0): 22,
        ("things", 0, "inner", "deep", 1): 23,
        ("things", 0, "inner", "deep", 1, "c"): 24,
        ("things", 1): 25,
        ("things", 1, "a"): 26,
        ("things", 1, "in.ner"): 27,
        ("w",): 30,
        ("w", "x"): 29,
        ("w", "x", "y"): 29,
        ("w", "z"): 31,
        ("w", "z", "z"): 31,
    }


def test_an_empty_document() -> None:
    assert positions("") == positions("# nothing\n\n") == {}


def test_windows_line_ends() -> None:
    assert positions("a = 1\r\n[b]\r\nc = [\r\n1]\r\nd = 2\r\n") == {
        ("a",): 1,
        ("b",): 2,
        ("b", "c"): 3,
        ("b", "c", 0): 3,
        ("b", "d"): 5,
    }


def test_what_only_looks_like_the_end_of_a_line() -> None:
    assert positions('a = "\u2028\x85\u2029"\nb = 1\n') == {("a",): 1, ("b",): 2}


# -- any document ------------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "c-d", "e.f", '"', "[x]", "", "ü", "=", "#"])
TEXTS = st.text(st.sampled_from(['"', "'", "]", "}", "[", "#", "=", "\n", "\\", "a", ","]))
SCALARS = st.integers(-9, 9) | st.booleans() | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(KEYS, inside, max_size=3),
    max_leaves=6,
)
DOCUMENTS = st.dictionaries(
    KEYS,
    VALUES | st.lists(st.dictionaries(KEYS, VALUES, max_size=3), min_size=1, max_size=3),
    max_size=5,
)


class Writer:
    """Writes a document as TOML in one of its many ways, and notes the line of each statement."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[Path, int] = {}

    def choose(self, *choices: str) -> str:
        return str(self.draw(st.sampled_from(choices)))

    def table(self, table: dict[str, Any], path: Path, header: str) -> None:
        later = []
        for key, value in table.items():
            if self.draws_table(value):
                later.append((key, value))
                continue
            self.begin((*path, key))
            self.text += f"{json.dumps(key)}{self.choose('=', ' = ')}{self.value(value)}"
            self.text += self.choose("\n", " # ]}\n", "\n\n", "\r\n")
        for key, value in later:
            inner = f"{header}.{json.dumps(key)}" if header else json.dumps(key)
            inside = (*path, key)
            if isinstance(value, dict):
                self.begin(inside)
                self.text += f"[{inner}]\n"
                self.table(value, inside, inner)
                continue
            for index, member in enumerate(value):
                self.begin((*inside, index))
                self.text += f"[[ {inner} ]] # [[no]]\n"
                self.table(member, (*inside, index), inner)

    def draws_table(self, value: Any) -> bool:
        if isinstance(value, list):
            tables = bool(value) and all(isinstance(member, dict) for member in value)
        else:
            tables = isinstance(value, dict)
        return tables and bool(self.draw(st.booleans()))

    def begin(self, path: Path) -> None:
        self.text += self.choose("", "\n", "# a = 1\n", "  ")
        self.lines[path] = self.text.count("\n") + 1

    def value(self, value: Any, flat: bool = False) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, dict):
            members = (f"{json.dumps(k)} = {self.value(v, True)}" for k, v in value.items())
            return "{" + ", ".join(members) + "}"
        if isinstance(value, list):
            gap = self.choose("", " ", "\n", "# ]\n")
            return "[" + "".join(f"{gap}{self.value(v)}{gap}," for v in value) + gap + "]"
        if isinstance(value, str):
            return self.string(value)
        return str(value)

    def string(self, value: str) -> str:
        quoted = json.dumps(value)
        if "'" not in value and self.draw(st.booleans()):
            return f"'''\n{value}'''"
        return quoted


def all_paths(value: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield from all_paths(member, (*path, key))


@given(DOCUMENTS, st.data())
def test_every_value_of_any_document_has_its_line(
    document: dict[str, Any], data: st.DataObject
) -> None:
    writer = Writer(data.draw)
    writer.table(document, (), "")
    assert tomllib.loads(writer.text) == document
    found = positions(writer.text)
    assert set(found) == set(all_paths(document))
    assert {path: found[path] for path in writer.lines} == writer.lines
    # What is inside of a statement is never above what it is in.
    assert all(found[path] >= found.get(path[:-1], 0) for path in found)


@given(st.integers(1, 300))
def test_long_lists(length: int) -> None:
    text = "a = [\n" + '"tcp://*:1",\n' * length + "]\nb = 1\n"
    assert positions(text)[("b",)] == length + 3
