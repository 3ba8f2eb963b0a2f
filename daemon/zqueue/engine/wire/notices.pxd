"""What a data path has to tell: a ring that its thread fills and one other thread empties."""

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    RING = 4096
    NAME = 64
    DETAIL = 128
    EACH_A_SECOND = 20
    SUPPRESSED_FOR = 5
    MORE_NUMBERS = 4

cdef enum Kind:
    CONNECTED
    DISCONNECTED
    REJECTED
    BROKE
    DUPLICATE
    MALFORMED
    RETURNED
    STRAY
    CONNECT_RETRIED
    GATE_CLOSED
    GATE_OPENED
    ACCEPT_FAILED
    NO_WORKERS
    WORKER_DRAINED
    CONGESTED
    CLIENT_RETURNED
    WORKER_SET_ASIDE
    WORKER_ANSWERS_AGAIN
    SLOW_REQUEST
    SUPPRESSED
    BROKER_LOOP
    KINDS

# ``number`` is the connection's; what ``one``, ``other`` and ``more`` mean depends on the kind. ``suppressed``
# is how many of the same kind were not told since the last one, because there were too many.
cdef struct Notice:
    int kind
    int side
    int64_t number
    int64_t one
    int64_t other
    int64_t suppressed
    int64_t more[MORE_NUMBERS]
    char name[NAME]
    char detail[DETAIL]

# The writer alone changes ``written``, the reader alone ``read``.
cdef struct Notices:
    Notice ring[RING]
    uint64_t written
    uint64_t read
    uint64_t lost
    int64_t second[KINDS]
    int64_t told[KINDS]
    int64_t suppressed[KINDS]

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
) noexcept nogil
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
) noexcept nogil
cdef void tell_suppressed(Notices* notices, int64_t now) noexcept nogil
cdef bint next_notice(Notices* notices, Notice* into) noexcept nogil
