"""What is counted in a histogram is told again with a small error."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zqueue.engine.wire.histogram import bucket_bounds, bucket_of

LONGEST = 3_600_000_000_000


@given(st.integers(0, LONGEST))
def test_a_bucket_has_what_it_says_and_its_middle_is_within_five_percent(duration: int) -> None:
    least, most = bucket_bounds(bucket_of(duration))
    assert least <= duration <= most
    assert abs((least + most) / 2 - duration) <= 0.05 * duration


@given(st.integers(0, LONGEST), st.integers(0, LONGEST))
def test_what_takes_longer_is_in_no_lower_bucket(one: int, other: int) -> None:
    assert bucket_of(min(one, other)) <= bucket_of(max(one, other))


def test_buckets_follow_on_each_other() -> None:
    for place in range(bucket_of(LONGEST)):
        assert bucket_bounds(place)[1] + 1 == bucket_bounds(place + 1)[0]
