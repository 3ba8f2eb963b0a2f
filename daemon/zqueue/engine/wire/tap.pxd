"""Copies of what passes, for one reader in another thread, while it wants them."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    TAP_SIZE = 8 << 20
    REQUEST = 0
    REPLY = 1

# A ring of records. The writer alone changes ``written``, the reader alone ``read`` and ``on``.
cdef struct Tap:
    uint8_t* ring
    uint64_t on
    uint64_t written
    uint64_t read
    uint64_t missed

cdef bint tap_open(Tap* tap) noexcept nogil
cdef void tap_close(Tap* tap) noexcept nogil
cdef bint tap_is_on(Tap* tap) noexcept nogil
cdef void tap_switch(Tap* tap, bint on) noexcept nogil
cdef void tap_put(
    Tap* tap, int way, const uint8_t* head, size_t head_size, const uint8_t* data, size_t size
) noexcept nogil
cdef bint tap_next(Tap* tap, uint32_t* size, uint32_t* way) noexcept nogil
cdef void tap_take(Tap* tap, uint8_t* into, uint32_t size) noexcept nogil
