"""See slabs.pxd."""

from libc.stdint cimport uint8_t
from zqueue.engine.wire.linux cimport munmap, zq_map_aligned

cdef enum:
    HEAD = 64
    # Of a slab that was never used: what is cut up at once, so that it takes no more memory than it must.
    CUT_AT_ONCE = 4096


cdef void* piece_of_next(Slabs* slabs, Kind* kind, size_t size) noexcept nogil:
    """A piece that was not used before, if need be of a slab that is not in use."""
    cdef Slab* slab = kind.open
    cdef Spare* piece
    if slab == NULL:
        slab = _slab(slabs)
        if slab == NULL:
            return NULL
        slab.pieces = slab.left = <uint32_t> ((slabs.size - HEAD) // size)
        slab.free = NULL
        slab.kind = kind
        slab.next = slab.previous = NULL
        kind.open = slab
    if slab.free == NULL:
        _cut(slab, size)
    piece = slab.free
    slab.free = piece.next
    slab.left -= 1
    if not slab.left:
        slab_is_full(slab)
    return piece


cdef Slab* _slab(Slabs* slabs) noexcept nogil:
    """An empty one; NULL if there is no memory."""
    cdef Slab* slab = slabs.empty
    if slab != NULL:
        slabs.empty = slab.next
        slabs.empties -= 1
        slabs.fewest = min(slabs.fewest, slabs.empties)
        return slab
    slab = <Slab*> zq_map_aligned(slabs.size)
    if slab != NULL:
        slab.slabs = slabs
        slabs.mapped += slabs.size
    return slab


cdef void _cut(Slab* slab, size_t size) noexcept nogil:
    """None is free but those that were never used: cut off some."""
    cdef uint8_t* at = <uint8_t*> slab + HEAD + (slab.pieces - slab.left) * size
    cdef Spare** last = &slab.free
    cdef size_t count = min(<size_t> slab.left, max(CUT_AT_ONCE // size, <size_t> 1))
    while count:
        last[0] = <Spare*> at
        last = &last[0].next
        at += size
        count -= 1
    last[0] = NULL


cdef void slab_is_full(Slab* slab) noexcept nogil:
    """Its last piece was taken; it is the first of its kind."""
    slab.kind.open = slab.next
    if slab.next != NULL:
        slab.next.previous = NULL
    slab.next = NULL


cdef void slab_has_room(Slab* slab) noexcept nogil:
    """It was full until now. No other of its kind has less room, so that it is taken from first."""
    cdef Slab* before = slab.kind.open
    slab.kind.open = slab
    slab.next = before
    if before != NULL:
        before.previous = slab
        if before.left == before.pieces:
            slab_is_empty(before)


cdef void slab_is_empty(Slab* slab) noexcept nogil:
    """Nothing in it is used any more. The one that its kind takes from stays there all the same (see
    :c:func:`kind_rests`), so that a slab does not come and go with each piece."""
    cdef Slabs* slabs = slab.slabs
    if slab.next != NULL:
        slab.next.previous = slab.previous
    if slab.previous != NULL:
        slab.previous.next = slab.next
    else:
        slab.kind.open = slab.next
    slab.previous = NULL
    slab.next = slabs.empty
    slabs.empty = slab
    slabs.empties += 1


cdef void kind_rests(Kind* kind) noexcept nogil:
    """Let the slab that it takes from be among the empty ones, if it is one, until it needs it again."""
    if kind.open != NULL and kind.open.left == kind.open.pieces:
        slab_is_empty(kind.open)


cdef void slabs_judge(Slabs* slabs, uint32_t spare) noexcept nogil:
    """See how many empty ones are to be unmapped: half of those that were not needed since the last call,
    and ``spare`` are left."""
    slabs.surplus = slabs.fewest - min(spare, slabs.fewest)
    slabs.surplus -= slabs.surplus // 2
    slabs.fewest = slabs.empties


cdef size_t slabs_unmap(Slabs* slabs, size_t most, bint needed) noexcept nogil:
    """Unmap empty ones until it is ``most`` bytes, only those of the surplus unless the memory is
    ``needed``; returns how many bytes it was."""
    cdef Slab* slab
    cdef size_t unmapped = 0
    while slabs.empty != NULL and unmapped < most and (needed or (slabs.surplus and slabs.fewest)):
        slab = slabs.empty
        slabs.empty = slab.next
        if munmap(slab, slabs.size) < 0:
            # There would be too many holes between those that stay.
            slab.next = slabs.empty
            slabs.empty = slab
            slabs.surplus = 0
            break
        slabs.surplus -= min(slabs.surplus, <uint32_t> 1)
        slabs.fewest -= min(slabs.fewest, <uint32_t> 1)
        slabs.empties -= 1
        slabs.mapped -= slabs.size
        unmapped += slabs.size
    return unmapped


cdef void slabs_clear(Slabs* slabs) noexcept nogil:
    """Unmap all empty ones."""
    slabs_unmap(slabs, slabs.mapped, True)
