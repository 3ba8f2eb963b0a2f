"""Memory for messages: counted blocks of bytes, and queues of them on their way out."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from zqueue.engine.wire.spares cimport Spares

cdef enum:
    SHELVES = 64
    KEPT_AT_MOST = 64 << 20
    COPIED_UP_TO = 1024
    CHUNK = 16384
    SMALL_CHUNK = 512

# A block of bytes with a count of those who hold it; the bytes lie just behind this header.
cdef struct Body:
    size_t capacity
    uint32_t holders
    int shelf

# Where blocks come from. The large ones are kept for the next message, because fresh memory of
# the kernel costs more than what is done with it: those of one size on each shelf. One thread uses a
# pool. ``kept``: how many bytes are. ``bytes_out``: of the blocks that somebody holds.
cdef struct Pool:
    Spares shelves[SHELVES]
    Spares segments
    size_t kept
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
cdef size_t pool_trim(Pool* pool) noexcept nogil
cdef void pool_clear(Pool* pool) noexcept nogil

cdef bint outgoing_copy(
    Pool* pool, Outgoing* queue, const uint8_t* data, size_t size
) noexcept nogil
cdef bint outgoing_share(
    Pool* pool, Outgoing* queue, Body* body, size_t begin, size_t end
) noexcept nogil
cdef bint outgoing_refer(
    Pool* pool, Outgoing* queue, Body* body, size_t begin, size_t end
) noexcept nogil
cdef void outgoing_append(Outgoing* queue, Outgoing* more) noexcept nogil
cdef void outgoing_sent(Pool* pool, Outgoing* queue, size_t size) noexcept nogil
cdef void outgoing_clear(Pool* pool, Outgoing* queue) noexcept nogil
