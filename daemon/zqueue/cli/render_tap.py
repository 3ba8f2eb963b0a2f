"""What a tap shows, and what a replay found, for a person."""

from __future__ import annotations

import json
from datetime import datetime

from zqueue.cli.render import short_time
from zqueue.control import recording
from zqueue.control.messages import TappedMessage
from zqueue.control.replay import ReplayReport, Times
from zqueue.printable import printable


def line(message: TappedMessage, how: str) -> str:
    """One message in a line: when, which way, its request's number, whose, how long, how large, and
    its frames, the delimiter as an empty one."""
    clock = datetime.fromtimestamp(message.at).strftime("%H:%M:%S.%f")
    number = f"#{message.id}" if message.id is not None else "#-"
    if message.way == "request":
        who = f"-> {number} {message.client_peer or '-'}"
    else:
        who = f"<- {number} {message.worker_peer or '-'}{_times_of(message)}"
    frames, sizes, count = recording.bodies(message), message.sizes, message.frames
    if message.id is None and message.identity_size is not None:
        # What answers nothing has no routing id that everybody knows: its first frame is any frame.
        first = bytes.fromhex(message.client_identity)
        frames, sizes, count = [first, *frames], (message.identity_size, *sizes), count + 1
    shown = [
        _shown(frame, how) + ("" if len(frame) == size else "…")
        for frame, size in zip(frames, sizes, strict=False)
    ]
    missing = [] if len(frames) == count else ["…"]
    return f"{clock} {who} {sum(sizes)}B  {' | '.join(shown + missing)}"


def _times_of(reply: TappedMessage) -> str:
    if reply.waited is None or reply.service is None:
        return ""
    took = short_time(reply.waited + reply.service)
    return f" {took} (waited {short_time(reply.waited)}, service {short_time(reply.service)})"


def _shown(frame: bytes, how: str) -> str:
    if how == "hex":
        return frame.hex(" ", -4)
    if how == "json":
        try:
            return printable(json.dumps(json.loads(frame), ensure_ascii=False))
        except ValueError:
            pass
    return printable(frame.decode(errors="backslashreplace"))


def report(found: ReplayReport) -> str:
    """What became of a replay, in some lines."""
    lines = [
        f"{found.sent} requests sent in {found.seconds:g} s; {found.left_out} left out, not "
        "recorded whole or without an envelope",
        f"replies: {found.same} the same, {found.different} different, "
        f"{found.unanswered} did not come, {found.unrecorded} not in the recording",
        f"recorded  {_percentiles(found.recorded)}",
        f"replayed  {_percentiles(found.replayed)}",
    ]
    for each in found.differences:
        where = "" if each.frame is None else f" frame {each.frame}, byte {each.at}"
        lines.append(f"#{each.id}{where}: recorded {each.recorded}, got {each.got}")
    if found.different > len(found.differences):
        lines.append(f"and {found.different - len(found.differences)} more that differ")
    return "\n".join(lines)


def _percentiles(times: Times | None) -> str:
    return "-" if times is None else f"p50 {short_time(times.p50)}  p99 {short_time(times.p99)}"
