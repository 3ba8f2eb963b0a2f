"""Messages that are large in one way or another."""

from __future__ import annotations

import pytest

from zqueue.engine.wire import support

if support.missing():
    pytest.skip(f"no wire engine: {support.missing()}", allow_module_level=True)

from tests.wire.fuzz import MORE, frame
from zqueue.engine.wire.zmtp import Decoder


def test_a_message_is_not_copied_for_each_of_its_many_frames() -> None:
    # It would take minutes, in which the queue stood still. Up to 64 MiB blocks are kept in powers
    # of two, so that only what is larger shows it.
    decoder = Decoder()
    frames = 400 * frame(MORE, bytes(700))
    for _ in range(70 * (1 << 20) // len(frames)):
        assert decoder.feed(frames) == []
    (piece,) = decoder.feed(frame(0, b"last"))
    assert piece[0] == "message"
    assert piece[1][-1] == b"last"
    assert len(piece[1]) > 100_000
    assert decoder.bodies_out == 0
