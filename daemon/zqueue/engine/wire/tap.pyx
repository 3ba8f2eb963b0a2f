"""See tap.pxd."""

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from zqueue.engine.wire.linux cimport zq_get, zq_set

cdef enum:
    HEAD = 8


cdef bint tap_open(Tap* tap) noexcept nogil:
    """Get the memory for it; False if there is none."""
    tap.ring = <uint8_t*> malloc(TAP_SIZE)
    return tap.ring != NULL


cdef void tap_close(Tap* tap) noexcept nogil:
    free(tap.ring)
    tap.ring = NULL


cdef bint tap_is_on(Tap* tap) noexcept nogil:
    return zq_get(&tap.on) != 0


cdef void tap_switch(Tap* tap, bint on) noexcept nogil:
    zq_set(&tap.on, on)


cdef void _copy_in(Tap* tap, uint64_t at, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t place = <size_t> (at % TAP_SIZE)
    cdef size_t here = min(size, TAP_SIZE - place)
    memcpy(tap.ring + place, data, here)
    memcpy(tap.ring, data + here, size - here)


cdef void _copy_out(Tap* tap, uint64_t at, uint8_t* into, size_t size) noexcept nogil:
    cdef size_t place = <size_t> (at % TAP_SIZE)
    cdef size_t here = min(size, TAP_SIZE - place)
    memcpy(into, tap.ring + place, here)
    memcpy(into + here, tap.ring, size - here)


cdef void tap_put(
    Tap* tap, int way, const uint8_t* head, size_t head_size, const uint8_t* data, size_t size
) noexcept nogil:
    """Put a copy of a message there, its frames in two parts, if there is room for it."""
    cdef uint32_t record[2]
    cdef uint64_t at = tap.written
    if head_size + size + HEAD > TAP_SIZE - (at - zq_get(&tap.read)):
        tap.missed += 1
        return
    record[0], record[1] = <uint32_t> (head_size + size), <uint32_t> way
    _copy_in(tap, at, <uint8_t*> record, HEAD)
    _copy_in(tap, at + HEAD, head, head_size)
    _copy_in(tap, at + HEAD + head_size, data, size)
    zq_set(&tap.written, at + HEAD + head_size + size)


cdef bint tap_next(Tap* tap, uint32_t* size, uint32_t* way) noexcept nogil:
    """Whether there is a record, how many bytes it has, and which way it went."""
    cdef uint32_t record[2]
    if tap.read == zq_get(&tap.written):
        return False
    _copy_out(tap, tap.read, <uint8_t*> record, HEAD)
    size[0], way[0] = record[0], record[1]
    return True


cdef void tap_take(Tap* tap, uint8_t* into, uint32_t size) noexcept nogil:
    """Take the record that :c:func:`tap_next` told of."""
    _copy_out(tap, tap.read + HEAD, into, size)
    zq_set(&tap.read, tap.read + HEAD + size)
