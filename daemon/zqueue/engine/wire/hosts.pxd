"""How many connections each address has."""

from libc.stdint cimport uint8_t, uint32_t
from zqueue.engine.wire.keyed_hash cimport Secret

# One of no connections stays until the table grows, and is not there if its address is all zeros.
cdef struct Host:
    uint8_t address[16]
    uint32_t connections

cdef struct Hosts:
    Secret secret
    Host* table
    uint32_t slots
    uint32_t used

cdef uint32_t host_connections(Hosts* hosts, const uint8_t* address) noexcept nogil
cdef void host_came(Hosts* hosts, const uint8_t* address) noexcept nogil
cdef void host_left(Hosts* hosts, const uint8_t* address) noexcept nogil
cdef void hosts_free(Hosts* hosts) noexcept nogil
