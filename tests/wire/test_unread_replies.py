"""``client_grace``: what a client left unread reaches it when it is back, whole and once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import StartZqueued
from tests.waiting import wait_for
from tests.wire.exchange import (
    HOLD,
    MARKED,
    Driven,
    assert_adds_up,
    assert_nothing_is_left,
    client,
    worker,
)
from tests.wire.raw import RawPeer, message, ping
from tests.zqueued import Zqueued
from zqueue.engine.wire.exchange import Exchange

SIZES = [1, 300, 1100, 5000, 70_000]


def answered(exchange: Exchange, asker: Driven, count: int, size: int = 1) -> list[bytes]:
    """So many requests of a client that are answered; the names of these."""
    serving = worker(exchange, "DEALER", version=(3, 0))
    names = [b"%03d" % number for number in range(count)]
    for name in names:
        asker.send(name, b"", b"?")
        [request] = serving.hear()
        serving.send(*request[:-1], bytes(size))
    serving.close()
    return names


def heard(peer: Driven) -> list[bytes]:
    return [frames[0] for frames in peer.hear()]


def counted(exchange: Exchange) -> tuple[int, int]:
    assert_adds_up(exchange)
    return exchange.counters["kept"], exchange.counters["replied"]


@given(st.data())
def test_each_arrives_once_and_whole(data: st.DataObject) -> None:
    """Wherever what was written ends, in whatever pieces, with commands among the replies."""
    exchange = Exchange(client_grace=60, client_unsent=64 << 20)
    asker = client(exchange, identity=b"me")
    serving = worker(exchange, "DEALER", version=(3, 0))
    names = []
    for number in range(data.draw(st.integers(1, 6))):
        names.append(b"%03d" % number)
        asker.send(names[-1], b"", b"?")
        [request] = serving.hear()
        if data.draw(st.booleans()):
            asker.feed(ping(0, b"context"))
        serving.send(*request[:-1], bytes(data.draw(st.sampled_from(SIZES))))
    got: list[bytes] = []
    for most in data.draw(st.lists(st.sampled_from([1, 5, 40, 400, 5010, 80_000]), max_size=4)):
        got += [frames[0] for frames in asker.hear(most)]
    assert counted(exchange) == (len(names) - len(got), len(got))
    asker.close()
    assert counted(exchange) == (len(names) - len(got), len(got))
    if data.draw(st.booleans()):
        another = Exchange(client_grace=60, client_unsent=64 << 20)
        another.now = exchange.now
        another.restore(exchange.snapshot())
        exchange = another
    back = client(exchange, identity=b"me")
    assert got + heard(back) == names
    assert counted(exchange) == (0, len(names))
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [0, 3, 1500])
def test_the_next_process_knows_where_messages_begin(size: int, most: int) -> None:
    old = Exchange(client_grace=60)
    asker = client(old, identity=b"me")
    names = answered(old, asker, 5, size)
    got = [frames[0] for frames in asker.hear(most)] if most else []
    new = Exchange(client_grace=60)
    new.now = old.now
    new.restore(old.snapshot())
    assert new.snapshot() == old.snapshot()
    new.close(asker.number)
    assert new.counters["kept"] == 5 - len(got)
    assert got + heard(client(new, identity=b"me")) == names
    assert_nothing_is_left(new)


def test_who_does_not_come_back_has_not_been_replied_to() -> None:
    exchange = Exchange(client_grace=60)
    asker = client(exchange, identity=b"me")
    answered(exchange, asker, 5)
    asker.close()
    assert counted(exchange) == (5, 0)
    exchange.advance(60)
    assert counted(exchange) == (0, 0)
    assert exchange.counters["unclaimed"] == exchange.counters["dropped_replies"] == 5
    assert_nothing_is_left(exchange)


def test_error_replies_and_what_nobody_asked_for_are_kept_as_well() -> None:
    exchange = Exchange(client_grace=60, deadline=5, error_reply=MARKED)
    asker, serving = client(exchange, identity=b"me"), worker(exchange, "DEALER")
    exchange.steer(HOLD)
    asker.send(b"dies", b"", b"?")
    exchange.advance(5)
    serving.send(b"me", b"unasked", b"", b"!")
    asker.close()
    assert heard(client(exchange, identity=b"me")) == [b"dies", b"unasked"]
    assert_nothing_is_left(exchange)


@pytest.mark.parametrize("type", ["DEALER", "ROUTER"])
def test_it_may_come_and_go_again_and_again(type: str) -> None:
    exchange = Exchange(client_grace=60)
    asker = client(exchange, type, identity=b"me")
    names = answered(exchange, asker, 20, 1100)
    got: list[bytes] = []
    while len(got) < 20:
        got += [frames[0] for frames in asker.hear(2500)]
        asker.close()
        asker = client(exchange, type, identity=b"me")
    assert got == names
    assert counted(exchange) == (0, 20)
    assert_nothing_is_left(exchange)


def test_one_that_does_not_read_and_is_sent_away_gets_it_later() -> None:
    exchange = Exchange(client_grace=60, client_unsent=3000)
    asker = client(exchange, identity=b"me")
    serving = worker(exchange, "DEALER")
    for number in range(5):
        if asker.is_there and not exchange.held_back(asker.number):
            asker.send(b"%03d" % number, b"", b"?")
    while asker.is_there and (requests := serving.hear()):
        for request in requests:
            serving.send(*request[:-1], bytes(2000))
    back = client(exchange, identity=b"me")
    assert heard(back)[:2] == [b"000", b"001"]
    assert_nothing_is_left(exchange)


# -- how much is remembered ----------------------------------------------------------------------


def test_nobody_is_remembered_to_whom_nothing_is_owed() -> None:
    exchange = Exchange(client_grace=60)
    for number in range(100):
        client(exchange, identity=b"%d" % number).close()
    assert exchange.live["clients"] == 0
    assert exchange.due == 0


def test_nor_when_the_last_that_was_owed_is_no_more() -> None:
    exchange = Exchange(client_grace=60, deadline=5)
    asker = client(exchange, identity=b"me")
    asker.send(b"", b"?")
    asker.close()
    assert exchange.live["clients"] == 1
    exchange.advance(5)
    exchange.deaths()
    exchange.advance(0)
    assert exchange.live["clients"] == 0
    assert exchange.due == 0


def test_all_that_is_kept_takes_no_more_than_what_may_wait() -> None:
    exchange = Exchange(client_grace=60, max_waiting_bytes=100_000)
    for number in range(100):
        asker = client(exchange, identity=b"%d" % number)
        answered(exchange, asker, 1, 5000)
        asker.close()
    kept = exchange.counters["kept"]
    assert 10 < kept < 20
    assert exchange.counters["unclaimed"] == exchange.counters["dropped_replies"] == 100 - kept
    assert exchange.block_bytes < 200_000
    assert heard(client(exchange, identity=b"99")) == [b"000"], "the oldest were dropped"
    assert_nothing_is_left(exchange)


# -- with sockets --------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["close", "reset"])
def test_100_of_100(ends: str, start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(
        '[queues.default]\nfrontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'
        'client_grace = "1h"\n'
    )
    how: dict[str, Any] = {"identity": b"me", "receive_buffer": 4096}
    body = bytes(170_000)
    with RawPeer(zqueued.backend(), "DEALER") as serving:
        asker = RawPeer(zqueued.frontend(), "DEALER", **how)
        asker.say(b"".join(message([b"%03d" % number, b"", b"?"]) for number in range(100)))
        serving.serve(100, body)
        wait_for(lambda: zqueued.queue().replies.messages == 100)
        assert kept(zqueued) > 50, "most do not fit into the kernel's buffers"
        getattr(asker, ends)()
        wait_for(lambda: zqueued.queue().clients.connected == 0)
        unread = kept(zqueued)
        with RawPeer(zqueued.frontend(), "DEALER", identity=b"me") as back:
            got = [back.receive() for _ in range(unread)]
            assert [frames[0] for frames in got] == [
                b"%03d" % number for number in range(100 - len(got), 100)
            ]
            assert {frames[-1] for frames in got} == {body}
            wait_for(lambda: kept(zqueued) == 0)


def kept(zqueued: Zqueued) -> int:
    return zqueued.queue().kept
