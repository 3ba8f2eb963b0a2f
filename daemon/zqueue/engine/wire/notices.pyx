"""See notices.pxd."""

from libc.string cimport memcpy, strncpy
from zqueue.engine.wire.linux cimport zq_get, zq_set


cdef inline bint _limited(int kind) noexcept nogil:
    """Whether a peer can cause this as often as it likes."""
    return kind in (
        REJECTED, BROKE, DUPLICATE, MALFORMED, STRAY, CLIENT_RETURNED, SLOW_REQUEST, BROKER_LOOP
    )


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
    notice_more(notices, now, kind, side, number, name, detail, one, other, NULL)


cdef void notice_more(
    Notices* notices,
    int64_t now,
    int kind,
    int side,
    int64_t number,
    const char* name,
    const char* detail,
    int64_t one,
    int64_t other,
    const int64_t* more,
) noexcept nogil:
    """As :c:func:`notice`, with MORE_NUMBERS more numbers."""
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
    if notices.written - zq_get(&notices.read) >= RING:
        notices.lost += 1
        return
    slot = &notices.ring[notices.written % RING]
    slot.kind, slot.side, slot.number = kind, side, number
    slot.one, slot.other = one, other
    slot.suppressed, notices.suppressed[kind] = notices.suppressed[kind], 0
    if more != NULL:
        memcpy(slot.more, more, sizeof(slot.more))
    strncpy(slot.name, name, NAME - 1)
    slot.name[NAME - 1] = 0
    strncpy(slot.detail, detail, DETAIL - 1)
    slot.detail[DETAIL - 1] = 0
    zq_set(&notices.written, notices.written + 1)


cdef void tell_suppressed(Notices* notices, int64_t now) noexcept nogil:
    """Tell how many of each kind were not told, where no other of the kind has come for some seconds
    that could: SUPPRESSED, ``one`` the kind and ``other`` the number."""
    cdef int kind
    cdef int64_t count
    for kind in range(KINDS):
        count = notices.suppressed[kind]
        if count and now // 1_000_000_000 >= notices.second[kind] + SUPPRESSED_FOR:
            notices.suppressed[kind] = 0
            notice(notices, now, SUPPRESSED, 0, 0, b"", b"", kind, count)


cdef bint next_notice(Notices* notices, Notice* into) noexcept nogil:
    """Take the oldest one; False if there is none."""
    if notices.read == zq_get(&notices.written):
        return False
    into[0] = notices.ring[notices.read % RING]
    zq_set(&notices.read, notices.read + 1)
    return True
