"""See histogram.pxd."""


def bucket_bounds(int place) -> tuple[int, int]:
    """The least and the greatest duration, in nanoseconds, that a bucket counts."""
    cdef int doublings = place // 16 + 3
    cdef uint64_t least
    if place < 16:
        return place, place
    least = <uint64_t> (16 + place % 16) << (doublings - 4)
    return least, least + (<uint64_t> 1 << (doublings - 4)) - 1


def bucket_of(uint64_t nanoseconds) -> int:
    """The bucket that counts a duration."""
    return bucket(nanoseconds)
