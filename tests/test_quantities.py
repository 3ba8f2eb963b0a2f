from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from zqueue.quantities import (
    LARGEST_SIZE,
    LONGEST_DURATION,
    Duration,
    Size,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


class Quantities(BaseModel):
    duration: Duration = 0.0
    size: Size = 0
    perhaps: Duration | None = None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("0s", 0),
        ("1.5s", 1.5),
        ("2m", 120),
        ("1h", 3600),
        ("1m30s", 90),
        ("1d", 86400),
        ("1d2h3m4s5ms", 93784.005),
        ("5m5ms", 300.005),
        ("24d", LONGEST_DURATION),
    ],
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("30", 'write "30s"'),
        ("1.5", 'write "1.5s"'),
        ("", "such as"),
        ("soon", "such as"),
        ("-5s", "such as"),
        ("nan", "such as"),
        ("nans", "such as"),
        ("infs", "such as"),
        ("1e3s", "such as"),
        ("30s1m", "such as"),
        ("1m2m", "such as"),
        ("5 s", "such as"),
        ("5S", "such as"),
        ("٣s", "such as"),
        (".5s", "such as"),
        ("9" * 1000 + "s", "such as"),
        ("25d", "at most 24d"),
        ("9" * 60 + "d", "at most 24d"),
    ],
)
def test_what_is_no_duration(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        parse_duration(text)


@given(st.floats(0, LONGEST_DURATION))
def test_durations_survive_being_written(seconds: float) -> None:
    text = format_duration(seconds)
    assert parse_duration(text) == round(seconds, 9)
    assert format_duration(parse_duration(text)) == text


@given(st.integers(0, int(LONGEST_DURATION) * 1000))
def test_milliseconds_are_exact(milliseconds: int) -> None:
    assert round(parse_duration(f"{milliseconds}ms") * 1000) == milliseconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.25, "250ms"), (1.5, "1.5s"), (90, "1m30s"), (3600, "1h"), (86401, "1d1s")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_what_cannot_be_written_as_a_duration(seconds: float) -> None:
    with pytest.raises(ValueError, match="no duration"):
        format_duration(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 << 20),
        ("1GiB", 1 << 30),
        ("512KiB", 512 << 10),
        ("1.5KiB", 1536),
        ("100kB", 100_000),
        ("10MB", 10_000_000),
        ("1TB", 10**12),
        ("4096", 4096),
        ("7B", 7),
        ("0", 0),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "such as"),
        ("-1", "such as"),
        ("64M", "such as"),
        ("64mib", "such as"),
        ("1e3", "such as"),
        ("nan", "such as"),
        ("1 KiB", "such as"),
        ("0.5", "whole number"),
        ("0.3KiB", "whole number"),
        ("9223372036854775808", "less than 8388608TiB"),
        ("9999999TiB", "less than 8388608TiB"),
    ],
)
def test_what_is_no_size(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        parse_size(text)


@given(
    st.integers(0, LARGEST_SIZE) | st.builds(lambda n, e: n << e, st.integers(0, 8), st.just(40))
)
def test_sizes_survive_being_written(size: int) -> None:
    assert parse_size(format_size(size)) == size
    assert len(format_size(size)) <= max(len(str(size)), 1)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1000, "1kB"), (1024, "1KiB"), (4097, "4097"), (64 << 20, "64MiB"), (10**7, "10MB")],
)
def test_sizes_are_short(size: int, text: str) -> None:
    assert format_size(size) == text


def test_a_negative_size_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="no size"):
        format_size(-1)


@given(st.text(max_size=80) | st.from_regex(r"[0-9]{1,9}(\.[0-9])?[a-zA-Z]{0,3}", fullmatch=True))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            found = parse(text)
        except ValueError:
            continue
        assert found >= 0


def test_in_a_model() -> None:
    model = Quantities.model_validate({"duration": "1m30s", "size": 4096})
    assert model == Quantities(duration="90s", size="4KiB")  # type: ignore[arg-type]
    assert (model.duration, model.size) == (90, 4096)
    assert model.model_dump(mode="json") == {"duration": "1m30s", "size": "4KiB", "perhaps": None}
    assert model.model_dump()["duration"] == 90


@pytest.mark.parametrize("value", [30, 1.5, float("nan"), float("inf"), -3, True, None, [], {}])
def test_a_bare_number_is_no_duration(value: object) -> None:
    with pytest.raises(ValidationError, match="expected a duration"):
        Quantities.model_validate({"duration": value})


def test_a_bare_number_is_told_its_unit() -> None:
    with pytest.raises(ValidationError, match='write "45s"'):
        Quantities.model_validate({"duration": 45})


@pytest.mark.parametrize("value", [-1, 1.0, True, None, [], 1 << 63, "x"])
def test_what_is_no_size_in_a_model(value: object) -> None:
    with pytest.raises(ValidationError, match="expected a size"):
        Quantities.model_validate({"size": value})


def test_a_number_of_thousands_of_digits() -> None:
    for key in ("duration", "size"):
        with pytest.raises(ValidationError, match="expected a"):
            Quantities.model_validate({key: 1 << 20000})
