"""Whatever strangers, files and other processes hand in is read, or refused with a reason."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zqueue import handover
from zqueue.control import letters, recording
from zqueue.control.messages import DeadLetter, TappedMessage
from zqueue.web import http

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["AAAA", "A", "é", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
MESSAGE = TappedMessage(
    way="request",
    id=1,
    at=1.0,
    waited=None,
    service=None,
    client=1,
    client_peer="",
    client_identity="00",
    worker=None,
    worker_peer="",
    frames=2,
    sizes=(0, 3),
    bodies=("", "YWJj"),
)
HEAD = recording.Head(queue="q", broker="b", began=1.0).model_dump_json() + "\n"
LETTER = DeadLetter.model_construct(
    id="b/q/1",
    queue="q",
    broker="b",
    reason="deadline",
    received_at=1.0,
    died_at=2.0,
    client="00",
    named=False,
    peer="",
    told=False,
    attempts=0,
    history=(),
    envelope=1,
    sizes=(0, 3),
    size=3,
    content="YWJj",
)


def changed(told: dict[str, Any], data: st.DataObject) -> str:
    """A line of JSON with some of its values others, and some missing."""
    names = sorted(told)
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)):
        if data.draw(st.booleans()):
            told[name] = data.draw(JSON)
        else:
            told.pop(name, None)
    return json.dumps(told)


@given(st.data())
def test_recordings(data: st.DataObject) -> None:
    line = data.draw(
        st.sampled_from(["[" * 100_000, '{"dropped": null}', '{"dropped": 1e999}', "null"])
        | st.text(max_size=40)
        | JSON.map(json.dumps)
        | st.builds(lambda: changed(json.loads(MESSAGE.model_dump_json()), data))
    )
    try:
        found = recording.read([HEAD, line + "\n", MESSAGE.model_dump_json() + "\n"])
    except recording.NotARecording as error:
        line_number = str(error).split(":")[0]
        if line_number == "line 2":
            return
        raise
    for message in found.messages:
        recording.bodies(message)
        recording.is_whole(message)
    assert found.dropped >= 0


@given(st.data())
def test_exported_letters(data: st.DataObject) -> None:
    line = data.draw(
        st.sampled_from(["[" * 100_000, '{"envelope": 5, "body": [{}]}'])
        | st.text(max_size=40)
        | JSON.map(json.dumps)
        | st.builds(lambda: changed(letters.exported(LETTER), data))
    )
    with contextlib.suppress(ValueError):
        letters.frames(letters.imported(line))


@given(
    st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "ignore"))
)
def test_http(head: bytes) -> None:
    for begin in (b"", b"GET ", b"GET /", b"GET /a?", b"GET / HTTP/1.1\r\n"):
        for end in (b"", b" HTTP/1.1", b"\r\n\r\n"):
            with contextlib.suppress(http.BadRequest):
                assert http.parse(begin + head + end).path.startswith("/")


@pytest.mark.parametrize("seed", range(300))
def test_what_a_run_leaves(seed: int) -> None:
    rng = random.Random(seed)
    state = handover.State(version="1", frozen_at=1.0)
    left = bytearray(b"".join(handover.write(state)))
    begin = len(b"zqueue hand-over\n") + 8
    if rng.random() < 0.5:
        told = json.loads(left[begin:])
        place = rng.choice([told, told["state"]])
        name = rng.choice(list(place))
        place[name] = rng.choice([None, -1, 1 << 70, "x", [], {}, {"q": {"state": -1}}, [[]]])
        if rng.random() < 0.3:
            told["sizes"] = {
                "q": {"state": 5, "connections": 0},
                "r": {"state": -5, "connections": 0},
            }
        encoded = json.dumps(told).encode()
        left[begin - 8 :] = len(encoded).to_bytes(8, "little") + encoded
    else:
        for _ in range(rng.choice((1, 3))):
            left[rng.randrange(len(left))] = rng.randrange(256)
    try:
        handover.read(bytes(left), [])
    except ValueError as error:
        if str(error).startswith(("it ", "its ")) or "descriptors belong to it" in str(error):
            return
        raise
