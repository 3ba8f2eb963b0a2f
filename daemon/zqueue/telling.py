"""Work that takes a while, and whoever waits for it hears that it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

_EVERY = 0.5

T = TypeVar("T")


async def telling(work: asyncio.Future[T], tell: Callable[[], None]) -> T:
    """Wait for ``work``, and ``tell`` its caller every now and then that it goes on."""
    try:
        while not work.done():
            await asyncio.wait((work,), timeout=_EVERY)
            if not work.done():
                tell()
        return work.result()
    finally:
        work.cancel()
