"""Durations, counted by size: sixteen buckets for each doubling."""

from libc.stdint cimport int64_t, uint64_t
from zqueue.engine.wire.linux cimport zq_leading_zeros

cdef enum:
    BUCKETS = 720

# No bucket is wider than a sixteenth of what is in it.
cdef struct Histogram:
    uint64_t buckets[BUCKETS]
    uint64_t nanoseconds

cdef inline int bucket(uint64_t value) noexcept nogil:
    cdef int doublings
    if value < 16:
        return <int> value
    doublings = 63 - zq_leading_zeros(value)
    return min((doublings - 3) * 16 + <int> ((value >> (doublings - 4)) & 15), BUCKETS - 1)

cdef inline void record(Histogram* histogram, int64_t nanoseconds) noexcept nogil:
    cdef uint64_t value = <uint64_t> max(nanoseconds, <int64_t> 0)
    histogram.buckets[bucket(value)] += 1
    histogram.nanoseconds += value
