"""The codec: bytes in, frames out, however the bytes are split."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.raw import COMMAND, LONG, MORE, command, frame, message
from zqueue.engine.wire.zmtp import Decoder, ProtocolError

Item = tuple[Any, ...]

bodies = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 70_000).map(lambda size: bytes([size % 251]) * size),
    st.sampled_from([0, 254, 255, 256, 257, 4095, 4096, 65_535]).map(bytes),
)
messages = st.lists(st.tuples(bodies, st.booleans()), min_size=1, max_size=6)
commands = st.binary(min_size=1, max_size=300).map(lambda body: frame(body, COMMAND))
BIG = command(b"BIG", bytes(20_000))


def flatten(items: Sequence[Item]) -> list[Item]:
    """Messages without the length of their envelope, and commands."""
    return [(item[0], item[1]) for item in items]


def decode(decoder: Decoder, data: bytes, cuts: Sequence[int]) -> list[Item]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    got: list[Item] = []
    for begin, end in pairwise(edges):
        got += decoder.feed(data[begin:end])
    return flatten(got)


def drop_last_command(decoder: Decoder) -> None:
    """A command's bytes are good until the next call; make one."""
    assert flatten(decoder.feed(message([b"x"]))) == [("message", [b"x"])]


@given(st.lists(messages, max_size=5), st.lists(st.integers(0, 1 << 20), max_size=12))
def test_any_messages_in_any_pieces(sent: list[list[tuple[bytes, bool]]], cuts: list[int]) -> None:
    data = b""
    for frames in sent:
        for place, (body, long) in enumerate(frames):
            data += frame(body, MORE if place + 1 < len(frames) else 0, long=long)
    decoder = Decoder()
    expected = [("message", [body for body, _ in frames]) for frames in sent]
    assert decode(decoder, data, cuts) == expected
    assert decoder.bodies_out == 0


@given(
    st.lists(st.tuples(messages, st.lists(st.tuples(st.integers(0, 6), commands))), max_size=4),
    st.lists(st.integers(0, 1 << 20), max_size=12),
)
def test_commands_between_frames_are_cut_out(
    sent: list[tuple[list[tuple[bytes, bool]], list[tuple[int, bytes]]]], cuts: list[int]
) -> None:
    data = b""
    expected: list[Item] = []
    for frames, between in sent:
        for place, (body, long) in enumerate(frames):
            for where, said in between:
                if where == place:
                    data += said
                    expected.append(("command", said[9 if said[0] & LONG else 2 :]))
            data += frame(body, MORE if place + 1 < len(frames) else 0, long=long)
        expected.append(("message", [body for body, _ in frames]))
    decoder = Decoder()
    assert decode(decoder, data, cuts) == expected
    drop_last_command(decoder)
    assert decoder.bodies_out == 0


def test_byte_by_byte() -> None:
    decoder = Decoder()
    data = frame(b"a", MORE) + command(b"X", b"y") + frame(b"", MORE) + frame(b"z" * 300)
    got = decode(decoder, data, range(len(data)))
    assert got == [("command", b"\x01Xy"), ("message", [b"a", b"", b"z" * 300])]
    assert decoder.bodies_out == 0


@pytest.mark.parametrize(
    ("frames", "envelope"),
    [
        ([b"", b"x"], 1),
        ([b"a", b"b", b"", b"x"], 3),
        ([b"a", b"", b"", b"x"], 2),
        ([b"", b""], 1),
        ([b"a"], 0),
        ([b"a", b"b"], 0),
        ([b"a", b""], 0),
        ([b""], 0),
    ],
    ids=str,
)
def test_the_delimiter_is_an_empty_frame_that_is_not_the_last(
    frames: list[bytes], envelope: int
) -> None:
    for long in (False, True):
        assert Decoder().feed(message(frames, long=long)) == [("message", frames, envelope)]


@pytest.mark.parametrize("flag", [8, 16, 32, 64, 128, COMMAND | MORE, COMMAND | MORE | LONG])
def test_reserved_flags_are_not_a_frame(flag: int) -> None:
    for before in (b"", frame(b"a", MORE)):
        with pytest.raises(ProtocolError, match="not a frame"):
            Decoder().feed(before + frame(b"x", flag))


def test_a_limit_counts_all_of_a_message_and_its_heads() -> None:
    limit = len(message([b"a" * 50, b"b" * 44]))
    assert limit == 98
    decoder = Decoder(limit)
    assert len(decoder.feed(message([b"a" * 50, b"b" * 44]))) == 1
    with pytest.raises(ProtocolError, match="too large"):
        decoder.feed(message([b"a" * 50, b"b" * 45]))
    # The length of the frame is enough to say no; its body is not waited for.
    for size in (100, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        with pytest.raises(ProtocolError, match="too large"):
            Decoder(limit).feed(bytes([LONG]) + size.to_bytes(8, "big"))
        with pytest.raises(ProtocolError, match="too large"):
            Decoder(limit).feed(frame(b"a", MORE) + bytes([LONG]) + size.to_bytes(8, "big"))


def test_without_a_limit_no_length_is_believed_blindly() -> None:
    for size in ((1 << 63) - 1, 1 << 63, (1 << 64) - 10, (1 << 64) - 1):
        with pytest.raises(ProtocolError, match=r"too large|no memory"):
            Decoder().feed(bytes([LONG]) + size.to_bytes(8, "big"))


@pytest.mark.parametrize("most", [1, 3])
def test_a_limit_on_frames(most: int) -> None:
    decoder = Decoder(frames=most)
    assert len(decoder.feed(message([b""] * most) * 2)) == 2
    with pytest.raises(ProtocolError, match="too many frames"):
        decoder.feed(message([b""] * (most + 1)))


def test_a_command_has_no_more_than_64_kib() -> None:
    assert len(Decoder().feed(frame(bytes(65_536), COMMAND))) == 1
    for head in (bytes([COMMAND | LONG]) + (65_537).to_bytes(8, "big"),):
        with pytest.raises(ProtocolError, match="not a frame"):
            Decoder().feed(head)


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_any_bytes_do_no_harm(data: bytes, cuts: list[int]) -> None:
    """Whole or split, the same bytes mean the same."""

    def outcome(cuts: Sequence[int]) -> tuple[list[Item], str]:
        decoder = Decoder(1000, 10)
        edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
        got: list[Item] = []
        try:
            for begin, end in pairwise(edges):
                got += flatten(decoder.feed(data[begin:end]))
        except ProtocolError as error:
            return got, str(error)
        return got, ""

    bytewise, fault = outcome(range(len(data)))
    assert outcome(cuts)[1] == fault
    assert outcome([])[1] == fault
    if not fault:
        assert outcome(cuts)[0] == outcome([])[0] == bytewise
