"""Large blocks of memory, each mapped by itself. Those that are not used any more are kept for the next
ones, because fresh memory of the kernel costs more than what is done with it, and unmapped part by part
when they are not needed again."""

from libc.stdint cimport uint32_t

cdef enum:
    SHELVES = 40

# Lies over the first bytes of each that is kept. ``size``: how much of it is mapped yet.
cdef struct Kept:
    Kept* next
    size_t size

# Those of one size. ``fewest``: how few there were at a time since they were last looked at; ``surplus``:
# how many are to be unmapped.
cdef struct Shelf:
    Kept* first
    uint32_t count
    uint32_t fewest
    uint32_t surplus

# ``leaving``: those that are being unmapped; ``kept``: bytes of these and of those on the shelves.
cdef struct Blocks:
    Shelf shelves[SHELVES]
    Kept* leaving
    size_t kept
    size_t mapped

cdef void* block_take(Blocks* blocks, size_t size, int shelf) noexcept nogil
cdef void block_give(Blocks* blocks, void* block, size_t size, int shelf) noexcept nogil
cdef void blocks_judge(Blocks* blocks) noexcept nogil
cdef size_t blocks_unmap(Blocks* blocks, size_t most, size_t keep) noexcept nogil
cdef void blocks_clear(Blocks* blocks) noexcept nogil
