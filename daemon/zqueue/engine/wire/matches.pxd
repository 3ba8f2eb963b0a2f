"""Which request a reply answers, where workers answer in any order: by routing id and envelope."""

from libc.stdint cimport uint8_t
from zqueue.engine.wire.entities cimport Dispatcher, Request, Worker
from zqueue.engine.wire.zmtp cimport Piece

cdef void match_add(Dispatcher* it, Request* request) noexcept nogil
cdef void match_remove(Dispatcher* it, Request* request) noexcept nogil
cdef void match_replace(Dispatcher* it, Request* request, Request* by) noexcept nogil
cdef Request* match_find(
    Dispatcher* it, Worker* worker, const uint8_t* id, size_t id_size, Piece* piece
) noexcept nogil
