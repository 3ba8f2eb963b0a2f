"""See memory.pxd. Every function that may need memory says so by its result, never by a crash."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from zqueue.engine.wire.linux cimport zq_check, zq_leading_zeros
from zqueue.engine.wire.spares cimport (
    KEEPS,
    spare_keep,
    spare_take,
    spares_clear,
    spares_trim,
)


cdef int _shelf_for(size_t capacity) noexcept nogil:
    """The shelf whose blocks have at least ``capacity`` bytes and not a quarter more; -1: too small
    or too large for one. Four sizes for each doubling, from 1 KiB on.

    None where nothing is kept: there no block is larger than asked for, so that AddressSanitizer sees
    what is used too far.
    """
    cdef uint64_t last = capacity - 1
    cdef int doublings
    if capacity <= COPIED_UP_TO or not KEEPS:
        return -1
    doublings = 63 - zq_leading_zeros(last)
    doublings = (doublings - 10) * 4 + <int> ((last >> (doublings - 2)) & 3) + 1
    return doublings if doublings < SHELVES else -1


cdef inline size_t _shelf_size(int shelf) noexcept nogil:
    return <size_t> (4 + shelf % 4) << (8 + shelf // 4)


cdef inline Body* _taken(Pool* pool, int shelf) noexcept nogil:
    """A block from the shelf, or NULL."""
    cdef Body* body = <Body*> spare_take(&pool.shelves[shelf])
    if body != NULL:
        pool.kept -= _shelf_size(shelf)
    return body


cdef Body* body_new(Pool* pool, size_t capacity) noexcept nogil:
    """A block that one holds, for at least ``capacity`` bytes; NULL if there is no memory."""
    cdef int shelf = _shelf_for(capacity)
    cdef Body* body = NULL
    if shelf >= 0:
        capacity = _shelf_size(shelf)
        body = _taken(pool, shelf)
    if body == NULL:
        if capacity > (<size_t> 1 << 62):
            return NULL
        body = <Body*> malloc(sizeof(Body) + capacity)
        if body == NULL:
            return NULL
    # A spare's link lay over the head of it.
    body.capacity = capacity
    body.shelf = shelf
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
    if body.shelf >= 0 and pool.kept + body.capacity <= KEPT_AT_MOST:
        pool.kept += body.capacity
        spare_keep(&pool.shelves[body.shelf], body)
    else:
        free(body)


cdef size_t pool_trim(Pool* pool) noexcept nogil:
    """Give back part of what nobody has needed since the last call; returns how many bytes."""
    cdef int shelf
    cdef size_t before = pool.kept
    for shelf in range(SHELVES):
        pool.kept -= spares_trim(&pool.shelves[shelf], _shelf_size(shelf))
    return before - pool.kept + spares_trim(&pool.segments, sizeof(Segment))


cdef void pool_clear(Pool* pool) noexcept nogil:
    """Give back what is kept for later."""
    cdef int shelf
    for shelf in range(SHELVES):
        spares_clear(&pool.shelves[shelf])
    spares_clear(&pool.segments)
    pool.kept = 0


cdef Segment* _segment(Pool* pool, Outgoing* queue, Body* body) noexcept nogil:
    cdef Segment* segment = <Segment*> spare_take(&pool.segments)
    if segment == NULL:
        segment = <Segment*> malloc(sizeof(Segment))
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
    spare_keep(&pool.segments, segment)


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
