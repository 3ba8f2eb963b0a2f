"""See spares.pxd."""

cdef enum:
    # So that no message waits longer than a millisecond for it.
    MOST_AT_ONCE = 10000


cdef size_t spares_trim(Spares* spares, size_t size) noexcept nogil:
    """Give back half of what nobody has needed since the last call, or as many as may be at once.
    Each has ``size`` bytes; returns how many bytes that was."""
    cdef uint32_t count = min(spares.fewest - spares.fewest // 2, <uint32_t> MOST_AT_ONCE)
    _give_back(spares, count)
    spares.fewest = spares.count
    return count * size


cdef void spares_clear(Spares* spares) noexcept nogil:
    """Give back all."""
    _give_back(spares, spares.count)
    spares.fewest = 0


cdef void _give_back(Spares* spares, uint32_t count) noexcept nogil:
    cdef Spare* spare
    spares.count -= count
    while count:
        spare = spares.first
        spares.first = spare.next
        free(spare)
        count -= 1
