"""The load generators in C, compiled when they are needed."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
from pathlib import Path

import zmq  # noqa: F401, for it to be loaded

_HERE = Path(__file__).parent


class CannotBuild(Exception):
    """A load generator cannot be compiled here; the message says what is missing."""


def build_raw_peers(folder: Path) -> Path:
    """Compile ``raw_peers.c`` into ``folder``.

    Raises:
        CannotBuild: there is no compiler, or it fails.
    """
    return _compile("raw_peers", folder)


def build_libzmq_peers(folder: Path) -> Path:
    """Compile ``libzmq_peers.c`` into ``folder``, with the libzmq that pyzmq uses.

    Raises:
        CannotBuild: there is no compiler, or it fails, or there is no libzmq apart from pyzmq.
    """
    return _compile("libzmq_peers", folder, *_libzmq(), "-pthread")


def _compile(name: str, folder: Path, *arguments: str) -> Path:
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        raise CannotBuild(f"there is no C compiler {compiler!r}: install gcc, or set CC")
    program = folder / name
    done = subprocess.run(
        [
            *(compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra"),
            *(str(_HERE / f"{name}.c"), *arguments, "-o", str(program)),
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise CannotBuild(f"{compiler} cannot compile {name}.c:\n{done.stderr.strip()}")
    return program


def _libzmq() -> tuple[str, ...]:
    """What links the very library that pyzmq has loaded into this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        library = Path("/" + line.partition("/")[2])
        if library.name.startswith("libzmq"):
            return str(library), f"-Wl,-rpath,{library.parent}"
    # Some builds of pyzmq have libzmq inside.
    found = ctypes.util.find_library("zmq")
    if found is None:
        raise CannotBuild("pyzmq has its libzmq inside, where C cannot use it: install libzmq5")
    return (f"-l:{found}",)
