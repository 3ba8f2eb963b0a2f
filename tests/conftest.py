from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import zmq
from xdist.scheduler import LoadScopeScheduling

from tests.peers import Peers
from tests.zqueued import ONE_QUEUE, Zqueued
from zqueue.engine.wire import support

StartZqueued = Callable[..., Zqueued]

# How long something takes is for the benchmarks.
hypothesis.settings.register_profile("zqueue", deadline=None)
hypothesis.settings.load_profile("zqueue")


# What shares something that takes minutes to make: a package and booted machines, a build with
# sanitizers.
_TOGETHER = ("tests/systemd/", "tests/wire/test_sanitized.py")


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it is not typed
    """Has one process run all that shares something, and begin with it; others run any test."""

    def _split_scope(self, nodeid: str) -> str:
        return next((place for place in _TOGETHER if nodeid.startswith(place)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    # Not --dist=loadgroup: with pytest 9.2 the marks of xdist 3.8 have no effect.
    return _Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report: Any = yield
    setattr(item, f"report_{report.when}", report)
    return report


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    # For the sockets that a test leaves to the garbage collector, too.
    context.setsockopt(zmq.LINGER, 0)
    yield context
    context.destroy(linger=0)


@pytest.fixture
def peers() -> Iterator[Peers]:
    """Clients and workers in threads of their own; all are gone after the test."""
    peers = Peers()
    yield peers
    peers.close()


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """The engine of every queue whose config does not name one; see ``tests.engines``."""
    engine: str = getattr(request, "param", "auto")
    if engine == "wire" and support.missing():
        pytest.skip(f"no wire engine: {support.missing()}")
    return engine


@pytest.fixture
def start_zqueued(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str
) -> Iterator[StartZqueued]:
    """Starts real daemons; a test that fails prints their logs."""
    daemons: list[Zqueued] = []

    def start(config: str = ONE_QUEUE, *, ready: bool = True, **how: Any) -> Zqueued:
        folder = tmp_path / f"zqueued-{len(daemons)}"
        folder.mkdir()
        daemon = Zqueued(folder, config, engine=engine, **how)
        daemons.append(daemon)
        return daemon.wait_ready() if ready else daemon

    yield start
    failed = getattr(request.node, "report_call", None)
    for daemon in daemons:
        daemon.kill()
        # Also said where something was not given back: memory, a connection.
        assert daemon.events("queue.engine_stuck") == []
        if failed is not None and failed.failed:
            print(f"--- log of {daemon.folder.name}:\n{daemon.log_path.read_text()[-20000:]}")


@pytest.fixture
def zqueued(start_zqueued: StartZqueued) -> Zqueued:
    """A running daemon with one queue, ``default``, on ports that the kernel chose."""
    return start_zqueued()
