"""Workers by how much they have to do: who gets the next request, and how many ahead."""

from libc.stdint cimport int64_t, uint64_t
from zqueue.engine.wire.entities cimport Dispatcher, Ring, Worker

cdef enum:
    UNLIMITED = 0x7FFFFFFF

cdef bint ring_reaches(Ring* ring, int place) noexcept nogil
cdef void place_worker(Dispatcher* it, Worker* worker) noexcept nogil
cdef void unplace_worker(Dispatcher* it, Worker* worker) noexcept nogil
cdef void worker_drain(Dispatcher* it, Worker* worker) noexcept nogil
cdef void tell_if_drained(Dispatcher* it, Worker* worker) noexcept nogil
cdef Worker* least_of(Ring* ring) noexcept nogil
cdef Worker* least_of_all(Dispatcher* it) noexcept nogil
cdef void measure_worker(
    Dispatcher* it, Worker* worker, uint64_t answers, int64_t since
) noexcept nogil
