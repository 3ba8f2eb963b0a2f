"""See recent.pxd."""


cdef void fade(Recent* recent) noexcept nogil:
    """Half as many of each."""
    cdef int place
    recent.total = 0
    for place in range(RECENT_BUCKETS):
        recent.counts[place] //= 2
        recent.total += recent.counts[place]


cdef int64_t recent_share(Recent* recent, double share) noexcept nogil:
    """What this ``share`` of them took at most, in nanoseconds, the middle of its bucket; 0 if there
    are none."""
    cdef double wanted = recent.total * share
    cdef double seen = 0
    cdef int place, doublings
    cdef int64_t width
    if not recent.total:
        return 0
    for place in range(RECENT_BUCKETS):
        seen += recent.counts[place]
        if recent.counts[place] and seen >= wanted:
            break
    doublings = place // 8 + 3
    width = <int64_t> 1 << (doublings - 3)
    return (8 + place % 8) * width + width // 2
