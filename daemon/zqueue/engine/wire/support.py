"""What the wire engine can do, and whether it is here."""

from __future__ import annotations

import importlib.util

STATE_FORMAT = 1
"""The format that a snapshot of a queue is written in. It changes when an older version could not
read it; what is only added at the end of a record, an older version passes over."""

STATE_FORMATS = range(1, STATE_FORMAT + 1)
"""The formats that this version can read."""


def missing() -> str:
    """Why it is not here, or nothing: its extension modules are left out where there was no C
    compiler when zqueue was installed."""
    if importlib.util.find_spec("zqueue.engine.wire.datapath") is None:
        return "its compiled part was left out when zqueue was installed without a C compiler"
    return ""


def unsupported(type: str, reply_high_water_mark: int) -> str:
    """Why it cannot serve a queue with these settings, or nothing."""
    if type != "queue":
        return f'it does not do type = "{type}"'
    if reply_high_water_mark:
        return "it drops no replies, and so has no reply_high_water_mark; max_unsent bounds them"
    return ""
