"""See tap.pxd."""

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from zqueue.engine.wire.linux cimport zq_get, zq_set

cdef enum:
    LONGEST_HEAD = 257

cdef bint tap_open(Tap* tap) noexcept nogil:
    """Get the memory for it; False if there is none."""
    tap.ring = <uint8_t*> malloc(TAP_SIZE)
    return tap.ring != NULL


cdef void tap_close(Tap* tap) noexcept nogil:
    free(tap.ring)
    tap.ring = NULL


cdef void tap_switch(Tap* tap, bint on, int64_t now, uint64_t most, bint wakes) noexcept nogil:
    if on and not tap.on:
        # What was copied when it was last on and nobody took is old.
        zq_set(&tap.read, zq_get(&tap.written))
        zq_set(<uint64_t*> &tap.since, <uint64_t> now)
    zq_set(&tap.most, most)
    zq_set(&tap.wakes, wakes)
    zq_set(&tap.on, on)


cdef void tap_allow(Tap* tap, uint64_t exchanges) noexcept nogil:
    """So many more than were begun."""
    zq_set(&tap.allowed, zq_get(&tap.begun) + exchanges)


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


cdef bint tap_has_room(Tap* tap, uint64_t size) noexcept nogil:
    """Whether a message of this size can be copied; if not it counts as missed."""
    tap.keeps = zq_get(&tap.most)
    size = min(size, tap.keeps + LONGEST_HEAD)
    if size + sizeof(Tapped) <= TAP_SIZE - (tap.written - zq_get(&tap.read)):
        return True
    tap.missed += 1
    return False


cdef void tap_put(
    Tap* tap, Tapped* about, const uint8_t* head, size_t head_size, const uint8_t* data, size_t size
) noexcept nogil:
    """Put a copy of a message there, its bytes in two parts; :c:func:`tap_has_room` must just have
    said that there is room for it."""
    cdef uint64_t at = tap.written
    about.whole = head_size + size
    about.kept = min(about.whole, max(tap.keeps, <uint64_t> head_size))
    _copy_in(tap, at, <uint8_t*> about, sizeof(Tapped))
    _copy_in(tap, at + sizeof(Tapped), head, head_size)
    _copy_in(tap, at + sizeof(Tapped) + head_size, data, about.kept - head_size)
    zq_set(&tap.written, at + sizeof(Tapped) + about.kept)


cdef bint tap_next(Tap* tap, Tapped* about) noexcept nogil:
    """Whether there is a record, and what it says."""
    if tap.read == zq_get(&tap.written):
        return False
    _copy_out(tap, tap.read, <uint8_t*> about, sizeof(Tapped))
    return True


cdef void tap_take(Tap* tap, Tapped* about, uint8_t* into) noexcept nogil:
    """Take the bytes of the record that :c:func:`tap_next` told of."""
    _copy_out(tap, tap.read + sizeof(Tapped), into, about.kept)
    zq_set(&tap.read, tap.read + sizeof(Tapped) + about.kept)


cdef uint64_t tap_skip(Tap* tap) noexcept nogil:
    """Leave out what is there, and say how many records that was."""
    cdef Tapped about
    cdef uint64_t skipped = 0
    while tap_next(tap, &about):
        zq_set(&tap.read, tap.read + sizeof(Tapped) + about.kept)
        skipped += 1
    return skipped
