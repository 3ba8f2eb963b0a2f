"""Pieces of memory of one size each, cut out of slabs. A slab is mapped, and unmapped, by itself; it lies
at a multiple of its size, so that the address of a piece tells its slab.

Pieces come from a slab that is in use already as long as one has any, so that others become empty. Those
are kept for pieces of whatever size, and unmapped some at a time when they are not needed any more.
"""

from libc.stdint cimport uint32_t, uintptr_t
from libc.stdlib cimport free, malloc
from zqueue.engine.wire.linux cimport zq_check

# With AddressSanitizer each piece is a block of the C library's, so that it sees what is used too late.
cdef extern from *:
    """
    #ifdef __SANITIZE_ADDRESS__
    #define ZQ_KEEPS 0
    #else
    #define ZQ_KEEPS 1
    #endif
    """
    bint KEEPS "ZQ_KEEPS"

# Lies over the first bytes of each piece that is free.
cdef struct Spare:
    Spare* next

# The head of a slab. ``left``: how many of its pieces are free; those that are not in ``free`` were never
# used, and lie behind all others. ``next`` and ``previous`` are those of its kind with room, or the next
# empty one.
cdef struct Slab:
    Spare* free
    uint32_t left
    uint32_t pieces
    Kind* kind
    Slabs* slabs
    Slab* next
    Slab* previous

# Of pieces of one size: the slabs that have one free, the one to take from first.
cdef struct Kind:
    Slab* open

# Of slabs of one size: those that are empty; ``fewest``: how few those were at a time since they were last
# looked at; ``surplus``: how many are to be unmapped; ``mapped``: how many bytes all slabs are.
cdef struct Slabs:
    size_t size
    Slab* empty
    uint32_t empties
    uint32_t fewest
    uint32_t surplus
    size_t mapped

cdef void* piece_of_next(Slabs* slabs, Kind* kind, size_t size) noexcept nogil
cdef void slab_is_full(Slab* slab) noexcept nogil
cdef void slab_has_room(Slab* slab) noexcept nogil
cdef void slab_is_empty(Slab* slab) noexcept nogil
cdef void kind_rests(Kind* kind) noexcept nogil
cdef void slabs_judge(Slabs* slabs, uint32_t spare) noexcept nogil
cdef size_t slabs_unmap(Slabs* slabs, size_t most, bint needed) noexcept nogil
cdef void slabs_clear(Slabs* slabs) noexcept nogil


cdef inline void* piece_take(Slabs* slabs, Kind* kind, size_t size) noexcept nogil:
    """A piece of ``size`` bytes, which is that of its kind; NULL if there is no memory."""
    cdef Slab* slab = kind.open
    cdef Spare* piece
    if not KEEPS:
        return malloc(size)
    if slab == NULL or slab.free == NULL:
        return piece_of_next(slabs, kind, size)
    piece = slab.free
    slab.free = piece.next
    slab.left -= 1
    if not slab.left:
        slab_is_full(slab)
    return piece


cdef inline void piece_give(void* piece, size_t slab_size) noexcept nogil:
    """It is not used any more. ``slab_size`` is that of the slabs that it was taken from."""
    cdef Slab* slab
    if not KEEPS:
        free(piece)
        return
    slab = <Slab*> (<uintptr_t> piece & ~<uintptr_t> (slab_size - 1))
    zq_check(slab.left < slab.pieces)
    (<Spare*> piece).next = slab.free
    slab.free = <Spare*> piece
    slab.left += 1
    if slab.left == 1:
        slab_has_room(slab)
    elif slab.left == slab.pieces and slab.kind.open != slab:
        slab_is_empty(slab)
