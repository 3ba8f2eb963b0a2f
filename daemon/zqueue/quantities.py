"""Durations and sizes as people write them: ``"250ms"``, ``"1m30s"``, ``"64MiB"``."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator

LONGEST_DURATION = 24 * 86400.0
"""Seconds; libzmq counts milliseconds in an ``int``, which ends a little after 24 days."""

LARGEST_SIZE = 2**63 - 1
"""Bytes; the largest that libzmq's ``int64_t`` options can hold."""

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION = re.compile(
    rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?"
)
_SECONDS = tuple(Decimal(seconds) for seconds in ("86400", "3600", "60", "1", "0.001"))

_SIZE = re.compile(rf"{_NUMBER}([A-Za-z]*)")
_BYTES = {
    "": 1,
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_LONGEST_TEXT = 64


def parse_duration(text: str) -> float:
    """The seconds in ``text``, to the nanosecond: numbers with the units d, h, m, s, ms, the
    largest unit first.

    Raises:
        ValueError: it is no duration, or longer than :data:`LONGEST_DURATION`.
    """
    found = _DURATION.fullmatch(text) if 0 < len(text) <= _LONGEST_TEXT else None
    if found is None:
        if _is_number(text):
            raise ValueError(f'expected a duration with its unit: write "{text}s"')
        raise ValueError('expected a duration such as "250ms", "30s" or "1m30s"')
    numbers = zip(found.groups(), _SECONDS, strict=True)
    seconds = round(float(sum(Decimal(number) * unit for number, unit in numbers if number)), 9)
    if seconds > LONGEST_DURATION:
        raise ValueError(f"expected a duration of at most {format_duration(LONGEST_DURATION)}")
    return seconds


def format_duration(seconds: float) -> str:
    """``seconds``, to the nanosecond, as :func:`parse_duration` reads it back.

    Raises:
        ValueError: it is negative or not a finite number.
    """
    left = Decimal(repr(round(float(seconds), 9)))
    if not left.is_finite() or left < 0:
        raise ValueError(f"{seconds} is no duration")
    if 0 < left < 1:
        return _plain(left * 1000) + "ms"
    text = ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        whole, left = divmod(left, size)
        if whole:
            text += f"{_plain(whole)}{unit}"
    return text + _plain(left) + "s" if left or not text else text


def parse_size(text: str) -> int:
    """The bytes in ``text``: a number, with one of the units KiB, MiB, GiB, TiB (powers of 1024),
    kB, MB, GB, TB (powers of 1000), or B.

    Raises:
        ValueError: it is no size, not a whole number of bytes, or more than :data:`LARGEST_SIZE`.
    """
    found = _SIZE.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
    if found is None or found[2] not in _BYTES:
        raise ValueError('expected a size such as "64MiB", "100kB" or 4096')
    size = Decimal(found[1]) * _BYTES[found[2]]
    if size != size.to_integral_value():
        raise ValueError("expected a whole number of bytes")
    if size > LARGEST_SIZE:
        raise ValueError("expected a size of less than 8388608TiB")
    return int(size)


def format_size(size: int) -> str:
    """``size`` bytes as :func:`parse_size` reads it back: exact, in the unit that is shortest.

    Raises:
        ValueError: it is negative.
    """
    if size < 0:
        raise ValueError(f"{size} is no size")
    units = reversed(_BYTES.items())
    return min((f"{size // unit}{name}" for name, unit in units if size % unit == 0), key=len)


def _is_number(text: str) -> bool:
    return re.fullmatch(_NUMBER, text) is not None


def _plain(number: Decimal) -> str:
    """Without exponent and without noughts after the point."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _duration(value: object) -> float:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        example = f"{value:g}s" if 0 <= value <= LONGEST_DURATION else "30s"
        raise ValueError(f'expected a duration with its unit: write "{example}"')
    raise ValueError('expected a duration such as "250ms", "30s" or "1m30s"')


def _size(value: object) -> int:
    if isinstance(value, str):
        return parse_size(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_SIZE:
        return value
    raise ValueError('expected a size such as "64MiB", "100kB" or 4096')


Duration = Annotated[
    float,
    PlainValidator(_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
]
"""Seconds in a pydantic model, read from text such as ``"1m30s"``; a bare number is refused."""

Size = Annotated[
    int,
    PlainValidator(_size),
    PlainSerializer(format_size, return_type=str, when_used="json"),
]
"""Bytes in a pydantic model, read from text such as ``"64MiB"`` or a whole number of bytes."""
