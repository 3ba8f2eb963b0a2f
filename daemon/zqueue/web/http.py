"""As much of HTTP/1.1 as a server needs that only answers GET and HEAD (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import parse_qs, unquote, urlsplit

from zqueue.printable import printable

_METHODS = ("GET", "HEAD")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_A_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]*)?")
_ALWAYS = (
    ("Connection", "close"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)
"""A page may have its own style and script, and nothing else from anywhere."""


@dataclass(frozen=True)
class Request:
    """A request for ``path``, whose ``query`` has each name once. ``headers`` are in lower case.

    ``host`` is whom it was meant for, without a port and in lower case; empty where HTTP/1.0 does
    not say.
    """

    method: str
    path: str
    host: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """What is answered; ``more`` are headers besides those that every answer has."""

    status: int
    content_type: str
    body: bytes
    more: tuple[tuple[str, str], ...] = ()


class BadRequest(Exception):
    """What is answered to something that is no request, or none that is granted here."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.body.decode())
        self.response = response


def text(status: int, *lines: str, more: tuple[tuple[str, str], ...] = ()) -> Response:
    """Lines for people and for scripts."""
    body = "".join(f"{printable(line)}\n" for line in lines)
    return Response(status, "text/plain; charset=utf-8", body.encode(), more)


def parse(head: bytes) -> Request:
    """The request that ``head`` is, up to its empty line.

    Raises:
        BadRequest: it is none, or of a method that nothing here has.
    """
    line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    try:
        method, target, version = line.split(" ")
        name, _, number = version.partition("/")
    except ValueError:
        raise BadRequest(text(400, "that is no HTTP request")) from None
    if name != "HTTP" or not target or not method.isalpha():
        raise BadRequest(text(400, "that is no HTTP request"))
    if number not in ("1.0", "1.1"):
        raise BadRequest(text(505, "this is an HTTP/1.1 server"))
    if method not in _METHODS:
        allowed = ", ".join(_METHODS)
        what = f"only {allowed}: here you can look, and steer with zqueuectl"
        raise BadRequest(text(405, what, more=(("Allow", allowed),)))
    headers: dict[str, str] = {}
    for each in fields:
        key, colon, value = each.partition(":")
        if not colon or not _TOKEN.fullmatch(key):
            raise BadRequest(text(400, "a header has no name, or none that HTTP allows"))
        if _NOT_IN_A_VALUE.search(value):
            raise BadRequest(text(400, "a header has a character that HTTP does not allow"))
        if key.lower() == "host" and "host" in headers:
            raise BadRequest(text(400, "there is more than one Host"))
        headers[key.lower()] = value.strip(" \t")
    authority = headers.get("host")
    if authority is None and number != "1.0":
        raise BadRequest(text(400, "there is no Host"))
    if target[:7].lower() == "http://":  # what a proxy is asked; it counts before Host
        authority, slash, rest = target[7:].partition("/")
        target = slash + rest or "/"
    host = _host(authority) if authority is not None else ""
    if not target.startswith("/"):
        raise BadRequest(text(400, "the address has to begin with / or http://"))
    try:
        # What begins with two would else be taken for a host's name.
        parts = urlsplit("http://host" + target)
        query = parse_qs(parts.query, keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise BadRequest(text(400, "that is no address of a page")) from None
    path = unquote(parts.path)
    first = {key: values[-1] for key, values in query.items()}
    return Request(method, path, host, first, headers)


def _host(authority: str) -> str:
    found = _AUTHORITY.fullmatch(authority.lower())
    if found is None:
        raise BadRequest(text(400, "that is no Host"))
    return found[1].strip("[]").removesuffix(".")


def encode(response: Response, *, with_body: bool) -> bytes:
    """The bytes of an answer; to a HEAD it has no body, only its length."""
    headers = (
        ("Content-Type", response.content_type),
        ("Content-Length", str(len(response.body))),
        ("Date", formatdate(usegmt=True)),
        *_ALWAYS,
        *response.more,
    )
    reason = HTTPStatus(response.status).phrase
    lines = [f"HTTP/1.1 {response.status} {reason}", *(f"{key}: {value}" for key, value in headers)]
    head = "\r\n".join((*lines, "", "")).encode("latin-1")
    return head + response.body if with_body else head
