"""Clients by their routing ids."""

from libc.stdint cimport uint8_t, uint32_t
from zqueue.engine.wire.entities cimport Client, Dispatcher

cdef enum:
    MADE_ID = 5

cdef uint32_t id_hash(Dispatcher* it, const uint8_t* id, size_t size) noexcept nogil
cdef Client* client_with(Dispatcher* it, const uint8_t* id, size_t size) noexcept nogil
cdef size_t make_id(Dispatcher* it, uint8_t* id) noexcept nogil
cdef void know_client(Dispatcher* it, Client* client) noexcept nogil
cdef void forget_client(Dispatcher* it, Client* client) noexcept nogil
