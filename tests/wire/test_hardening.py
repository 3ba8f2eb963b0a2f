"""The extension modules that are installed resist what a fault in them could be used for."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import zqueue.engine.wire

MODULES = sorted(Path(zqueue.engine.wire.__file__).parent.glob("*.so"))

pytestmark = pytest.mark.skipif(shutil.which("readelf") is None, reason="there is no readelf")


@functools.cache
def read(module: Path) -> str:
    """Its program headers, dynamic section and symbols."""
    asked = ["readelf", "--wide", "-l", "-d", "--dyn-syms", str(module)]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout


def checked() -> bool:
    """Whether they are built with checks or sanitizers, and not for use."""
    return any(b"zq_check failed" in module.read_bytes() for module in MODULES)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name.partition(".")[0])
def test_what_is_bound_cannot_be_bound_otherwise(module: Path) -> None:
    found = read(module)
    assert "GNU_RELRO" in found
    assert "BIND_NOW" in found or "Flags: NOW" in found
    (stack,) = (line for line in found.splitlines() if "GNU_STACK" in line)
    assert "RWE" not in stack


@pytest.mark.parametrize("name", ["replies", "receiving", "session", "clients", "giving"])
def test_the_stack_is_guarded_where_bytes_of_peers_are_copied(name: str) -> None:
    (module,) = (each for each in MODULES if each.name.startswith(f"{name}."))
    assert "__stack_chk_fail" in read(module)


def test_copies_into_what_has_a_known_size_are_checked() -> None:
    if checked():
        pytest.skip("built with checks of its own")
    fortified = {
        name for module in MODULES for name in re.findall(r"\b__\w+_chk(?=@GLIBC)", read(module))
    }
    if not fortified:
        pytest.skip("built without optimization")
    assert "__memcpy_chk" in fortified
