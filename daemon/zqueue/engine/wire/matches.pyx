"""See matches.pxd."""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp
from zqueue.engine.wire.routing_ids cimport hash_bytes
from zqueue.engine.wire.entities cimport BY_MATCH, Line
from zqueue.engine.wire.lines cimport line_append, line_remove, line_replace
from zqueue.engine.wire.memory cimport body_bytes
from zqueue.engine.wire.zmtp cimport hash_frames, same_frames


cdef uint32_t _hash(
    int64_t worker, const uint8_t* id, size_t id_size, const uint8_t* envelope, size_t size
) noexcept nogil:
    cdef uint32_t hash = hash_bytes(<uint32_t> worker * <uint32_t> 2654435761, id, id_size)
    return hash_frames(hash, envelope, size)


cdef void match_add(Dispatcher* it, Request* request) noexcept nogil:
    cdef Line* grown
    cdef Request* at
    cdef uint32_t slot, slots
    if it.match_count >= it.match_slots:
        slots = 2 * it.match_slots
        grown = <Line*> calloc(slots, sizeof(Line))
        if grown != NULL:
            for slot in range(it.match_slots):
                while it.matches[slot].first != NULL:
                    at = it.matches[slot].first
                    line_remove(&it.matches[slot], at, BY_MATCH)
                    line_append(&grown[at.mark & (slots - 1)], at, BY_MATCH)
            free(it.matches)
            it.matches, it.match_slots = grown, slots
    request.mark = _hash(
        request.worker.peer.number,
        request.client.id,
        request.client.id_size,
        body_bytes(request.body),
        request.envelope,
    )
    line_append(_slot(it, request), request, BY_MATCH)
    it.match_count += 1


cdef inline Line* _slot(Dispatcher* it, Request* request) noexcept nogil:
    return &it.matches[request.mark & (it.match_slots - 1)]


cdef void match_remove(Dispatcher* it, Request* request) noexcept nogil:
    line_remove(_slot(it, request), request, BY_MATCH)
    it.match_count -= 1


cdef void match_replace(Dispatcher* it, Request* request, Request* by) noexcept nogil:
    """``by`` has the same routing id, envelope and worker, and takes its place."""
    by.mark = request.mark
    line_replace(_slot(it, request), request, by, BY_MATCH)


cdef Request* match_find(
    Dispatcher* it, Worker* worker, const uint8_t* id, size_t id_size, Piece* piece
) noexcept nogil:
    """The oldest request of this worker with the reply's routing id and envelope, or NULL."""
    cdef const uint8_t* envelope = piece.data + piece.scan.first
    cdef size_t size = piece.scan.envelope - piece.scan.first if piece.scan.envelope else 0
    cdef uint32_t hash = _hash(worker.peer.number, id, id_size, envelope, size)
    cdef Request* at = it.matches[hash & (it.match_slots - 1)].first
    while at != NULL:
        if (
            at.mark == hash
            and at.worker == worker
            and at.client.id_size == id_size
            and memcmp(at.client.id, id, id_size) == 0
            and (at.envelope > 0) == (size > 0)
            and (not size or same_frames(body_bytes(at.body), at.envelope, envelope, size))
        ):
            return at
        at = at.beside[BY_MATCH].next
    return NULL
