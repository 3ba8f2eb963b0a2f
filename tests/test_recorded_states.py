"""A state of each format, as it was written once, is read by this version and every later one; a
layout that changes has another number."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

import pytest

from tests import recorded_states as recorded
from tests.wire.fuzz import STATE_HEAD, must_make_sense
from tests.wire.test_snapshot import BUSY
from zqueue import handover
from zqueue.engine.wire import support
from zqueue.engine.wire.exchange import Exchange

pytestmark = pytest.mark.skipif(bool(support.missing()), reason="needs the wire engine")

RAISE = "the layout has changed: raise {}, then python -m tests.recorded_states"


def records(state: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The header of a queue's state, and its records: clients, connections, requests."""
    rest = memoryview(state)[STATE_HEAD:]

    def number() -> int:
        nonlocal rest
        value: int = struct.unpack_from("<Q", rest)[0]
        rest = rest[8:]
        return value

    def data() -> bytes:
        nonlocal rest
        size = number()
        value, rest = bytes(rest[:size]), rest[size:]
        return value

    header = json.loads(data())
    found = [data() for _ in ("clients", "connections") for _ in range(number())]
    while number():
        found.append(data())
    assert not rest
    return header, found


def assert_has(new: Any, old: Any, path: str = "") -> None:
    """``new`` has all that ``old`` has; what it has besides, an older version passes over."""
    if isinstance(old, dict):
        assert isinstance(new, dict), path
        for key, value in old.items():
            assert key in new, f"{path}.{key}"
            assert_has(new[key], value, f"{path}.{key}")
    elif isinstance(old, list):
        assert len(new) == len(old), path
        for place, (one, other) in enumerate(zip(new, old, strict=True)):
            assert_has(one, other, f"{path}[{place}]")
    else:
        assert new == old, path


def test_the_layout_of_a_queue_is_that_of_its_number() -> None:
    """Looked for where it is written: most values of a state are 0, and would not show a swap."""
    text = recorded.layout_file(support.STATE_FORMAT).read_text()
    before: dict[str, list[str]] = {}
    for part in re.split(r"\n(?! )", text.strip()):
        name, *calls = part.splitlines()
        before[name] = [call.strip() for call in calls]
    now = recorded.layout()
    assert now.keys() == before.keys()
    why = RAISE.format("STATE_FORMAT in support.py")
    for name, calls in before.items():
        if name == "dispatcher_saved":  # in the header more may be anywhere
            assert set(now[name]) >= set(calls), why
            calls = [call for call in calls if call.startswith("writer.")]
            assert [call for call in now[name] if call.startswith("writer.")] == calls, why
        else:  # and in a record at its end
            assert now[name][-1] == calls.pop() == "writer.end()"
            assert now[name][: len(calls)] == calls, why


@pytest.mark.parametrize("format", support.STATE_FORMATS)
def test_a_recorded_queue_goes_on(format: int) -> None:
    state = recorded.wire_file(format).read_bytes()
    new = Exchange(**BUSY)
    new.now = 2 * 10**9
    new.restore(state)
    header, old = records(state)
    assert_has(json.loads(json.dumps(new.counters)), header["counters"])
    assert len(new.peers) == recorded.PEERS
    if format == support.STATE_FORMAT:
        again, written = records(new.snapshot())
        assert_has(again, header)
        assert len(written) == len(old)
        # Their times are those of now.
        shorter = [n for n, one in enumerate(written) if len(one) < len(old[n])]
        assert not shorter, RAISE.format("STATE_FORMAT in support.py")
    must_make_sense(new)


@pytest.mark.parametrize("format", handover.FORMATS)
def test_a_recorded_daemon_goes_on(format: int) -> None:
    content = recorded.handover_file(format).read_bytes()
    state = handover.read(content, list(recorded.descriptors(2 + recorded.PEERS)))
    paused, draining = state.queues
    assert (paused.name, paused.standing.state.value, paused.restarts) == ("orders", "paused", 5)
    assert draining.connections == recorded.PEERS
    assert draining.snapshot is not None
    assert draining.snapshot.state.startswith(b"zqueue wire state")
    assert draining.drain is not None
    assert [each.name for each in state.sockets] == ["default.frontend", "control"]
    assert state.events is not None
    assert [event.name for event in state.events.events] == ["queue.paused"]
    if format == handover.FORMAT:
        now, before = header_of(b"".join(handover.write(state))), header_of(content)
        for each in before["state"]["sockets"]:
            del each["descriptor"]
        try:
            assert_has(now, before)
        except AssertionError as error:
            pytest.fail(f"{RAISE.format('FORMAT in handover.py')}: {error}")
    handover.close(state.descriptors())


def header_of(content: bytes) -> dict[str, Any]:
    begin = content.index(b"\n") + 9
    size = struct.unpack_from("<Q", content, begin - 8)[0]
    header: dict[str, Any] = json.loads(content[begin : begin + size])
    return header
