"""``engine = "auto"`` takes the wire engine where it can, and says why where it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import StartZqueued
from tests.zqueued import Zqueued
from zqueue.engine.wire import support

ROOT = Path(__file__).parent.parent
SIDES = 'frontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'


@pytest.mark.skipif(bool(support.missing()), reason=support.missing())
def test_auto_takes_it_for_a_queue(zqueued: Zqueued) -> None:
    assert (zqueued.queue().engine, zqueued.queue().engine_reason) == ("wire", "")
    assert zqueued.events("queue.engine_chosen") == []


@pytest.mark.skipif(bool(support.missing()), reason=support.missing())
@pytest.mark.parametrize(
    ("more", "because"),
    [
        ('type = "streamer"', 'it does not do type = "streamer"'),
        ('type = "forwarder"', 'it does not do type = "forwarder"'),
        ("frontend.reply_high_water_mark = 5", "it drops no replies"),
    ],
)
def test_auto_takes_libzmq_and_says_why(
    more: str, because: str, start_zqueued: StartZqueued
) -> None:
    sides = 'frontend.bind = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'
    zqueued = start_zqueued(f"[queues.default]\n{more}\n{sides}")
    queue = zqueued.queue()
    assert queue.engine == "libzmq"
    assert because in queue.engine_reason
    assert because in zqueued.ctl("status").stdout
    event = zqueued.wait_event("queue.engine_chosen", engine="libzmq")
    assert because in event["reason"]
    assert len(zqueued.events("queue.engine_chosen")) == 1


def test_libzmq_is_taken_without_a_word_where_it_is_asked_for(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(f'[queues.default]\nengine = "libzmq"\n{SIDES}')
    assert (zqueued.queue().engine, zqueued.queue().engine_reason) == ("libzmq", "")
    assert zqueued.events("queue.engine_chosen") == []


@pytest.fixture(scope="module")
def without_compiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """zqueue as it is installed where there is no C compiler."""
    target = tmp_path_factory.mktemp("without-compiler")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    done = subprocess.run(
        [*pip, "--no-deps", "--target", str(target), str(ROOT)],
        env=os.environ | {"CC": "/nonexistent/cc", "ZQUEUE_WIRE": "auto"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_without_a_c_compiler_it_is_the_same_product_less_this_engine(
    without_compiler: Path, start_zqueued: StartZqueued
) -> None:
    assert not list(without_compiler.rglob("*.so"))
    path = {"PYTHONPATH": str(without_compiler), "PYTHONSAFEPATH": "1"}
    zqueued = start_zqueued(f"[queues.default]\n{SIDES}", env=os.environ | path)
    status = json.loads(zqueued.ctl("--json", "status").stdout)["queues"][0]
    assert status["engine"] == "libzmq"
    assert "without a C compiler" in status["engine_reason"]
    config = zqueued.path.with_name("wire.toml")
    config.write_text(f'[queues.default]\nengine = "wire"\n{SIDES}')
    done = subprocess.run(
        [sys.executable, "-m", "zqueue.cli.zqueued", "--check", "--config", str(config)],
        env=os.environ | path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 78
    assert "2: queues.default.engine: the wire engine cannot be had here" in done.stderr
