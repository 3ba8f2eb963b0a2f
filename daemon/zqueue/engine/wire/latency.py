"""From the data path's histograms to the latencies that every engine gives."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence

from zqueue.engine import LATENCY_BOUNDS, Latency
from zqueue.engine.wire.histogram import bucket_bounds


@functools.cache
def _step(bucket: int) -> int:
    """The first of ``LATENCY_BOUNDS`` that all of a bucket is within."""
    return bisect.bisect_left(LATENCY_BOUNDS, bucket_bounds(bucket)[1] / 1e9)


def latency(buckets: Sequence[int], nanoseconds: int) -> Latency | None:
    """The median and the 99th percentile of a histogram, each within a thirty-second of the truth:
    the middle of its bucket; and the counts by larger steps."""
    total = sum(buckets)
    if not total:
        return None
    wanted = [total * 0.5, total * 0.99]
    found: list[float] = []
    seen = 0
    counts = [0] * (len(LATENCY_BOUNDS) + 1)
    for bucket, count in enumerate(buckets):
        if not count:
            continue
        counts[_step(bucket)] += count
        seen += count
        while len(found) < len(wanted) and seen >= wanted[len(found)]:
            least, most = bucket_bounds(bucket)
            found.append((least + most) / 2e9)
    p50, p99 = found
    return Latency(p50, p99, nanoseconds / 1e9, tuple(counts))
