"""A queue's state as bytes: whoever takes it up goes on as if nothing had been."""

from __future__ import annotations

import json
import random
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.exchange import Driven, assert_nothing_is_left, client, worker
from tests.wire.fuzz import STATE_HEAD, damaged, must_make_sense
from tests.wire.raw import hello, message
from zqueue.engine.wire.datapath import DataPath
from zqueue.engine.wire.exchange import Exchange
from zqueue.engine.wire.support import STATE_FORMAT

SETTINGS: dict[str, Any] = {"prefetch": 2}


def handed_over(old: Exchange, *peers: Driven, **settings: Any) -> Exchange:
    """Another exchange with the state of ``old``; the peers are its peers from now on."""
    new = Exchange(**settings)
    new.now = old.now
    new.restore(old.snapshot())
    assert new.peers == old.peers
    assert new.counters == old.counters
    for peer in peers:
        peer.exchange = new
    return new


def test_requests_and_replies_go_on() -> None:
    old = Exchange(**SETTINGS)
    asker, other = client(old, identity=b"me"), client(old, "REQ")
    serving, router = worker(old), worker(old, "ROUTER")
    for number in range(8):
        asker.send(b"", b"%d" % number)
    other.send(b"", b"other")
    new = handed_over(old, asker, other, serving, router, **SETTINGS)
    assert new.snapshot() == old.snapshot()
    served: list[bytes] = []
    while requests := [(each, who) for who in (serving, router) for each in who.hear()]:
        for request, who in requests:
            who.answer(request)
            served.append(request[-1])
    assert sorted(served) == sorted([*(b"%d" % number for number in range(8)), b"other"])
    assert len(asker.hear()) == 8
    assert other.hear() == [[b"", b"other"]]
    assert new.counters["replied"] == new.counters["received"] == 9
    assert_nothing_is_left(new)
    assert_nothing_is_left(old)


@given(st.data())
def test_it_may_be_in_the_midst_of_anything(data: st.DataObject) -> None:
    """Of a greeting, a handshake, a frame, a message to write, wherever the bytes are cut."""
    old = Exchange(**SETTINGS)
    serving = worker(old)
    type = data.draw(st.sampled_from(["REQ", "DEALER"]))
    body = bytes(data.draw(st.sampled_from([3, 300, 20_000])))
    stream = hello(type, (3, 1), b"") + message((b"", b"first")) + message((b"", body, b"x")[:2])
    number = old.connect(0)
    cut = data.draw(st.integers(0, len(stream)))
    old.feed(number, stream[:cut]) if cut else None
    taken = old.output(number, data.draw(st.integers(0, 200)))
    new = handed_over(old, serving, **SETTINGS)
    if cut < len(stream):
        new.feed(number, stream[cut:])
    asked = serving.hear()
    for request in asked:
        serving.answer(request)
    assert [request[-1] for request in asked] == [b"first", body]
    said = taken + new.output(number)
    assert said.endswith(message((b"", b"first")) + message((b"", body)))
    assert_nothing_is_left(new)
    assert_nothing_is_left(old)


def test_what_is_over_keeps_its_place_in_the_order() -> None:
    settings = {**SETTINGS, "deadline": 10.0, "error_reply": [[b"late: ", "reason"]]}
    old = Exchange(**settings)
    asker, serving = client(old), worker(old)
    asker.send(b"", b"one")
    asker.send(b"", b"two")
    late, in_time = serving.hear()
    old.advance(5)
    asker.send(b"", b"three")
    old.advance(6)
    assert asker.hear() == [[b"", b"late: deadline"]] * 2
    new = handed_over(old, asker, serving, **settings)
    assert new.due == old.due
    serving.answer(late)
    serving.answer(in_time)
    assert asker.hear() == []
    assert new.counters["late_replies"] == 2
    (request,) = serving.hear()
    serving.answer(request)
    assert asker.hear() == [[b"", b"three"]]
    assert [death["cause"] for death in old.deaths()] == ["deadline"] * 2
    assert_nothing_is_left(new)


def test_who_is_away_may_come_back_to_the_next_process() -> None:
    settings = {**SETTINGS, "client_grace": 10.0}
    old = Exchange(**settings)
    asker, serving = client(old, identity=b"me"), worker(old)
    asker.send(b"", b"one")
    asker.send(b"", b"two")
    first, second = serving.hear()
    asker.close()
    serving.answer(first)
    assert old.counters["kept"] == 1
    new = handed_over(old, serving, **settings)
    serving.answer(second)
    again = client(new, identity=b"me")
    assert again.hear() == [[b"", b"one"], [b"", b"two"]]
    assert new.counters["replied"] == 2
    assert_nothing_is_left(new)


def test_what_waits_does_not_begin_to_wait_anew() -> None:
    settings = {"max_waiting_time": 10.0, "deadline": 60.0}
    old = Exchange(**settings)
    asker = client(old)
    for _ in range(3):
        asker.send(b"", b"x")
        old.advance(3)
    new = handed_over(old, asker, **settings)
    assert new.due == old.due
    for left in (2, 1, 0):
        new.now = new.due
        new.advance(0)
        assert new.counters["waiting"] == left
    new.deaths()
    assert_nothing_is_left(new)


def test_a_history_is_kept() -> None:
    settings = {"prefetch": 1, "max_attempts": 2}
    old = Exchange(**settings)
    asker = client(old)
    asker.send(b"", b"poison")
    first = worker(old)
    first.hear()
    first.close()
    new = handed_over(old, asker, **settings)
    second = worker(new)
    second.hear()
    second.close()
    (death,) = new.deaths()
    assert [each["worker"] for each in death["history"]] == [first.number, second.number]
    assert (death["cause"], death["frames"]) == ("max_attempts", [b"", b"poison"])
    assert_nothing_is_left(new)


def test_those_who_were_held_back_still_are() -> None:
    settings = {"prefetch": 1, "max_waiting": 2}
    old = Exchange(**settings)
    asker = client(old)
    asker.feed(b"".join(message((b"", b"%d" % number)) for number in range(6)))
    assert old.held_back(asker.number)
    new = handed_over(old, asker, **settings)
    assert new.held_back(asker.number)
    assert new.counters["received"] == 2
    serving = worker(new)
    got = []
    while requests := serving.hear():
        for request in requests:
            got.append(request[-1])
            serving.answer(request)
    assert got == [b"%d" % number for number in range(6)]
    assert_nothing_is_left(new)


@given(st.data())
def test_what_is_damaged_is_refused(data: st.DataObject) -> None:
    old = Exchange(**SETTINGS)
    asker = client(old)
    asker.send(b"", b"x")
    state = bytearray(old.snapshot())
    place = data.draw(st.integers(0, len(state) - 1))
    if data.draw(st.booleans()):
        state = state[:place]
    else:
        state[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match=r"damaged|format|no state"):
        Exchange(**SETTINGS).restore(bytes(state))


def test_a_later_format_is_refused() -> None:
    state = bytearray(Exchange().snapshot())
    at = state.index(b"\n") + 1
    assert state[at] == STATE_FORMAT
    state[at] += 1
    with pytest.raises(ValueError, match=f"its format is {STATE_FORMAT + 1}, and this version"):
        Exchange().restore(bytes(state))


def test_who_left_first_is_given_up_first_also_in_the_next_process() -> None:
    settings = {**SETTINGS, "client_grace": 10.0}
    old = Exchange(**settings)
    for name in (b"b", b"a", b"d", b"c"):
        asker = client(old, identity=name)
        asker.send(b"", b"x")
        asker.close()
        old.advance(1)
    new = handed_over(old, **settings)
    for there in (3, 2, 1, 0):
        assert new.due == 1 + (13 - there) * 1_000_000_000
        new.advance((new.due - new.now) / 1e9 + 1e-9)
        assert new.live["clients"] == there
    assert_nothing_is_left(new)
    assert_nothing_is_left(old)


BUSY: dict[str, Any] = {
    **{"prefetch": 2, "max_waiting": 6},
    **{"client_grace": 60.0, "deadline": 60.0, "max_waiting_time": 50.0},
}


def busy_queue() -> Exchange:
    """A queue with something of everything."""
    busy = Exchange(**BUSY)
    busy.now = 10**9
    serving, router = worker(busy), worker(busy, "ROUTER", identity=b"r")
    asker, away = client(busy, identity=b"me"), client(busy, identity=b"away")
    away.send(b"", b"late")
    asker.feed(b"".join(message((b"e", b"", b"%d" % number)) for number in range(16)))
    (first, *_) = serving.hear()
    serving.answer(first)
    away.close()
    for request in router.hear()[:1]:
        router.answer(request)
    again = worker(busy)
    again.hear()
    again.close()
    half = busy.connect(0)
    busy.feed(half, hello("DEALER", (3, 1), b"half") + message((b"", bytes(5000)))[:200])
    busy.feed(busy.connect(0), hello("REQ")[:40])
    busy.advance(1)
    return busy


def into_another(state: bytes) -> Exchange:
    new = Exchange(prefetch=2, client_grace=60.0)
    new.now = 10**10
    new.restore(state)
    return new


def test_a_right_state_is_taken_up() -> None:
    busy = busy_queue()
    new = into_another(busy.snapshot())
    assert new.counters["received"] >= busy.counters["received"] > 8


@pytest.mark.parametrize("seed", range(300))
def test_a_state_with_a_right_checksum_is_refused_or_makes_sense(seed: int) -> None:
    state = damaged(random.Random(seed), busy_queue().snapshot())
    try:
        new = into_another(state)
    except ValueError as error:
        if str(error).startswith(("it is ", "its format")):
            return
        raise
    must_make_sense(new)
    assert_nothing_is_left(new)


def with_header(state: bytes, **changed: Any) -> bytes:
    rest = state[STATE_HEAD:]
    (size,) = struct.unpack_from("<Q", rest)
    header = json.loads(rest[8 : 8 + size])
    for name, value in changed.items():
        place, _, last = name.rpartition("__")
        (header[place] if place else header)[last] = value
    encoded = json.dumps(header).encode()
    rest = struct.pack("<Q", len(encoded)) + encoded + rest[8 + size :]
    return state[: STATE_HEAD - 8] + struct.pack("<Q", zlib.crc32(rest)) + rest


@pytest.mark.parametrize("wrong", [-1, 1 << 64, 10**30, 1.0, "1", None, True, [], {}, 1e999])
@pytest.mark.parametrize(
    "name",
    [
        *("requests_made", "peers_made", "id_counter", "salt", "counters", "queueing", "service"),
        *("counters__received", "counters__waiting", "counters__in_flight", "counters__died"),
        *("counters__connected", "counters__kept", "counters__replied", "queueing__3"),
    ],
)
def test_a_header_with_a_wrong_value_is_refused(name: str, wrong: Any) -> None:
    if name in ("queueing", "service") and wrong == {}:
        return  # nothing has taken any time
    with pytest.raises(ValueError, match="it is damaged: "):
        into_another(with_header(busy_queue().snapshot(), **{name: wrong}))


@pytest.mark.parametrize(
    "changed",
    [
        {"requests_made": 1},
        {"peers_made": 1},
        {"counters__waiting": 1},
        {"counters__replied": 1 << 40},
        {"counters__connected": [0, 0]},
        {"queueing": {"720": 1}},
        {"queueing": {"-1": 1}},
        {"queueing": {"x": 1}},
    ],
)
def test_numbers_that_do_not_fit_what_is_there_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it is damaged: "):
        into_another(with_header(busy_queue().snapshot(), **changed))


@pytest.mark.parametrize("seed", range(60))
def test_what_was_refused_leaves_nothing_behind(seed: int) -> None:
    """The engine that was to take it up ends as any other, so that the queue can start empty."""
    state = busy_queue().snapshot()
    new = DataPath(
        max_connections=0,
        max_connections_per_address=0,
        descriptors=1000,
        first_id=0,
        max_waiting=1000,
    )
    new.sockets([], [])
    # Without a mistake in it the state of an exchange lacks the endpoints that it connects to.
    with pytest.raises(ValueError, match=r"it is damaged|its format"):
        new.restore(damaged(random.Random(seed), state) if seed else state, [])
    new.give_back()
    assert not any(new.left_behind.values()), new.left_behind
