"""Marks that run a test on one engine or on each."""

from __future__ import annotations

import pytest

on_every_engine = pytest.mark.parametrize("engine", ["wire", "libzmq"], indirect=True)
on_wire = pytest.mark.parametrize("engine", ["wire"], indirect=True)
on_libzmq = pytest.mark.parametrize("engine", ["libzmq"], indirect=True)


def about(engine: str) -> str:
    """What stands before a figure that this engine can only estimate."""
    return "~" if engine == "libzmq" else ""
