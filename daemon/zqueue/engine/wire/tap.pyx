"""See tap.pxd."""

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from zqueue.engine.wire.linux cimport zq_check, zq_get, zq_set
from zqueue.engine.wire.zmtp cimport ID_FRAME, frames_begun


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


cdef bint tap_put(
    Tap* tap, Tapped* about, const uint8_t* head, size_t head_size, const uint8_t* data, size_t size
) noexcept nogil:
    """Put a copy of a message there, its bytes in two parts, the first of ID_FRAME bytes at most. False
    if there is no room for it, and it counts as missed."""
    cdef uint64_t at = tap.written
    cdef uint64_t room = TAP_SIZE - (at - zq_get(&tap.read))
    zq_check(room <= TAP_SIZE and head_size <= ID_FRAME)
    about.whole = head_size + size
    about.kept = min(about.whole, max(zq_get(&tap.most), <uint64_t> ID_FRAME))
    if room < sizeof(Tapped) or about.kept > room - sizeof(Tapped):
        tap.missed += 1
        return False
    _copy_in(tap, at, <uint8_t*> about, sizeof(Tapped))
    _copy_in(tap, at + sizeof(Tapped), head, head_size)
    _copy_in(tap, at + sizeof(Tapped) + head_size, data, about.kept - head_size)
    zq_set(&tap.written, at + sizeof(Tapped) + about.kept)
    return True


cdef bint _next(Tap* tap, Tapped* about) noexcept nogil:
    """Whether there is a record, and what it says."""
    if tap.read == zq_get(&tap.written):
        return False
    _copy_out(tap, tap.read, <uint8_t*> about, sizeof(Tapped))
    zq_check(about.kept <= about.whole)
    zq_check(tap.read + sizeof(Tapped) + about.kept <= zq_get(&tap.written))
    return True


cdef void _take(Tap* tap, Tapped* about, uint8_t* into) noexcept nogil:
    """Take the bytes of the record that :c:func:`_next` told of."""
    _copy_out(tap, tap.read + sizeof(Tapped), into, about.kept)
    zq_set(&tap.read, tap.read + sizeof(Tapped) + about.kept)


cdef uint64_t tap_skip(Tap* tap) noexcept nogil:
    """Leave out what is there, and say how many records that was."""
    cdef Tapped about
    cdef uint64_t skipped = 0
    while _next(tap, &about):
        zq_set(&tap.read, tap.read + sizeof(Tapped) + about.kept)
        skipped += 1
    return skipped


cdef list tap_told(Tap* tap, int most):
    """Take up to ``most`` records. ``sizes`` and ``bodies`` are of the message's frames, the client's
    routing id first, as far as they were copied."""
    cdef Tapped about
    gathered = []
    if tap.ring == NULL:
        return gathered
    while len(gathered) < most and _next(tap, &about):
        copied = bytearray(about.kept)
        _take(tap, &about, copied)
        sizes, bodies = frames_begun(copied, about.kept)
        gathered.append({
            "way": about.way,
            "number": about.number,
            "at": about.at,
            "waited": about.waited,
            "service": about.service,
            "frames": about.frames,
            "whole": about.kept == about.whole,
            "client": about.client,
            "worker": about.worker,
            "client_name": about.client_name.decode(errors="replace"),
            "worker_name": about.worker_name.decode(errors="replace"),
            "sizes": sizes,
            "bodies": bodies,
        })
    return gathered
