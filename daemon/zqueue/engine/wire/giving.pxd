"""Who gets the next request."""

from zqueue.engine.wire.entities cimport Dispatcher

cdef void give_all(Dispatcher* it) noexcept nogil
cdef bint can_give(Dispatcher* it) noexcept nogil
