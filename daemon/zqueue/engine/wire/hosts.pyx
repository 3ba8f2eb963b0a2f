"""See hosts.pxd."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from zqueue.engine.wire.keyed_hash cimport hash_keyed

cdef enum:
    FEWEST_SLOTS = 64

cdef uint8_t NOBODY[16]


cdef inline bint _is_somebody(const uint8_t* address) noexcept nogil:
    """Sockets of this machine have no address, and are not counted."""
    return memcmp(address, NOBODY, sizeof(NOBODY)) != 0


cdef Host* _find(Hosts* hosts, const uint8_t* address) noexcept nogil:
    """Where it is, or has its place; there must be a slot that is free."""
    cdef uint32_t slot = <uint32_t> hash_keyed(&hosts.secret, 0, address, 16)
    cdef Host* at
    while True:
        at = &hosts.table[slot & (hosts.slots - 1)]
        if not _is_somebody(at.address) or memcmp(at.address, address, 16) == 0:
            return at
        slot += 1


cdef bint _has_room(Hosts* hosts) noexcept nogil:
    """Make room for one more; False if there is no memory."""
    cdef Hosts larger
    cdef uint32_t slot, there = 0
    if 2 * (hosts.used + 1) <= hosts.slots:
        return True
    for slot in range(hosts.slots):
        there += hosts.table[slot].connections > 0
    larger.secret = hosts.secret
    larger.used, larger.slots = there, FEWEST_SLOTS
    while larger.slots < 4 * (there + 1):
        larger.slots *= 2
    larger.table = <Host*> calloc(larger.slots, sizeof(Host))
    if larger.table == NULL:
        return False
    for slot in range(hosts.slots):
        if hosts.table[slot].connections:
            _find(&larger, hosts.table[slot].address)[0] = hosts.table[slot]
    free(hosts.table)
    hosts[0] = larger
    return True


cdef uint32_t host_connections(Hosts* hosts, const uint8_t* address) noexcept nogil:
    if not hosts.slots or not _is_somebody(address):
        return 0
    return _find(hosts, address).connections


cdef void host_came(Hosts* hosts, const uint8_t* address) noexcept nogil:
    """It has one more. Where there is no memory for that it is not counted."""
    cdef Host* host
    if not _is_somebody(address) or not _has_room(hosts):
        return
    host = _find(hosts, address)
    if not _is_somebody(host.address):
        memcpy(host.address, address, 16)
        hosts.used += 1
    host.connections += 1


cdef void host_left(Hosts* hosts, const uint8_t* address) noexcept nogil:
    """It has one less."""
    cdef Host* host
    if not hosts.slots or not _is_somebody(address):
        return
    host = _find(hosts, address)
    if host.connections:
        host.connections -= 1


cdef void hosts_free(Hosts* hosts) noexcept nogil:
    free(hosts.table)
    hosts.table = NULL
    hosts.slots = hosts.used = 0
