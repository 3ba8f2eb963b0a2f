"""What a client sends: it becomes a request that waits, or not."""

from libc.stdint cimport uint8_t, uint64_t
from zqueue.engine.wire.entities cimport Dispatcher, Peer
from zqueue.engine.wire.zmtp cimport Piece

cdef void request_came(Dispatcher* it, Peer* peer, Piece* piece) noexcept nogil
cdef bint submit(
    Dispatcher* it,
    const uint8_t* id,
    size_t id_size,
    const uint8_t* data,
    size_t size,
    size_t envelope,
    uint64_t frames,
    uint64_t payload,
) noexcept nogil
