"""Which request a reply answers, where workers answer in any order: by the number in its return
address, or, for a client with a routing id of its own, by that and the envelope.

What one such client asked with equal envelopes cannot be told apart at a worker. A reply counts for the
oldest of it, so that no late one is taken for the answer to something else. If the worker has not
answered that at all, each later reply counts for the request before it; so where a reply was taken for
one that nobody waits for, while there was one that somebody did, the next of them is in doubt: it may
have been answered by it. See ``giving`` for what becomes of that.
"""

from libc.stdint cimport uint8_t, uint32_t
from zqueue.engine.wire.entities cimport Dispatcher, Request, Worker
from zqueue.engine.wire.memory cimport body_bytes
from zqueue.engine.wire.zmtp cimport Piece, same_frames

cdef void match_add(Dispatcher* it, Request* request) noexcept nogil
cdef void match_remove(Dispatcher* it, Request* request) noexcept nogil
cdef void match_replace(Dispatcher* it, Request* request, Request* by) noexcept nogil
cdef Request* match_numbered(
    Dispatcher* it, uint32_t connection, uint32_t number, Piece* piece
) noexcept nogil
cdef Request* match_find(
    Dispatcher* it, Worker* worker, const uint8_t* id, size_t id_size, Piece* piece
) noexcept nogil
cdef Request* oldest_alike(Dispatcher* it, Worker* worker, Request* request) noexcept nogil
cdef Request* next_alike(Request* request) noexcept nogil
cdef void pass_doubts(Dispatcher* it, Request* request, bint in_vain) noexcept nogil


cdef inline bint has_envelope_of(Request* request, Piece* piece) noexcept nogil:
    cdef size_t size = piece.scan.envelope - piece.scan.first if piece.scan.envelope else 0
    if not size or not request.envelope:
        return not size and not request.envelope
    return same_frames(
        piece.data + piece.scan.first, size, body_bytes(request.body), request.envelope
    )
