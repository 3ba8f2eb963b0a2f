"""Instants: nanoseconds of the monotonic clock; 0 is never."""

from libc.stdint cimport int64_t

cdef inline int64_t earlier(int64_t one, int64_t other) noexcept nogil:
    if not one or not other:
        return one + other
    return min(one, other)
