"""Faults of the kernel and of memory, provoked in a running zqueued by what faults.c says."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "faults.c"
CALLS = ("send", "receive", "accept", "add", "wait", "allocate", "grow")
SHORT = 0
"""What stands in place of an errno where a call does less than it might."""
_FAULT = struct.Struct("=IiQ")
_SEED = struct.Struct("=Q")
_MILLION = 1_000_000


def compiled(folder: Path) -> Path:
    """The library; a test that wants it where it cannot be made is skipped."""
    if not shutil.which("gcc"):
        pytest.skip("there is no gcc")
    library = folder / "faults.so"
    command = ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(library), str(SOURCE)], check=True)
    return library


class Faults:
    """What fails in the engine of the daemon that is started with this :attr:`environment`."""

    def __init__(self, library: Path, folder: Path, seed: int = 1) -> None:
        path = folder / "faults"
        path.write_bytes(_SEED.pack(seed) + bytes(_FAULT.size * len(CALLS)))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 0)
        self.environment = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "ZQUEUE_FAULTS": str(path),
        }

    def begin(self, share: float = 1.0, **errors: int) -> None:
        """Have this share of these calls fail, each with its errno, from now on."""
        for call, error in errors.items():
            at = self._at(call)
            struct.pack_into("=i", self._shared, at + 4, error)
            struct.pack_into("=I", self._shared, at, round(share * _MILLION))

    def end(self) -> None:
        """Let everything succeed again."""
        for call in CALLS:
            struct.pack_into("=I", self._shared, self._at(call), 0)

    def happened(self, call: str) -> int:
        """How often it has failed so far."""
        happened: int = _FAULT.unpack_from(self._shared, self._at(call))[2]
        return happened

    @staticmethod
    def _at(call: str) -> int:
        return _SEED.size + CALLS.index(call) * _FAULT.size
