from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zqueue.endpoints import LONGEST_IPC_PATH, Endpoint, overlaps, parse, reaches

Use = Literal["bind", "connect"]


def bind(text: str) -> Endpoint:
    return parse(text, "bind")


@pytest.mark.parametrize(
    ("text", "use", "host", "port"),
    [
        ("tcp://*:5559", "bind", "*", 5559),
        ("tcp://127.0.0.1:*", "bind", "127.0.0.1", None),
        ("tcp://eth0:0", "bind", "eth0", None),
        ("tcp://[::1]:5559", "bind", "::1", 5559),
        ("tcp://[fe80::1%eth0]:1", "connect", "fe80::1%eth0", 1),
        ("tcp://broker.example.:65535", "connect", "broker.example.", 65535),
    ],
)
def test_tcp(text: str, use: Use, host: str, port: int | None) -> None:
    found = parse(text, use)
    assert (found.transport, found.host, found.port) == ("tcp", host, port)
    assert f"tcp://{found.address}" == text


@pytest.mark.parametrize("text", ["ipc:///run/zqueue/a.sock", "ipc://a.sock", "ipc:///a b/ü"])
def test_ipc(text: str) -> None:
    found = bind(text)
    assert (found.transport, f"ipc://{found.path}", found.abstract) == ("ipc", text, False)


def test_an_abstract_name_has_no_path() -> None:
    found = bind("ipc://@zqueue")
    assert (found.abstract, found.path, found.address) == (True, "", "@zqueue")


@pytest.mark.parametrize(
    ("text", "use", "reason"),
    [
        ("5559", "bind", "looks like"),
        ("", "bind", "looks like"),
        ("tcp:/*:5559", "bind", "looks like"),
        ("TCP://*:5559", "bind", 'no transport "TCP"'),
        ("http://*:80", "bind", 'no transport "http"'),
        ("inproc://x", "bind", "not for a daemon"),
        ("tcp://", "bind", "HOST:PORT"),
        ("tcp://*", "bind", "HOST:PORT"),
        ("tcp://::1:5559", "bind", "HOST:PORT"),
        ("tcp://:5559", "bind", "host is missing"),
        ("tcp://[x]:5559", "bind", "not an IPv6 address"),
        ("tcp://a b:5559", "bind", "neither an address"),
        ("tcp://-a:5559", "bind", "neither an address"),
        ("tcp://*:99999", "bind", "not a port"),
        ("tcp://*:-1", "bind", "not a port"),
        ("tcp://*:٣", "bind", "not a port"),
        ("tcp://*:" + "9" * 5000, "bind", "not a port"),
        ("tcp://*:", "bind", "not a port"),
        ("tcp://a:*", "connect", "not a port"),
        ("tcp://*:1", "connect", "not all addresses"),
        ("tcp://[::]:1", "connect", "not all addresses"),
        ("ipc://", "bind", "path is missing"),
        ("ipc://*", "connect", "takes a path"),
        ("ipc://@", "bind", "name after the @"),
        ("ipc:///run/", "bind", "a folder"),
        ("ipc:///a\0b", "bind", "zero byte"),
        ("ipc:///" + "x" * LONGEST_IPC_PATH, "bind", "108 bytes"),
        ("ipc:///" + "ü" * 60, "bind", "121 bytes"),
    ],
)
def test_what_is_no_endpoint(text: str, use: Use, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text, use)


def test_the_longest_ipc_path() -> None:
    assert bind("ipc:///" + "x" * (LONGEST_IPC_PATH - 1)).path


@given(st.text(max_size=40) | st.text(max_size=40).map("tcp://{}".format))
def test_any_text_is_an_endpoint_or_a_value_error(text: str) -> None:
    for use in ("bind", "connect"):
        try:
            found = parse(text, use)
        except ValueError:
            continue
        assert f"{found.transport}://{found.address}" == text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tcp://*:1", "tcp://*:1"),
        ("tcp://*:1", "tcp://127.0.0.1:1"),
        ("tcp://[::]:1", "tcp://10.0.0.1:1"),
        ("tcp://localhost:1", "tcp://127.0.0.1:1"),
        ("tcp://[::1]:1", "tcp://[0:0::1]:1"),
        ("tcp://Host:1", "tcp://host:1"),
        ("tcp://*:1", "tcp://*:01"),
        ("ipc:///a/b", "ipc:///a//b"),
        ("ipc:///a/b", "ipc:////a/c/../b"),
        ("ipc://@a", "ipc://@a"),
    ],
)
def test_what_cannot_both_be_bound(one: str, other: str) -> None:
    assert overlaps(bind(one), bind(other))
    assert overlaps(bind(other), bind(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tcp://*:1", "tcp://*:2"),
        ("tcp://*:*", "tcp://*:*"),
        ("tcp://10.0.0.1:1", "tcp://10.0.0.2:1"),
        ("ipc://*", "ipc://*"),
        ("ipc://@a", "ipc://a"),
        ("ipc:///a", "ipc:///b"),
        ("ipc:///a", "tcp://*:1"),
    ],
)
def test_what_can_both_be_bound(one: str, other: str) -> None:
    assert not overlaps(bind(one), bind(other))
    assert not overlaps(bind(other), bind(one))


@pytest.mark.parametrize(
    ("to", "bound", "arrives"),
    [
        ("tcp://localhost:1", "tcp://*:1", True),
        ("tcp://[::1]:1", "tcp://[::]:1", True),
        ("tcp://10.0.0.1:1", "tcp://10.0.0.1:1", True),
        ("tcp://elsewhere:1", "tcp://*:1", False),
        ("tcp://localhost:1", "tcp://*:2", False),
        ("tcp://localhost:1", "tcp://*:*", False),
        ("tcp://localhost:1", "ipc:///a", False),
        ("ipc:///a", "ipc:///b/../a", True),
        ("ipc:///a", "ipc://*", False),
    ],
)
def test_what_reaches_a_bound_endpoint(to: str, bound: str, arrives: bool) -> None:
    assert reaches(parse(to, "connect"), bind(bound)) is arrives
