"""How long the latest of many things took: eight buckets for each doubling, and what is old fades."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from zqueue.engine.wire.linux cimport zq_leading_zeros

cdef enum:
    RECENT_BUCKETS = 320
    RECENT = 10_000

# No bucket is wider than an eighth of what is in it. When there are RECENT of them, half are left of
# each bucket, so the last 5,000 always count.
cdef struct Recent:
    uint32_t total
    uint16_t counts[RECENT_BUCKETS]


cdef inline void record_recent(Recent* recent, int64_t nanoseconds) noexcept nogil:
    cdef uint64_t value = <uint64_t> max(nanoseconds, <int64_t> 8)
    cdef int doublings = 63 - zq_leading_zeros(value)
    cdef int place = (doublings - 3) * 8 + <int> ((value >> (doublings - 3)) & 7)
    recent.counts[min(place, RECENT_BUCKETS - 1)] += 1
    recent.total += 1
    if recent.total >= RECENT:
        fade(recent)


cdef void fade(Recent* recent) noexcept nogil
cdef int64_t recent_share(Recent* recent, double share) noexcept nogil
