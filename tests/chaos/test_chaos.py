"""Half a minute of chaos; ``python -m tests.chaos`` is for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.chaos import Chaos
from zqueue.engine.wire import support

SECONDS = 30.0
SEED = 20261124

pytestmark = [
    pytest.mark.skipif(bool(support.missing()), reason=f"no wire engine: {support.missing()}"),
    pytest.mark.timeout(300),
]


def test_every_request_gets_its_reply_once(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, SEED)
    chaos.run(SECONDS)
    print(chaos.report())
    assert not chaos.wrong, chaos.report()
    assert chaos.counted["stays: answered"]
