"""Who gets the next request."""

from zqueue.engine.wire.entities cimport HOLD, Dispatcher

cdef void give_all(Dispatcher* it) noexcept nogil
cdef bint somebody_can_take(Dispatcher* it) noexcept nogil


cdef inline bint can_give(Dispatcher* it) noexcept nogil:
    """Whether something waits, and a worker can take it."""
    return it.counters.waiting > 0 and it.mode != HOLD and somebody_can_take(it)

