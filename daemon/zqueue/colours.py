"""Whether a terminal is to be written to with colours."""

from __future__ import annotations

import os


def are_wanted() -> bool:
    """False with ``NO_COLOR`` set to anything (no-color.org), and where ``TERM`` is ``dumb``."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
