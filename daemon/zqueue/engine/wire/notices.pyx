"""See notices.pxd."""

from libc.string cimport strncpy

cdef extern from *:
    """
    #define zq_load(place) __atomic_load_n((place), __ATOMIC_ACQUIRE)
    #define zq_store(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)
    """
    uint64_t zq_load(uint64_t* place) nogil
    void zq_store(uint64_t* place, uint64_t value) nogil


cdef inline bint _limited(int kind) noexcept nogil:
    """Whether a peer can cause this as often as it likes."""
    return kind in (REJECTED, BROKE, DUPLICATE, MALFORMED, DEAD, STRAY)


cdef void notice(
    Notices* notices,
    int64_t now,
    int kind,
    int side,
    int64_t number,
    const char* name,
    const char* detail,
    int64_t one,
    int64_t other,
) noexcept nogil:
    """Tell of something, unless the ring is full or there was too much of the kind this second."""
    cdef Notice* slot
    cdef int64_t second = now // 1_000_000_000
    if _limited(kind):
        if notices.second[kind] != second:
            notices.second[kind] = second
            notices.told[kind] = 0
        if notices.told[kind] >= EACH_A_SECOND:
            notices.suppressed[kind] += 1
            return
        notices.told[kind] += 1
    if notices.written - zq_load(&notices.read) >= RING:
        notices.lost += 1
        return
    slot = &notices.ring[notices.written % RING]
    slot.kind, slot.side, slot.number = kind, side, number
    slot.one, slot.other = one, other
    slot.suppressed, notices.suppressed[kind] = notices.suppressed[kind], 0
    strncpy(slot.name, name, NAME - 1)
    slot.name[NAME - 1] = 0
    strncpy(slot.detail, detail, DETAIL - 1)
    slot.detail[DETAIL - 1] = 0
    zq_store(&notices.written, notices.written + 1)


cdef bint next_notice(Notices* notices, Notice* into) noexcept nogil:
    """Take the oldest one; False if there is none."""
    if notices.read == zq_load(&notices.written):
        return False
    into[0] = notices.ring[notices.read % RING]
    zq_store(&notices.read, notices.read + 1)
    return True
