"""What every part of the state machine may do with a connection: mark it, find it, end it."""

from libc.stdint cimport int64_t
from zqueue.engine.wire.entities cimport Dispatcher, Peer

cdef inline void make_dirty(Dispatcher* it, Peer* peer) noexcept nogil:
    if not peer.dirty:
        peer.dirty = True
        peer.dirty_next = it.dirty
        it.dirty = peer

cdef inline bint has_arrived(Peer* peer) noexcept nogil:
    return peer.client != NULL or peer.worker != NULL

cdef inline bint can_be_told(Peer* peer) noexcept nogil:
    return peer != NULL and not peer.ended and not peer.deaf

cdef void make_clean(Dispatcher* it, Peer* peer) noexcept nogil
cdef void peer_is_ready(Dispatcher* it, Peer* peer) noexcept nogil
cdef Peer* peer_numbered(Dispatcher* it, int64_t number) noexcept nogil
cdef void peer_end(Dispatcher* it, Peer* peer, const char* reason) noexcept nogil
