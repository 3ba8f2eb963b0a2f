"""Back-pressure: from whom another request may be taken, and who waits until one may be."""

from zqueue.engine.wire.entities cimport Dispatcher, Peer

cdef bint is_full(Dispatcher* it) noexcept nogil
cdef void tell_of_congestion(Dispatcher* it, Peer* peer) noexcept nogil
cdef bint has_room(Dispatcher* it) noexcept nogil
cdef bint admitted(Dispatcher* it, Peer* peer) noexcept nogil
cdef void stall(Dispatcher* it, Peer* peer) noexcept nogil
cdef void unstall_itself(Dispatcher* it, Peer* peer) noexcept nogil
cdef void leave_stalled(Dispatcher* it, Peer* peer) noexcept nogil
