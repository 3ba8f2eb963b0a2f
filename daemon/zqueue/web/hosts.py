"""By which names this machine may be asked.

A web site can have a browser ask any address under the site's own name (DNS rebinding), and then
read the answer. Such a name is none of ours.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_HOSTS = Path("/etc/hosts")
_RESOLVER = Path("/etc/resolv.conf")


def is_ours(host: str, configured: Iterable[str]) -> bool:
    """Whether ``host``, in lower case and without a port, is a name or address of this machine:
    any address, for no web site has one of its own that leads here; localhost; what is
    ``configured``, or known without asking a name server."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return host in ("localhost", *map(str.lower, configured)) or host in set(_known())


def refusal(host: str) -> tuple[str, ...]:
    """What to answer where it is not."""
    return (
        f'"{host[:100]}" is no name of this machine that zqueued knows',
        f'if it is one, add it to the config: [metrics] hosts = ["{host[:100]}"]',
    )


def _known() -> Iterator[str]:
    whole = os.uname().nodename.lower()
    short = whole.partition(".")[0]
    yield from (whole, short)
    for words in _lines(_RESOLVER):
        if words[0] in ("search", "domain"):
            yield from (f"{short}.{domain.removesuffix('.')}" for domain in words[1:])
    for words in _lines(_HOSTS):
        yield from words[1:]


def _lines(file: Path) -> Iterator[list[str]]:
    """The words of each line, in lower case."""
    with contextlib.suppress(OSError):
        for line in file.read_text(errors="replace").lower().splitlines():
            words = line.partition("#")[0].split()
            if words:
                yield words
