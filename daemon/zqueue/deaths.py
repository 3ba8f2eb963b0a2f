"""A queue's dead requests: each is kept as a dead letter and told as an event, and an operator may
look at the letters, retry and drop them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from zqueue.config import QueueConfig
from zqueue.control.messages import KeptLetters
from zqueue.dead_letters import DeadLetters, Keeping, Submit, Wanted
from zqueue.engine import DeadRequest
from zqueue.errors import DeadLettersError

WORDS = frozenset((b"DEAD_LIST", b"DEAD_READ", b"DEAD_RETRY", b"DEAD_DROP"))
"""The words of a queue's PAIR that :meth:`Deaths.obey` obeys."""

_TOLD_A_SECOND = 20
_SHOWN_BYTES = 64


class Deaths:
    """What becomes of the requests of one queue that die. For the queue's thread."""

    def __init__(self, letters: DeadLetters, emit: Callable[..., None]) -> None:
        self._letters = letters
        self._emit = emit
        self._keeping: Keeping | None = None
        self._told_in = self._told = self._suppressed = 0
        self._failure = ""
        self._evicted = letters.evicted
        self._told_full = False

    @property
    def unrecorded(self) -> int:
        """How many could not be written, and are lost."""
        return self._letters.lost

    @property
    def kept(self) -> KeptLetters:
        letters = self._letters
        return KeptLetters(
            path=letters.path,
            kept=letters.kept,
            bytes=letters.bytes,
            evicted=letters.evicted,
            unwritten=letters.unwritten,
            failure=letters.failure,
        )

    # -- keeping ---------------------------------------------------------------------------------

    def open(self, config: QueueConfig) -> None:
        """Have somewhere to keep them, as ``config`` says.

        Raises:
            DeadLettersError: there is nowhere.
        """
        self._keeping = _keeping(config)
        self._letters.follow(self._keeping)

    def close(self) -> None:
        """Leave the file to others."""
        self._letters.release()

    def take(self, died: Iterable[DeadRequest], *, told: bool) -> None:
        """Keep these and tell of them; ``told``: their clients were, by an error reply."""
        requests = list(died)
        if requests:
            ids = self._letters.record(requests, told=told)
            for request, identity in zip(requests, ids, strict=True):
                self._tell(request, identity)

    def keep_up(self, config: QueueConfig) -> None:
        """Called each turn: heed a config that has changed, write what could not be written."""
        keeping = _keeping(config)
        if self._keeping is not None and keeping != self._keeping:
            self._keeping, self._told_full = keeping, False
            try:
                self._letters.follow(keeping)
            except DeadLettersError as error:
                self._emit("dead_letters.failed", error=str(error), unwritten=0)
        self._letters.flush()
        self._tell_how_it_goes()

    def _tell(self, request: DeadRequest, identity: str) -> None:
        second = int(time.monotonic())
        if second != self._told_in:
            self._told_in, self._told = second, 0
        self._told += 1
        if self._told > _TOLD_A_SECOND:
            self._suppressed += 1
            return
        suppressed, self._suppressed = self._suppressed, 0
        self._emit("request.dead", **_fields_of(request, identity, suppressed))

    def _tell_how_it_goes(self) -> None:
        letters = self._letters
        if letters.failure != self._failure:
            self._failure = letters.failure
            if self._failure:
                self._emit("dead_letters.failed", error=self._failure, unwritten=letters.unwritten)
            else:
                self._emit("dead_letters.written")
        if letters.evicted != self._evicted:
            self._evicted = letters.evicted
            if not self._told_full:
                self._told_full = True
                self._emit("dead_letters.full", kept=letters.kept, bytes=letters.bytes)

    # -- what an operator asks for ---------------------------------------------------------------

    def obey(self, word: bytes, submit: Submit, arguments: dict[str, Any]) -> dict[str, Any]:
        """Do what one of :data:`WORDS` says; ``submit`` asks for a request again.

        Raises:
            NoSuchLetter: there is none with such an id.
            DeadLettersError: the letters cannot be read, or not be removed.
            Exception: what ``submit`` raises; what it has taken before is done.
        """
        letters = self._letters
        if word == b"DEAD_READ":
            return {"data": letters.read(**arguments)}
        if word == b"DEAD_LIST":
            last, content = arguments.pop("last"), arguments.pop("content")
            return letters.page(Wanted(**arguments), last=last, content=content)
        self._told_full = False
        # Those that die again meanwhile are not meant.
        until = arguments.pop("until", letters.newest)
        wanted = Wanted(**arguments, until=until)
        gone = letters.retry(wanted, submit) if word == b"DEAD_RETRY" else letters.drop(wanted)
        return gone | {"until": until}


def _keeping(config: QueueConfig) -> Keeping:
    return Keeping(
        path=config.dead_letters,
        most=config.dead_letters_max,
        most_bytes=config.dead_letters_max_bytes,
        sync=config.dead_letters_sync,
    )


def _fields_of(request: DeadRequest, identity: str, suppressed: int) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "reason": request.cause,
        "attempts": request.attempts,
        "client": request.client.hex(),
        "envelope": [frame[:_SHOWN_BYTES].hex() for frame in request.frames[: request.envelope]],
        "size": sum(map(len, request.frames)),
        "waited": round(request.died_at - request.received_at, 3),
    }
    if identity:
        fields["id"] = identity
    if request.peer:
        fields["peer"] = request.peer
    if request.history:
        fields["workers"] = [attempt.peer for attempt in request.history]
    if suppressed:
        fields["suppressed"] = suppressed
    return fields
