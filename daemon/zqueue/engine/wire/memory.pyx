"""See memory.pxd. Every function that may need memory says so by its result, never by a crash."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from zqueue.engine.wire.blocks cimport (
    block_give,
    block_take,
    blocks_clear,
    blocks_judge,
    blocks_unmap,
)
from zqueue.engine.wire.linux cimport zq_check, zq_leading_zeros
from zqueue.engine.wire.slabs cimport (
    KEEPS,
    kind_rests,
    piece_give,
    piece_take,
    slabs_clear,
    slabs_judge,
    slabs_unmap,
)

cdef enum:
    LARGEST_SMALL = 16 << 10
    LARGEST_PIECE = 64 << 10
    LARGEST_KEPT = 64 << 20
    # Bytes that are not used.
    KEPT_AT_MOST = 64 << 20
    PAGE = 4096
    # Empty slabs that stay, so that who asks now and then does not have one mapped each time.
    SPARE = 4
    # So that no message waits longer than a quarter of a millisecond for it.
    UNMAPPED_AT_ONCE = 512 << 10


cdef inline size_t _in_pages(size_t size) noexcept nogil:
    return (size + PAGE - 1) & ~<size_t> (PAGE - 1)


cdef inline int _kind_for(size_t size) noexcept nogil:
    """Which size has at least so many bytes, and not a quarter more: each sixteenth up to 128, and then
    four for each doubling."""
    cdef uint64_t last = size - 1
    cdef int doublings
    if size <= 128:
        return <int> ((size + 15) >> 4)
    doublings = 63 - zq_leading_zeros(last)
    return 9 + (doublings - 7) * 4 + <int> ((last >> (doublings - 2)) & 3)


cdef inline size_t _size_of(int kind) noexcept nogil:
    if kind <= 8:
        return <size_t> kind << 4
    return <size_t> (4 + kind % 4) << (3 + kind // 4)


cdef inline Body* _mapped(Pool* pool, size_t* size) noexcept nogil:
    """Memory for a block of ``size`` bytes; that is then how large it is. NULL if there is none."""
    cdef int kind
    if not KEEPS:
        # No block is larger than asked for, so that AddressSanitizer sees what is used too far.
        return <Body*> malloc(size[0])
    if size[0] > LARGEST_KEPT:
        size[0] = _in_pages(size[0])
        return <Body*> block_take(&pool.blocks, size[0], -1)
    kind = _kind_for(size[0])
    size[0] = _size_of(kind)
    if kind < SMALL_KINDS:
        return <Body*> piece_take(&pool.small, &pool.kinds[kind], size[0])
    if kind < KINDS:
        return <Body*> piece_take(&pool.large, &pool.kinds[kind], size[0])
    return <Body*> block_take(&pool.blocks, size[0], kind - KINDS)


cdef inline void _unmapped(Pool* pool, Body* body, size_t size) noexcept nogil:
    if not KEEPS:
        free(body)
    elif size <= LARGEST_SMALL:
        piece_give(body, SMALL_SLAB)
    elif size <= LARGEST_PIECE:
        piece_give(body, LARGE_SLAB)
    else:
        block_give(
            &pool.blocks, body, size, -1 if size > LARGEST_KEPT else _kind_for(size) - KINDS
        )


cdef void pool_open(Pool* pool) noexcept nogil:
    """Make an empty one of zeros."""
    pool.small.size = SMALL_SLAB
    pool.large.size = LARGE_SLAB


cdef void* zeros_new(Pool* pool, size_t size) noexcept nogil:
    """A piece of ``size`` zeros, up to LARGEST_SMALL, that is given back to a SMALL_SLAB; NULL if there is
    no memory."""
    cdef void* piece = NULL
    cdef int kind = _kind_for(size)
    if not starves(pool):
        piece = piece_take(&pool.small, &pool.kinds[kind], _size_of(kind) if KEEPS else size)
    if piece != NULL:
        memset(piece, 0, size)
    return piece


cdef Body* body_new(Pool* pool, size_t capacity) noexcept nogil:
    """A block that one holds, for at least ``capacity`` bytes; NULL if there is no memory."""
    cdef size_t size = sizeof(Body) + capacity
    cdef Body* body
    if capacity > (<size_t> 1 << 62) or starves(pool):
        return NULL
    body = _mapped(pool, &size)
    if body == NULL:
        return NULL
    body.capacity = size - sizeof(Body)
    body.holders = 1
    pool.bodies_out += 1
    pool.bytes_out += body.capacity
    return body


cdef Body* body_grown(Pool* pool, Body* body, size_t used, size_t capacity) noexcept nogil:
    """A block for ``capacity`` bytes, the first ``used`` being those of ``body``, which is given up;
    NULL if there is no memory, and ``body`` is still there."""
    # By a quarter at least: a message of many small frames must not be copied for each of them.
    cdef Body* grown = body_new(pool, max(capacity, body.capacity + (body.capacity >> 2)))
    if grown == NULL:
        grown = body_new(pool, capacity)
    if grown != NULL:
        memcpy(body_bytes(grown), body_bytes(body), used)
        body_drop(pool, body)
    return grown


cdef void body_drop(Pool* pool, Body* body) noexcept nogil:
    """One holder less; the last one gives the block back."""
    zq_check(body.holders > 0 and pool.bodies_out > 0)
    body.holders -= 1
    if body.holders:
        return
    pool.bodies_out -= 1
    pool.bytes_out -= body.capacity
    _unmapped(pool, body, sizeof(Body) + body.capacity)


cdef void pool_judge(Pool* pool) noexcept nogil:
    """See what nobody has needed since the last call: :c:func:`pool_unmap` gives back half of it."""
    cdef int kind
    for kind in range(KINDS):
        kind_rests(&pool.kinds[kind])
    kind_rests(&pool.segments)
    kind_rests(&pool.requests)
    slabs_judge(&pool.small, SPARE)
    slabs_judge(&pool.large, 0)
    blocks_judge(&pool.blocks)


cdef bint pool_unmap(Pool* pool) noexcept nogil:
    """Give back a part of what is to be given back; True if there is more."""
    return _unmap(pool, UNMAPPED_AT_ONCE, KEPT_AT_MOST, False) >= UNMAPPED_AT_ONCE


cdef size_t _unmap(Pool* pool, size_t most, size_t keep, bint needed) noexcept nogil:
    cdef size_t unmapped = slabs_unmap(&pool.small, most, needed)
    if unmapped < most:
        unmapped += slabs_unmap(&pool.large, most - unmapped, needed)
    if unmapped < most:
        unmapped += blocks_unmap(&pool.blocks, most - unmapped, keep)
    return unmapped


cdef void pool_balance(Pool* pool) noexcept nogil:
    """Some was mapped or unmapped since the last call. Where more is not used than may be kept, as much
    of it is given back as was taken: what one size does not need any more adds up with no other."""
    cdef size_t mapped = pool_mapped(pool)
    cdef size_t unused = (
        pool.small.empties * <size_t> SMALL_SLAB
        + pool.large.empties * <size_t> LARGE_SLAB
        + pool.blocks.kept
    )
    if mapped > pool.balanced and unused > KEPT_AT_MOST:
        _unmap(pool, _in_pages(min(mapped - pool.balanced, unused - KEPT_AT_MOST)), 0, True)
    pool.balanced = pool_mapped(pool)


cdef void pool_clear(Pool* pool) noexcept nogil:
    """Give back all that is not used."""
    pool_judge(pool)
    slabs_clear(&pool.small)
    slabs_clear(&pool.large)
    blocks_clear(&pool.blocks)


cdef Segment* _segment(Pool* pool, Outgoing* queue, Body* body) noexcept nogil:
    cdef Segment* segment = NULL
    if not starves(pool):
        segment = <Segment*> piece_take(&pool.small, &pool.segments, sizeof(Segment))
    if segment == NULL:
        return NULL
    segment.next = NULL
    segment.body = body
    pool.segments_out += 1
    if queue.last == NULL:
        queue.first = segment
    else:
        queue.last.next = segment
    queue.last = segment
    return segment


cdef bint outgoing_copy(
    Pool* pool, Outgoing* queue, const uint8_t* data, size_t size
) noexcept nogil:
    """Append a copy of ``data``; False if there is no memory, and nothing was appended."""
    cdef Segment* segment = queue.last
    cdef Body* body
    cdef size_t chunk = CHUNK
    if segment == NULL or not segment.appendable or segment.end + size > segment.body.capacity:
        # Behind a shared block little may follow until the next one: nothing large is begun for it.
        if segment != NULL:
            chunk = min(chunk, segment.body.capacity) if segment.appendable else SMALL_CHUNK
            chunk = max(chunk, <size_t> SMALL_CHUNK)
        body = body_new(pool, chunk if size <= chunk // 2 else size)
        if body == NULL:
            return False
        segment = _segment(pool, queue, body)
        if segment == NULL:
            body_drop(pool, body)
            return False
        segment.begin = segment.end = 0
        segment.appendable = True
    memcpy(body_bytes(segment.body) + segment.end, data, size)
    segment.end += size
    queue.size += size
    return True


cdef bint outgoing_share(
    Pool* pool, Outgoing* queue, Body* body, size_t begin, size_t end
) noexcept nogil:
    """Append a range of ``body``, which gets one holder more, or a copy of it if it is small."""
    if end - begin <= COPIED_UP_TO:
        return outgoing_copy(pool, queue, body_bytes(body) + begin, end - begin)
    return outgoing_refer(pool, queue, body, begin, end)


cdef bint outgoing_refer(
    Pool* pool, Outgoing* queue, Body* body, size_t begin, size_t end
) noexcept nogil:
    """Append a range of ``body``, which gets one holder more."""
    cdef Segment* segment
    segment = _segment(pool, queue, body)
    if segment == NULL:
        return False
    zq_check(begin < end and end <= body.capacity)
    body.holders += 1
    segment.begin = begin
    segment.end = end
    segment.appendable = False
    queue.size += end - begin
    return True


cdef void outgoing_append(Outgoing* queue, Outgoing* more) noexcept nogil:
    """Put all of ``more`` behind what is in ``queue``; ``more`` is empty then."""
    if more.first == NULL:
        return
    if queue.last != NULL:
        queue.last.next = more.first
    else:
        queue.first = more.first
    queue.last = more.last
    queue.size += more.size
    more.first = more.last = NULL
    more.size = 0


cdef void _drop_first(Pool* pool, Outgoing* queue) noexcept nogil:
    cdef Segment* segment = queue.first
    queue.first = segment.next
    if queue.first == NULL:
        queue.last = NULL
    queue.size -= segment.end - segment.begin
    body_drop(pool, segment.body)
    pool.segments_out -= 1
    piece_give(segment, SMALL_SLAB)


cdef void outgoing_sent(Pool* pool, Outgoing* queue, size_t size) noexcept nogil:
    """The first ``size`` bytes have gone out."""
    cdef Segment* segment
    cdef size_t here
    zq_check(size <= queue.size)
    while size:
        segment = queue.first
        here = segment.end - segment.begin
        if size < here:
            segment.begin += size
            queue.size -= size
            return
        size -= here
        _drop_first(pool, queue)


cdef void outgoing_clear(Pool* pool, Outgoing* queue) noexcept nogil:
    while queue.first != NULL:
        _drop_first(pool, queue)
