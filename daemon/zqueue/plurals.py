"""Numbers of things, as people say them."""

from __future__ import annotations


def counted(number: int, what: str, many: str = "") -> str:
    """``1 request``, ``2 requests``; ``many`` is what stands behind the number where that is not 1,
    if it is not the same with an s: ``counted(n, "request waits", "requests wait")``."""
    return f"{number} {what}" if number == 1 else f"{number} {many or what + 's'}"
