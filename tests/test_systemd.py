"""What systemd hears, on a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from zqueue.systemd import Notifier, watchdog_interval


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The socket that $NOTIFY_SOCKET names, on which this test is systemd."""
    name = f"@zqueue-{uuid.uuid4()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if name.startswith("@") else name)
        listener.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listener


def heard(systemd: socket.socket) -> list[str]:
    return systemd.recv(65536).decode().split("\n")


def everything_waiting(systemd: socket.socket) -> list[str]:
    systemd.setblocking(False)
    found = []
    try:
        while True:
            found.append(systemd.recv(65536).decode())
    except BlockingIOError:
        return found
    finally:
        systemd.settimeout(10)


def test_the_life_of_a_daemon(systemd: socket.socket) -> None:
    notifier = Notifier()
    notifier.ready("1 running")
    assert heard(systemd) == ["READY=1", "STATUS=1 running"]
    notifier.status("2 running")
    assert heard(systemd) == ["STATUS=2 running"]
    notifier.watchdog()
    assert heard(systemd) == ["WATCHDOG=1"]
    notifier.extend_timeout(2.5)
    assert heard(systemd) == ["EXTEND_TIMEOUT_USEC=2500000"]
    notifier.stopping()
    assert heard(systemd) == ["STOPPING=1"]


def test_a_reload_says_when_it_began(systemd: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    Notifier().reloading()
    word, moment = heard(systemd)
    assert word == "RELOADING=1"
    assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_a_status_is_one_line_of_utf8(systemd: socket.socket) -> None:
    notifier = Notifier()
    notifier.status("queue Bestellungen-für-São-Paulo → 注文\nREADY=1\0")
    assert heard(systemd) == ["STATUS=queue Bestellungen-für-São-Paulo → 注文 READY=1\0"]
    notifier.status("a path that is no UTF-8: \udcff")
    assert heard(systemd) == ["STATUS=a path that is no UTF-8: ?"]


def test_a_full_socket_holds_up_nobody_and_loses_no_change_of_state(
    systemd: socket.socket,
) -> None:
    notifier = Notifier()
    for _ in range(10_000):
        notifier.watchdog()
    notifier.stopping()
    assert 0 < len(everything_waiting(systemd)) < 10_000
    notifier.status("draining")
    assert heard(systemd) == ["STOPPING=1"]
    assert heard(systemd) == ["STATUS=draining"]


def test_of_two_changes_of_state_the_last_counts(systemd: socket.socket) -> None:
    notifier = Notifier()
    for _ in range(10_000):
        notifier.watchdog()
    notifier.reloading()
    notifier.ready("1 running")
    everything_waiting(systemd)
    notifier.watchdog()
    assert heard(systemd) == ["READY=1", "STATUS=1 running"]
    assert heard(systemd) == ["WATCHDOG=1"]


def say_everything(notifier: Notifier) -> None:
    notifier.ready("")
    notifier.reloading()
    notifier.status("")
    notifier.watchdog()
    notifier.extend_timeout(1)
    notifier.stopping()


def test_when_systemd_is_gone_nothing_happens(systemd: socket.socket) -> None:
    notifier = Notifier()
    systemd.close()
    say_everything(notifier)


@pytest.mark.parametrize("address", [None, "", "/nowhere/notify", "@", "vsock:2:1234", "x" * 200])
def test_without_systemd_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    say_everything(Notifier())


@pytest.mark.parametrize(
    ("microseconds", "pid", "interval"),
    [
        ("10000000", None, 5.0),
        ("10000000", "own", 5.0),
        ("10000000", "1", None),
        ("10000000", "", None),
        (None, None, None),
        ("0", None, None),
        ("-5", None, None),
        ("soon", None, None),
        ("", None, None),
    ],
)
def test_the_watchdog_is_pinged_twice_in_its_time(
    monkeypatch: pytest.MonkeyPatch,
    microseconds: str | None,
    pid: str | None,
    interval: float | None,
) -> None:
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, str(os.getpid()) if value == "own" else value)
    assert watchdog_interval() == interval
