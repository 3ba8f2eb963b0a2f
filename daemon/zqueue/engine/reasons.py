"""Why a peer is turned away, or disconnected for what it did: each reason once, with what it says,
what the peer likely is, and what to do. Reports, the log and the doctor all have it from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zqueue.engine import Side


@dataclass(frozen=True)
class Reason:
    """``id`` is for scripts and never changes. ``text`` is what is known, as the engines say it;
    ``likely`` what is probable, by side if that differs, or nothing. ``do``: what to do about it;
    ``ports``: also, to look whether the peer has the right port. ``level`` of ``debug``: nothing
    is wrong with it."""

    id: str
    text: str
    likely: str = ""
    do: tuple[str, ...] = ()
    ports: bool = False
    level: str | None = None
    likely_at: Mapping[str, str] = field(default_factory=dict)

    def likely_on(self, side: str) -> str:
        """What it likely is, at this side."""
        return self.likely_at.get(side, self.likely)


NO_PAIR = "it is no PAIR, or left before its handshake was done"

_NOT_ZEROMQ = "a browser, a health check or a TLS client that is no ZeroMQ peer"
_WRONG_TYPE: Mapping[str, str] = {
    Side.FRONTEND: (
        "a worker that connects to the clients' port, or a socket of a type that a client cannot be"
    ),
    Side.BACKEND: (
        "a client that connects to the workers' port, or a socket of a type that a worker cannot be"
    ),
}
_BY_ITSELF: Mapping[str, str] = {
    side: f"{text}: libzmq ends such a connection by itself; or a peer that ended just then"
    for side, text in _WRONG_TYPE.items()
}
_NOT_TOLD: Mapping[str, str] = {
    side: (
        "one of these, libzmq does not say which: a ZeroMQ peer that wants CURVE or PLAIN, or that "
        f"ended just then; {text}; {_NOT_ZEROMQ}"
    )
    for side, text in _WRONG_TYPE.items()
}
_NULL_ONLY = (
    "zqueued speaks the mechanism NULL only: set no keys, user or password in that peer",
    "to keep strangers out, bind to an inner address, or let peers come through a tunnel",
)
_MEMORY = ("zqueued is out of memory: see the machine, and lower max_waiting_bytes or max_unsent",)
_OLD = ("a ZeroMQ peer needs libzmq 3.2 or later, or another library of that age",)
_UPDATE = ("look at the library that this peer uses, and its version",)
_A_CLIENT_IS = ("have it use a REQ or a DEALER",)
_A_WORKER_IS = ("have it use a REP, a DEALER or a ROUTER",)

REASONS = (
    Reason(
        "probe",
        "it closed the connection without sending a byte",
        "a TCP health check, or a port scan",
        level="debug",
    ),
    Reason(
        "http",
        "it speaks HTTP",
        "a browser or a health check",
        ("health checks and browsers belong at [metrics] listen",),
    ),
    Reason(
        "tls",
        "it speaks TLS",
        "a TLS client, such as a browser",
        ("ZeroMQ does not speak TLS: have it connect without, or end TLS in front of zqueued",),
    ),
    Reason("zmtp_1", "it speaks ZMTP 1.0", "libzmq 2", _OLD),
    Reason(
        "zmtp_1_or_none",
        "it speaks ZMTP 1.0, or is no ZeroMQ peer",
        f"libzmq 2, or {_NOT_ZEROMQ}",
        _OLD,
        ports=True,
    ),
    Reason(
        "mechanism_curve",
        "it wants the mechanism CURVE; here it is NULL",
        "a ZeroMQ peer with CURVE keys",
        _NULL_ONLY,
    ),
    Reason(
        "mechanism_plain",
        "it wants the mechanism PLAIN; here it is NULL",
        "a ZeroMQ peer with a user and a password",
        _NULL_ONLY,
    ),
    Reason(
        "mechanism_other",
        "it wants a mechanism that is unknown here",
        f"a ZeroMQ peer with a mechanism that is not NULL, or {_NOT_ZEROMQ}",
        _NULL_ONLY,
        ports=True,
    ),
    Reason(
        "mechanism",
        "it wants another mechanism than NULL",
        "a ZeroMQ peer with CURVE keys, or with a user and a password (PLAIN); if it is no ZeroMQ "
        "peer, a TLS client",
        _NULL_ONLY,
    ),
    Reason(
        "rep_at_frontend",
        "it is a REP: a worker that connects to the clients' port",
        "a worker that connects to the clients' port",
        ports=True,
    ),
    Reason(
        "req_at_backend",
        "it is a REQ: a client that connects to the workers' port",
        "a client that connects to the workers' port",
        ports=True,
    ),
    Reason("no_client_type", "a client is a REQ, a DEALER or a ROUTER", "", _A_CLIENT_IS, True),
    Reason("no_worker_type", "a worker is a REP, a DEALER or a ROUTER", "", _A_WORKER_IS, True),
    Reason(
        "left_greeting",
        "it left before its handshake was done",
        "a ZeroMQ peer that ended at once, such as a program that connects, sends and exits: "
        "what it sent is lost",
        ("let that program live until what it sends is out: LINGER, zmq_ctx_term()",),
    ),
    Reason(
        "left_midway",
        "it left in the middle of its handshake",
        likely_at=_BY_ITSELF,
        ports=True,
    ),
    Reason(
        "left_unknown",
        "it left, or was turned away, before its handshake was done",
        "",
        (f"if it wants CURVE or PLAIN: {_NULL_ONLY[0]}", *_NULL_ONLY[1:]),
        ports=True,
        likely_at=_NOT_TOLD,
    ),
    Reason(
        "no_pair",
        NO_PAIR,
        "a ZeroMQ socket that is no PAIR, such as a PUB, a REQ or a DEALER, or a program that is "
        "no ZeroMQ peer, such as a browser",
        ("only a PAIR steers a queue at its control endpoint, one at a time",),
    ),
    Reason(
        "wrong_type",
        "its socket type does not fit here, or its READY is malformed",
        likely_at=_WRONG_TYPE,
        likely="a ZeroMQ socket that is no PAIR, such as a PUB, a REQ or a DEALER",
        ports=True,
    ),
    Reason(
        "handshake_timeout",
        "its handshake took longer than handshake_timeout",
        f"a peer that hangs, a network that drops what it sends, or {_NOT_ZEROMQ}",
        ports=True,
    ),
    Reason(
        "early_message",
        "it sent a message before its handshake was done",
        "a ZMTP library with a mistake, or no ZeroMQ peer",
        _UPDATE,
    ),
    Reason("no_commands_in_2", "ZMTP 2.0 has no commands", "", _UPDATE),
    Reason("sent_error", "it sent ERROR", "", ("look at the log of that peer",)),
    Reason("refused_us", "it refused us with ERROR", "", ("look at the log of that peer",)),
    Reason("no_ready", "its handshake began with something else than READY", "", _UPDATE),
    Reason("bad_ready", "its READY is malformed", "", _UPDATE),
    Reason("bad_ping", "its PING is malformed", "", _UPDATE),
    Reason("no_frame", "what it sent is not a ZMTP frame", "", _UPDATE),
    Reason("nameless_command", "it sent a command without a name", "", _UPDATE),
    Reason("broke_handshake", "it broke the ZMTP handshake", "", _UPDATE),
    Reason(
        "too_large",
        "a message is larger than max_message_size",
        "",
        ("raise max_message_size, or have it send less at once",),
    ),
    Reason(
        "too_many_frames",
        "a message has more frames than max_frames",
        "",
        ("raise max_frames, or have it send fewer",),
    ),
    Reason(
        "too_large_reply",
        "a message is larger than max_message_size or max_frames allow",
        "",
        ("raise max_message_size or max_frames, or have it send less at once",),
    ),
    Reason(
        "other_envelope",
        "a REP's reply has another envelope than the request",
        "a REP of a ZMTP library with a mistake",
        _UPDATE,
    ),
    Reason(
        "unasked_rep",
        "a REP answered although nothing was asked",
        "a REP of a ZMTP library with a mistake",
        _UPDATE,
    ),
    Reason(
        "ttl",
        "it was silent for longer than the TTL of its PING",
        "a peer that hangs, or a network that is interrupted",
    ),
    Reason(
        "heartbeat",
        "its heartbeat stopped",
        "a peer that hangs, or a network that is interrupted",
        ("raise heartbeat_timeout if that peer is only slow",),
    ),
    Reason("authentication", "its authentication failed", "", _NULL_ONLY),
    Reason(
        "per_address",
        "there are max_connections_per_address connections from its address",
        "",
        ("raise max_connections_per_address, or see why so many come from there",),
    ),
    Reason("memory_connection", "there is no memory for another connection", "", _MEMORY),
    Reason("memory_client", "there is no memory for another client", "", _MEMORY),
    Reason("memory_worker", "there is no memory for another worker", "", _MEMORY),
    Reason("memory_message", "there is no memory for its message", "", _MEMORY),
    Reason("memory_ping", "there is no memory to ping it", "", _MEMORY),
)
"""Every reason. A text that none of them has is told as it is, by :func:`reason_of`."""

_BY_TEXT = {each.text: each for each in REASONS}
_BY_ID = {each.id: each for each in REASONS}
_ROUTING_ID = Reason(
    "routing_id",
    "",
    "two clients with one routing id",
    ("give each client a routing id of its own",),
)


def reason_of(text: str) -> Reason:
    """The reason with this text, to which details in parentheses may be added."""
    found = _BY_TEXT.get(text) or _BY_TEXT.get(text.partition(" (")[0])
    if found is not None:
        return found
    return _ROUTING_ID if text.startswith("its routing id") else Reason("other", text)


def reason_named(id: str) -> Reason | None:
    """The reason with this id."""
    return _BY_ID.get(id) or (_ROUTING_ID if id == _ROUTING_ID.id else None)


def told(side: str, text: str) -> dict[str, Any]:
    """The fields of an event that say why: ``reason``, ``cause`` (its id), and ``likely``."""
    reason = reason_of(text)
    return {"reason": text, "cause": reason.id, "likely": reason.likely_on(side)}


# -- what libzmq's monitor has to say -------------------------------------------------------------

_CODES = {
    0x10000000: "broke_handshake",
    0x10000001: "no_ready",  # an unexpected command
    0x10000002: "broke_handshake",  # an invalid sequence
    0x10000003: "broke_handshake",  # a key exchange that failed
    0x10000011: "broke_handshake",  # malformed commands: of no kind, MESSAGE, HELLO, INITIATE
    0x10000012: "broke_handshake",
    0x10000013: "broke_handshake",
    0x10000014: "broke_handshake",
    0x10000015: "refused_us",  # a malformed ERROR
    0x10000016: "bad_ready",
    0x10000017: "broke_handshake",  # WELCOME
    0x10000018: "wrong_type",  # invalid metadata
    0x11000001: "authentication",  # a cryptographic failure
    0x11000002: "mechanism",
}
_DETAILS = {
    0x10000001: "an unexpected command",
    0x10000002: "commands in a wrong order",
    0x10000003: "the exchange of keys failed",
    0x10000011: "a malformed command",
    0x10000012: "a malformed MESSAGE",
    0x10000013: "a malformed HELLO",
    0x10000014: "a malformed INITIATE",
    0x10000015: "a malformed ERROR",
    0x10000017: "a malformed WELCOME",
    0x11000001: "a cryptographic failure",
}


def of_libzmq(code: int) -> str:
    """The text for a ``ZMQ_PROTOCOL_ERROR_*`` of zmq_socket_monitor(3)."""
    if code >> 28 == 2:
        return f"{_BY_ID['authentication'].text} (ZAP, 0x{code:08x})"
    text = _BY_ID[_CODES.get(code, "broke_handshake")].text
    if code in _CODES:
        return f"{text} ({_DETAILS[code]})" if code in _DETAILS else text
    return f"{text} (0x{code:08x})"
