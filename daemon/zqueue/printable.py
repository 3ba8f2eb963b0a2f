"""Text that somebody else has said, as it may be shown.

Peers, callers and files say much of what the log and zqueuectl show. None of it may end a line or
steer the terminal that it is read at.
"""

from __future__ import annotations


def printable(text: str) -> str:
    r"""``text`` with what is not printable as Python writes it: an escape as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
