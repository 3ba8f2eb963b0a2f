"""What a client sends: it becomes a request that waits, or not."""

from libc.stdint cimport uint8_t, uint64_t
from zqueue.engine.wire.entities cimport Dispatcher, Peer
from zqueue.engine.wire.zmtp cimport Piece

cdef inline bint is_probe(Peer* peer, Piece* piece) noexcept nogil:
    """Whether it is what ZMQ_PROBE_ROUTER sends: one empty frame, before anything else."""
    return not peer.spoke and piece.scan.frames == 1 and not piece.scan.payload

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
