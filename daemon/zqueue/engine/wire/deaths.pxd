"""Requests that die: their client is told, and whoever keeps them can take them."""

from zqueue.engine.wire.entities cimport Death, Dispatcher, Request, Worker

cdef void die(Dispatcher* it, Request* request, int cause) noexcept nogil
cdef void remember_attempt(
    Dispatcher* it, Worker* worker, Request* request, int cause
) noexcept nogil
cdef Death* deaths_take(Dispatcher* it) noexcept nogil
cdef void deaths_free(Dispatcher* it, Death* first) noexcept nogil
cdef list deaths_told(Death* first)
