"""As much of HTTP/1.1 as a server needs that only answers GET and HEAD (RFC 9112)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, unquote, urlsplit

from zqueue.printable import printable

_METHODS = ("GET", "HEAD")
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
    """A request for ``path``, whose ``query`` has each name once. ``headers`` are in lower case."""

    method: str
    path: str
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
    headers = {}
    for each in fields:
        key, colon, value = each.partition(":")
        if not colon or not key or key != key.strip():
            raise BadRequest(text(400, "a header has no name"))
        headers[key.lower()] = value.strip()
    if not target.startswith("/"):
        raise BadRequest(text(400, "the address has to begin with /"))
    try:
        # What begins with two would else be taken for a host's name.
        parts = urlsplit("http://host" + target)
        query = parse_qs(parts.query, keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise BadRequest(text(400, "that is no address of a page")) from None
    path = unquote(parts.path)
    return Request(method, path, {key: values[-1] for key, values in query.items()}, headers)


def encode(response: Response, *, with_body: bool) -> bytes:
    """The bytes of an answer; to a HEAD it has no body, only its length."""
    headers = (
        ("Content-Type", response.content_type),
        ("Content-Length", str(len(response.body))),
        *_ALWAYS,
        *response.more,
    )
    reason = HTTPStatus(response.status).phrase
    lines = [f"HTTP/1.1 {response.status} {reason}", *(f"{key}: {value}" for key, value in headers)]
    head = "\r\n".join((*lines, "", "")).encode("latin-1")
    return head + response.body if with_body else head
