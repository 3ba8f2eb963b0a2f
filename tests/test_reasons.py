"""Why peers are turned away: one enumeration, which all that the engines say is taken from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import zmq

from zqueue.engine import Side
from zqueue.engine.reasons import REASONS, of_libzmq, reason_named, reason_of

# Not beside the installed modules: what is installed has no source of the extension.
WIRE = Path(__file__).parents[1] / "daemon" / "zqueue" / "engine" / "wire"
_SAYS_WHY = re.compile(
    r"(?:_end\(session, \w+, |session_refuse\(session, pool, |session\.fault = "
    r"|_turn_away\(\s*loop, fd, [\w.]+, name,\s*|peer_end\(it, peer, )b\"([^\"]+)\""
)
_OF_OURS = {  # these end what has arrived, and no peer has done anything
    "there is no memory for what it sent",
    "there is no memory to send to it",
    "nothing can be sent to it any more",
    "an operator sent it away",
}


def test_every_reason_has_an_id_and_a_text_of_its_own() -> None:
    for what in ("id", "text"):
        found = [getattr(each, what) for each in REASONS]
        assert len(found) == len(set(found))
        assert all(found)


def test_what_the_wire_engine_says_is_one_of_them() -> None:
    said = {
        text
        for source in WIRE.glob("*.pyx")
        for text in _SAYS_WHY.findall(source.read_text())
        if text not in _OF_OURS
    }
    assert len(said) > 30
    assert [text for text in sorted(said) if reason_of(text).id == "other"] == []


def test_each_says_what_to_do_or_is_harmless() -> None:
    for each in REASONS:
        assert each.do or each.ports or each.level == "debug" or each.likely, each.id
        for side in Side:
            assert "fact" not in each.likely_on(side)


@pytest.mark.parametrize(
    "code", [value for name, value in vars(zmq).items() if name.startswith("PROTOCOL_ERROR_")]
)
def test_what_libzmq_says_is_one_of_them(code: int) -> None:
    text = of_libzmq(code)
    reason = reason_of(text)
    assert reason_named(reason.id) is reason
    assert not text.startswith("0x")
    if code in (zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH,):
        assert "mechanism" in text
        assert "CURVE" in reason.likely
