"""When each peer is to be looked at again: a heap, so that only the first one has to be."""

from libc.stdint cimport int64_t
from zqueue.engine.wire.entities cimport Dispatcher, Peer

cdef bint due_has_room(Dispatcher* it) noexcept nogil
cdef void schedule(Dispatcher* it, Peer* peer, int64_t due) noexcept nogil
cdef void schedule_by(Dispatcher* it, Peer* peer, int64_t due) noexcept nogil
