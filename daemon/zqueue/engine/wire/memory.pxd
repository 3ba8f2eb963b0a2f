"""Memory for messages: counted blocks of bytes, and queues of them on their way out."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    SHELVES = 64
    KEPT_AT_MOST = 64 << 20
    COPIED_UP_TO = 1024
    CHUNK = 16384
    SMALL_CHUNK = 512

# With AddressSanitizer nothing is kept for later and no block is larger than asked for, so that it
# sees what is used too late or too far.
cdef extern from *:
    """
    #ifdef __SANITIZE_ADDRESS__
    #define ZQ_KEEPS 0
    #else
    #define ZQ_KEEPS 1
    #endif
    """
    bint KEEPS "ZQ_KEEPS"

# A block of bytes with a count of those who hold it; the bytes lie just behind this header.
cdef struct Body:
    Body* next
    size_t capacity
    uint32_t holders
    int shelf

# Blocks of one size that are kept, and how few there were at a time since the last trim.
cdef struct Shelf:
    Body* first
    uint32_t count
    uint32_t fewest

# Where blocks come from. The large ones are kept for the next message, because fresh memory of
# the kernel costs more than what is done with it. One thread uses a pool. ``used``: one was asked
# for since the last trim. ``bytes_out``: of the blocks that somebody holds.
cdef struct Pool:
    Shelf shelves[SHELVES]
    Segment* segments
    size_t kept
    bint used
    int64_t bodies_out
    int64_t bytes_out
    int64_t segments_out

# A range of a block on its way out.
cdef struct Segment:
    Segment* next
    Body* body
    size_t begin
    size_t end
    bint appendable

# What one connection has yet to send.
cdef struct Outgoing:
    Segment* first
    Segment* last
    size_t size

cdef inline uint8_t* body_bytes(Body* body) noexcept nogil:
    return <uint8_t*> (body + 1)

cdef Body* body_new(Pool* pool, size_t capacity) noexcept nogil
cdef Body* body_grown(Pool* pool, Body* body, size_t used, size_t capacity) noexcept nogil
cdef void body_drop(Pool* pool, Body* body) noexcept nogil
cdef void pool_trim(Pool* pool) noexcept nogil
cdef void pool_clear(Pool* pool) noexcept nogil

cdef bint outgoing_copy(
    Pool* pool, Outgoing* queue, const uint8_t* data, size_t size
) noexcept nogil
cdef bint outgoing_share(
    Pool* pool, Outgoing* queue, Body* body, size_t begin, size_t end
) noexcept nogil
cdef void outgoing_append(Outgoing* queue, Outgoing* more) noexcept nogil
cdef void outgoing_sent(Pool* pool, Outgoing* queue, size_t size) noexcept nogil
cdef void outgoing_clear(Pool* pool, Outgoing* queue) noexcept nogil
