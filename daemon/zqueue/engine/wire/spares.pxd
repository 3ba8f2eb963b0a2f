"""Pieces of memory of one size that are kept for the next ones, as long as they are needed again."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free

# With AddressSanitizer nothing is kept for later, so that it sees what is used too late.
cdef extern from *:
    """
    #ifdef __SANITIZE_ADDRESS__
    #define ZQ_KEEPS 0
    #else
    #define ZQ_KEEPS 1
    #endif
    """
    bint KEEPS "ZQ_KEEPS"

# Lies over the first bytes of each.
cdef struct Spare:
    Spare* next

# ``fewest``: how few there were at a time since the last trim.
cdef struct Spares:
    Spare* first
    uint32_t count
    uint32_t fewest

cdef size_t spares_trim(Spares* spares, size_t size) noexcept nogil
cdef void spares_clear(Spares* spares) noexcept nogil


cdef inline void* spare_take(Spares* spares) noexcept nogil:
    """One of them, or NULL."""
    cdef Spare* spare = spares.first
    if spare != NULL:
        spares.first = spare.next
        spares.count -= 1
        if spares.count < spares.fewest:
            spares.fewest = spares.count
    return spare


cdef inline void spare_keep(Spares* spares, void* spare) noexcept nogil:
    if not KEEPS:
        free(spare)
        return
    (<Spare*> spare).next = spares.first
    spares.first = <Spare*> spare
    spares.count += 1
