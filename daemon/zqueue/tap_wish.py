"""Which of the messages that pass somebody wants to see."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from zqueue.engine import Tapped

_SEARCHED = 64 << 10
_BESIDES = 512  # the headers of frames, and a routing id


@dataclass(frozen=True)
class TapWish:
    """The fields are those of :class:`zqueue.control.messages.Tap`; ``None``: whatever it is."""

    content: int
    client: str | None = None
    worker: str | None = None
    smallest: int | None = None
    largest: int | None = None
    took: float | None = None
    contains: str | None = None

    @property
    def copies(self) -> int:
        """How many bytes of a message have to be copied: what is shown, and what is searched."""
        return max(self.content, _SEARCHED if self.contains is not None else 0) + _BESIDES

    @property
    def decided_by_reply(self) -> bool:
        """Whether a request alone does not tell if it is wanted."""
        return self.took is not None or self.worker is not None

    def wants(self, message: Tapped, reply: Tapped | None = None) -> bool:
        """``reply`` is the one to it, where ``message`` is a request and that is known."""
        answer = reply or message
        return (
            (self.took is None or _took(answer) >= self.took)
            and (
                self.worker is None or _is_peer(self.worker, answer.worker, answer.worker_peer, b"")
            )
            and (
                self.client is None
                or _is_peer(self.client, message.client, message.client_peer, message.identity)
            )
            and (self.smallest is None or message.size >= self.smallest)
            and (self.largest is None or message.size <= self.largest)
            and (
                self.contains is None
                or any(self.contains.encode() in body for body in message.copied)
            )
        )


def _took(message: Tapped) -> float:
    return (message.waited or 0.0) + (message.service or 0.0)


def _is_peer(wanted: str, number: int | None, peer: str, identity: bytes) -> bool:
    """By its id, by its address, or by its routing id; the latter two may have ``*`` and ``?``."""
    if wanted.isdecimal():
        return number == int(wanted)
    return fnmatch.fnmatchcase(peer, wanted) or (
        bool(identity)
        and (
            fnmatch.fnmatchcase(identity.decode(errors="replace"), wanted)
            or identity.hex() == wanted
        )
    )
