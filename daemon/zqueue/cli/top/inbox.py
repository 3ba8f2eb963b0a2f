"""What a loop waits for that also reads keys: words of other threads, and signals."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Takes what any thread posts. While in a ``with``, which is for the main thread, these
    ``signals`` wake up its :meth:`wait` and do nothing else."""

    def __init__(self, *signals: signal.Signals) -> None:
        self._posted: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._signals = signals
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def __enter__(self) -> Self:
        self._handlers = {each: signal.signal(each, _wake) for each in self._signals}
        self._waker = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._waker)
        for each, handler in self._handlers.items():
            signal.signal(each, handler)

    def post(self, what: T) -> None:
        """Have :meth:`posted` give ``what``; from any thread."""
        self._posted.put(what)
        with contextlib.suppress(BlockingIOError):  # it is full, and so wakes up anyway
            os.write(self._writer, b"\0")

    def wait(self, descriptor: int, seconds: float) -> tuple[bool, set[int]]:
        """Wait until ``descriptor`` can be read, or something is posted, or a signal comes: whether
        it can be read, and which signals have come."""
        ready, _, _ = select.select([descriptor, self._reader], [], [], seconds)
        came = set(os.read(self._reader, 4096)) if self._reader in ready else set()
        return descriptor in ready, came - {0}

    def posted(self) -> Iterator[T]:
        """What was posted and not taken yet."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._posted.get_nowait()


def _wake(_number: int, _frame: FrameType | None) -> None:
    """Python writes the signal's number where :meth:`Inbox.wait` reads it."""
