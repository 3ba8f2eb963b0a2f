"""Waiting for an event with a deadline, instead of sleeping."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 40.0 * float(os.environ.get("ZQUEUE_PATIENCE", 1))
"""Seconds within which anything that a test waits for must have happened. With sanitizers all takes
longer: ``ZQUEUE_PATIENCE`` says how many times."""


def wait_for(what: Callable[[], T], about: str = "", within: float = DEADLINE) -> T:
    """Call ``what`` until it returns something true, and return that.

    Raises:
        AssertionError: it has not within the deadline; ``about`` says what was waited for.
    """
    deadline = time.monotonic() + within
    while True:
        result = what()
        if result:
            return result
        assert time.monotonic() < deadline, f"waited {within:g} s in vain for {about or what}"
        time.sleep(0.01)
