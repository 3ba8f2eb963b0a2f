"""What comes to its end by time: requests too old, clients away for too long."""

from libc.stdint cimport int64_t
from zqueue.engine.wire.entities cimport Dispatcher

cdef int64_t next_expiry(Dispatcher* it) noexcept nogil
cdef void expire(Dispatcher* it) noexcept nogil
cdef void expire_one_way(Dispatcher* it) noexcept nogil
