"""Memory for messages: counted blocks of bytes, and queues of them on their way out."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from zqueue.engine.wire.blocks cimport Blocks
from zqueue.engine.wire.linux cimport CHECKED
from zqueue.engine.wire.slabs cimport Kind, Slabs

# ``KINDS``: sizes of pieces, see :c:func:`memory._kind_for`; the first SMALL_KINDS of them come from small slabs.
cdef enum:
    KINDS = 45
    SMALL_KINDS = 37
    SMALL_SLAB = 256 << 10
    LARGE_SLAB = 512 << 10
    COPIED_UP_TO = 1024
    # With its header each is as large as a piece.
    CHUNK = 16384 - 16
    SMALL_CHUNK = 512 - 16

# A block of bytes with a count of those who hold it; the bytes lie just behind this header.
cdef struct Body:
    size_t capacity
    uint32_t holders

# Where memory comes from: pieces of slabs, small ones and larger ones, and blocks that are larger still.
# One thread uses a pool. ``bytes_out``: of the blocks that somebody holds. ``starved``: of how many times
# in 2^32 there is no memory, in a debug build. ``balanced``: what was mapped at the latest
# :c:func:`pool_balance`.
cdef struct Pool:
    Slabs small
    Slabs large
    Blocks blocks
    Kind kinds[KINDS]
    Kind segments
    Kind requests
    int64_t bodies_out
    int64_t bytes_out
    int64_t segments_out
    size_t balanced
    uint32_t starved
    uint64_t dice

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

cdef inline bint starves(Pool* pool) noexcept nogil:
    """Whether there is to be no memory this time."""
    if not CHECKED or not pool.starved:
        return False
    pool.dice = pool.dice * <uint64_t> 6364136223846793005 + 1
    return <uint32_t> (pool.dice >> 32) < pool.starved


cdef inline size_t pool_mapped(Pool* pool) noexcept nogil:
    """How many bytes it has of the kernel."""
    return pool.small.mapped + pool.large.mapped + pool.blocks.mapped


cdef inline uint8_t* body_bytes(Body* body) noexcept nogil:
    return <uint8_t*> (body + 1)

cdef void pool_open(Pool* pool) noexcept nogil
cdef void* zeros_new(Pool* pool, size_t size) noexcept nogil
cdef Body* body_new(Pool* pool, size_t capacity) noexcept nogil
cdef Body* body_grown(Pool* pool, Body* body, size_t used, size_t capacity) noexcept nogil
cdef void body_drop(Pool* pool, Body* body) noexcept nogil
cdef void pool_judge(Pool* pool) noexcept nogil
cdef bint pool_unmap(Pool* pool) noexcept nogil
cdef void pool_balance(Pool* pool) noexcept nogil
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
