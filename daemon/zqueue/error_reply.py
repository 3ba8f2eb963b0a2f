"""The frames of an ``error_reply``: text with placeholders."""

from __future__ import annotations

import string
from typing import Literal, TypeAlias

Placeholder: TypeAlias = Literal["reason", "attempts"]
Frame: TypeAlias = tuple[bytes | Placeholder, ...]


def parse(template: str) -> Frame:
    """One frame as its parts: ``bytes`` is sent as it is, a name is filled in.

    ``{reason}`` and ``{attempts}`` are placeholders; ``{{`` and ``}}`` are braces.

    Raises:
        ValueError: another placeholder, or a brace that stands alone.
    """
    parts: list[bytes | Placeholder] = []
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}; a brace that is text is written twice") from None
    for text, name, spec, conversion in pieces:
        if text:
            parts.append(text.encode())
        if name is None:
            continue
        if spec or conversion or name not in ("reason", "attempts"):
            raise ValueError(
                f"{{{name}}} is unknown; there are {{reason}} and {{attempts}}, "
                "and a brace that is text is written twice"
            )
        parts.append("reason" if name == "reason" else "attempts")
    return tuple(parts)
