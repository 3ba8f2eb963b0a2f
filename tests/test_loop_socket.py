"""A ZeroMQ socket in an event loop, with real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import zmq

from tests.waiting import DEADLINE
from zqueue.loop_socket import LoopSocket

Pair = tuple["zmq.Socket[bytes]", "zmq.Socket[bytes]"]


@pytest.fixture
def ends(context: zmq.Context[zmq.Socket[bytes]]) -> Pair:
    here, there = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    here.set_hwm(0)
    there.set_hwm(0)
    here.bind("inproc://ends")
    there.connect("inproc://ends")
    return here, there


def test_reads_all_in_order_also_while_it_sends(ends: Pair) -> None:
    here, there = ends

    async def converse() -> list[bytes]:
        heard: list[bytes] = []
        done = asyncio.Event()

        def on_message(frames: list[zmq.Frame]) -> None:
            heard.append(frames[0].bytes)
            sock.send([b"heard", frames[0].bytes])
            if len(heard) == 5000:
                done.set()

        sock = LoopSocket(here, on_message)
        for number in range(5000):
            there.send(b"%d" % number)
            if number % 7 == 0:
                sock.send([b"unasked"])
                await asyncio.sleep(0)
        await asyncio.wait_for(done.wait(), DEADLINE)
        sock.close(0)
        return heard

    assert asyncio.run(converse()) == [b"%d" % number for number in range(5000)]


def test_a_message_that_cannot_be_dealt_with_does_not_stop_the_next(ends: Pair) -> None:
    here, there = ends

    async def converse() -> list[str]:
        told: list[str] = []
        done = asyncio.Event()

        def on_message(frames: list[zmq.Frame]) -> None:
            if frames[0].bytes == b"last":
                done.set()
            raise ValueError(frames[0].bytes.decode())

        def on_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            told.append(str(context["exception"]))

        asyncio.get_running_loop().set_exception_handler(on_error)
        sock = LoopSocket(here, on_message)
        for word in (b"first", b"second", b"last"):
            there.send(word)
        await asyncio.wait_for(done.wait(), DEADLINE)
        sock.close(0)
        return told

    assert asyncio.run(converse()) == ["first", "second", "last"]


def test_a_send_that_would_wait_fails_at_once(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    async def send() -> None:
        alone = LoopSocket(context.socket(zmq.PAIR), lambda frames: None)
        with pytest.raises(zmq.Again):
            alone.send([b"to nobody"])
        alone.close(0)

    asyncio.run(send())
