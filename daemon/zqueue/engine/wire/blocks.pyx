"""See blocks.pxd."""

from libc.stdint cimport uint8_t
from zqueue.engine.wire.linux cimport munmap, zq_map


cdef void* block_take(Blocks* blocks, size_t size, int shelf) noexcept nogil:
    """A block of ``size`` bytes, which are whole pages, and of one size on each shelf; below 0: it is too
    large for one. NULL if there is no memory."""
    cdef void* block
    if shelf >= 0 and blocks.shelves[shelf].first != NULL:
        return _taken(blocks, shelf)
    block = zq_map(size)
    if block != NULL:
        blocks.mapped += size
    return block


cdef void block_give(Blocks* blocks, void* block, size_t size, int shelf) noexcept nogil:
    """It is not used any more; ``size`` and ``shelf`` are those with which it was taken."""
    cdef Kept* kept = <Kept*> block
    kept.size = size
    if shelf < 0:
        _leaves(blocks, kept)
        return
    kept.next = blocks.shelves[shelf].first
    blocks.shelves[shelf].first = kept
    blocks.shelves[shelf].count += 1
    blocks.kept += size


cdef Kept* _taken(Blocks* blocks, int shelf) noexcept nogil:
    cdef Shelf* place = &blocks.shelves[shelf]
    cdef Kept* kept = place.first
    place.first = kept.next
    place.count -= 1
    place.fewest = min(place.fewest, place.count)
    blocks.kept -= kept.size
    return kept


cdef inline void _leaves(Blocks* blocks, Kept* kept) noexcept nogil:
    kept.next = blocks.leaving
    blocks.leaving = kept
    blocks.kept += kept.size


cdef void blocks_judge(Blocks* blocks) noexcept nogil:
    """See how many are to be unmapped: half of those that were not needed since the last call."""
    cdef int shelf
    cdef Shelf* place
    for shelf in range(SHELVES):
        place = &blocks.shelves[shelf]
        place.surplus = place.fewest - place.fewest // 2
        place.fewest = place.count


cdef size_t blocks_unmap(Blocks* blocks, size_t most, size_t keep) noexcept nogil:
    """Unmap up to ``most`` bytes, which are whole pages, of the surplus, and of what is kept more than
    ``keep`` bytes; returns how many bytes it was."""
    cdef size_t unmapped = 0, size, part
    cdef Kept* kept
    cdef Kept* following
    while unmapped < most and (blocks.leaving != NULL or _next_leaves(blocks, keep)):
        kept = blocks.leaving
        size, following = kept.size, kept.next
        part = min(size, most - unmapped)
        # Its head is the last to go.
        if munmap(<uint8_t*> kept + size - part, part) < 0:
            # There would be too many holes between those that stay.
            break
        if part < size:
            kept.size = size - part
        else:
            blocks.leaving = following
        blocks.kept -= part
        blocks.mapped -= part
        unmapped += part
    return unmapped


cdef bint _next_leaves(Blocks* blocks, size_t keep) noexcept nogil:
    """Begin to unmap one more; False if none need be."""
    cdef int shelf
    cdef int largest = -1
    cdef Shelf* place
    for shelf in range(SHELVES):
        place = &blocks.shelves[shelf]
        if place.first != NULL:
            largest = shelf
            if place.surplus and place.fewest:
                place.surplus -= 1
                _leaves(blocks, _taken(blocks, shelf))
                return True
    if blocks.kept <= keep:
        return False
    _leaves(blocks, _taken(blocks, largest))
    return True


cdef void blocks_clear(Blocks* blocks) noexcept nogil:
    """Unmap all that are kept."""
    blocks_unmap(blocks, blocks.mapped, 0)
