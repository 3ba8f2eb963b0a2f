"""Peers with keys or a password, where nobody has any: told as what they are."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import zmq

from tests.engines import on_every_engine
from tests.waiting import wait_for
from tests.zqueued import Zqueued

pytestmark = [
    on_every_engine,
    pytest.mark.skipif(not zmq.has("curve"), reason="this libzmq has no CURVE"),
]

TYPES = {"frontend": zmq.DEALER, "backend": zmq.REP}


def with_keys(peer: zmq.Socket[bytes]) -> None:
    peer.curve_publickey, peer.curve_secretkey = zmq.curve_keypair()
    peer.curve_serverkey = zmq.curve_keypair()[0]


def with_password(peer: zmq.Socket[bytes]) -> None:
    peer.plain_username, peer.plain_password = b"user", b"password"


MECHANISMS: dict[str, Callable[[zmq.Socket[bytes]], None]] = {
    "CURVE": with_keys,
    "PLAIN": with_password,
}


def test_a_peer_that_wants_a_mechanism_is_told_as_one(
    engine: str, zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    endpoints = {"frontend": zqueued.frontend(), "backend": zqueued.backend()}
    for side, type in TYPES.items():
        for mechanism, prepare in MECHANISMS.items():
            before = len(zqueued.events("peer.rejected"))
            with context.socket(type) as peer:
                prepare(peer)
                peer.connect(endpoints[side])
                zqueued.wait_events("peer.rejected", before + 1)
            for event in zqueued.events("peer.rejected")[before:]:
                assert mechanism in event["reason"] + event["likely"]
                if engine == "wire":
                    assert event["cause"] == f"mechanism_{mechanism.lower()}"
    found = json.loads(zqueued.ctl("doctor", "--json").stdout)["findings"]
    for side in TYPES:
        findings = [each for each in found if f"turned away at the {side}" in each["what"]]
        assert len(findings) == 2 if engine == "wire" else findings
        for each in findings:
            assert "CURVE" in each["what"] or "PLAIN" in each["what"]
            assert any("NULL only" in line for line in each["do"])
            if engine == "wire":
                assert "browser" not in each["what"]


def test_a_peer_without_is_served_after_them(
    zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """They are refused, and cost nobody else anything."""
    strangers = []
    for prepare in MECHANISMS.values():
        for side, type in TYPES.items():
            strangers.append(context.socket(type))
            prepare(strangers[-1])
            strangers[-1].connect(zqueued.frontend() if side == "frontend" else zqueued.backend())
    wait_for(lambda: zqueued.queue().clients.rejected and zqueued.queue().workers.rejected)
    with context.socket(zmq.REP) as worker, context.socket(zmq.REQ) as client:
        worker.connect(zqueued.backend())
        client.connect(zqueued.frontend())
        client.send(b"plain")
        assert worker.poll(20_000)
        worker.send(worker.recv())
        assert client.poll(20_000)
        assert client.recv() == b"plain"
    for each in strangers:
        each.close()
