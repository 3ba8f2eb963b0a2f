"""What becomes of the requests of a worker that is lost, or answers no more."""

from libc.stdint cimport int64_t
from zqueue.engine.wire.entities cimport Dispatcher, Worker

cdef void worker_lost(Dispatcher* it, Worker* worker) noexcept nogil
cdef int64_t worker_overdue_at(Dispatcher* it, Worker* worker) noexcept nogil
cdef void worker_overdue(Dispatcher* it, Worker* worker) noexcept nogil
