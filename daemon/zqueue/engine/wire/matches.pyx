"""See matches.pxd."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp
from zqueue.engine.wire.entities cimport BY_MATCH, Client, Line
from zqueue.engine.wire.keyed_hash cimport hash_keyed, hash_number
from zqueue.engine.wire.lines cimport line_append, line_remove, line_replace
from zqueue.engine.wire.memory cimport body_bytes
from zqueue.engine.wire.zmtp cimport hash_frames, same_frames


cdef inline uint32_t _mark_of(
    Dispatcher* it, const uint8_t* id, size_t id_size, const uint8_t* envelope, size_t size
) noexcept nogil:
    cdef uint64_t before = hash_keyed(&it.secret, 0, id, id_size)
    return <uint32_t> hash_frames(&it.secret, before, envelope, size)


cdef inline Line* _slot(Dispatcher* it, uint32_t worker, uint32_t mark) noexcept nogil:
    cdef uint64_t hash = hash_number(&it.secret, <uint64_t> worker << 32 | mark)
    return &it.matches[<uint32_t> hash & (it.match_slots - 1)]


cdef inline Line* _slot_of(Dispatcher* it, Request* request) noexcept nogil:
    return _slot(it, <uint32_t> request.worker.peer.number, request.mark)


cdef void match_add(Dispatcher* it, Request* request) noexcept nogil:
    """It is at a ROUTER or DEALER; ``mark`` is its number there if it is ``numbered``."""
    if it.match_count >= it.match_slots:
        _grow(it)
    if not request.numbered:
        request.mark = _mark_of(
            it,
            request.client.id,
            request.client.id_size,
            body_bytes(request.body),
            request.envelope,
        )
    line_append(_slot_of(it, request), request, BY_MATCH)
    it.match_count += 1


cdef void _grow(Dispatcher* it) noexcept nogil:
    """Have twice as many slots. Without memory for that there are as many as before."""
    cdef uint32_t slot, slots = it.match_slots
    cdef Line* before = it.matches
    cdef Line* grown
    cdef Request* at
    if slots > <uint32_t> 1 << 30:
        return
    grown = <Line*> calloc(2 * <size_t> slots, sizeof(Line))
    if grown == NULL:
        return
    it.matches, it.match_slots = grown, 2 * slots
    for slot in range(slots):
        while before[slot].first != NULL:
            at = before[slot].first
            line_remove(&before[slot], at, BY_MATCH)
            line_append(_slot_of(it, at), at, BY_MATCH)
    free(before)


cdef void match_remove(Dispatcher* it, Request* request) noexcept nogil:
    line_remove(_slot_of(it, request), request, BY_MATCH)
    it.match_count -= 1


cdef void match_replace(Dispatcher* it, Request* request, Request* by) noexcept nogil:
    """``by`` has the same mark and worker, and takes its place."""
    line_replace(_slot_of(it, request), request, by, BY_MATCH)


cdef Request* match_numbered(
    Dispatcher* it, uint32_t connection, uint32_t number, Piece* piece
) noexcept nogil:
    """The request that has this number at the worker of this connection, or NULL."""
    cdef Request* at = _slot(it, connection, number).first
    while at != NULL:
        if (
            at.numbered
            and at.mark == number
            and <uint32_t> at.worker.peer.number == connection
        ):
            return at if has_envelope_of(at, piece) else NULL
        at = at.beside[BY_MATCH].next
    return NULL


cdef Request* match_find(
    Dispatcher* it, Worker* worker, const uint8_t* id, size_t id_size, Piece* piece
) noexcept nogil:
    """The oldest request of this worker with the reply's routing id and envelope, or NULL; not one
    with a number."""
    cdef const uint8_t* envelope = piece.data + piece.scan.first
    cdef size_t size = piece.scan.envelope - piece.scan.first if piece.scan.envelope else 0
    cdef uint32_t mark = _mark_of(it, id, id_size, envelope, size)
    cdef Request* at = _slot(it, <uint32_t> worker.peer.number, mark).first
    while at != NULL:
        if (
            not at.numbered
            and at.mark == mark
            and at.worker == worker
            and at.client.id_size == id_size
            and memcmp(at.client.id, id, id_size) == 0
            and has_envelope_of(at, piece)
        ):
            return at
        at = at.beside[BY_MATCH].next
    return NULL


# -- requests that look alike --------------------------------------------------------------------


cdef bint _are_alike(Request* one, Request* other) noexcept nogil:
    cdef Client* client = one.client
    return (
        one.mark == other.mark
        and not one.numbered
        and not other.numbered
        and client.id_size == other.client.id_size
        and memcmp(client.id, other.client.id, client.id_size) == 0
        and (one.envelope > 0) == (other.envelope > 0)
        and same_frames(
            body_bytes(one.body) if one.envelope else NULL, one.envelope,
            body_bytes(other.body) if other.envelope else NULL, other.envelope,
        )
    )


cdef Request* oldest_alike(Dispatcher* it, Worker* worker, Request* request) noexcept nogil:
    """Of what this worker has; ``request`` need not be there. NULL if there is none."""
    cdef Request* at
    request.mark = _mark_of(
        it, request.client.id, request.client.id_size, body_bytes(request.body), request.envelope
    )
    at = _slot(it, <uint32_t> worker.peer.number, request.mark).first
    while at != NULL and not (at.worker == worker and _are_alike(at, request)):
        at = at.beside[BY_MATCH].next
    return at


cdef Request* next_alike(Request* request) noexcept nogil:
    """The next younger one at the same worker that looks like it, or NULL."""
    cdef Request* at = request.beside[BY_MATCH].next
    while at != NULL and not (at.worker == request.worker and _are_alike(at, request)):
        at = at.beside[BY_MATCH].next
    return at


cdef void pass_doubts(Dispatcher* it, Request* request, bint in_vain) noexcept nogil:
    """A reply was taken for this one, the oldest of those that look alike; ``in_vain``: nobody waits
    for it. It is at its worker yet."""
    cdef Request* following
    cdef Request* newest
    if request.numbered or not (in_vain or request.doubts):
        return
    following = next_alike(request)
    if following == NULL:
        return
    newest = _slot_of(it, request).last
    while newest.worker != request.worker or not _are_alike(newest, request):
        newest = newest.beside[BY_MATCH].previous
    following.doubts = <uint8_t> min(
        255, following.doubts + request.doubts + (in_vain and not newest.over)
    )
