"""See routing_ids.pxd."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp
from zqueue.engine.wire.keyed_hash cimport hash_keyed
from zqueue.engine.wire.zmtp cimport put_big_endian


cdef uint32_t id_hash(Dispatcher* it, const uint8_t* id, size_t size) noexcept nogil:
    return <uint32_t> hash_keyed(&it.secret, 0, id, size)


cdef Client* client_with(Dispatcher* it, const uint8_t* id, size_t size) noexcept nogil:
    """The client with this routing id, or NULL; it may be away for a while."""
    cdef uint32_t hash = id_hash(it, id, size)
    cdef Client* client = it.clients[hash & (it.client_slots - 1)]
    while client != NULL:
        if client.hash == hash and client.id_size == size and memcmp(client.id, id, size) == 0:
            return client
        client = client.next
    return NULL


cdef size_t make_id(Dispatcher* it, uint8_t* id) noexcept nogil:
    """A routing id that no client has, as a ROUTER makes them: a zero byte and a number. Its size."""
    while True:
        it.id_counter += 1
        id[0] = 0
        put_big_endian(id + 1, it.id_counter, 4)
        if client_with(it, id, MADE_ID) == NULL:
            return MADE_ID


cdef void know_client(Dispatcher* it, Client* client) noexcept nogil:
    cdef Client** grown
    cdef Client* at
    cdef uint32_t slot, slots
    if it.client_count >= it.client_slots:
        slots = 2 * it.client_slots
        grown = <Client**> calloc(slots, sizeof(Client*))
        if grown != NULL:
            for slot in range(it.client_slots):
                while it.clients[slot] != NULL:
                    at = it.clients[slot]
                    it.clients[slot] = at.next
                    at.next = grown[at.hash & (slots - 1)]
                    grown[at.hash & (slots - 1)] = at
            free(it.clients)
            it.clients, it.client_slots = grown, slots
    slot = client.hash & (it.client_slots - 1)
    client.next = it.clients[slot]
    it.clients[slot] = client
    it.client_count += 1


cdef void forget_client(Dispatcher* it, Client* client) noexcept nogil:
    cdef Client** place = &it.clients[client.hash & (it.client_slots - 1)]
    while place[0] != NULL:
        if place[0] == client:
            place[0] = client.next
            it.client_count -= 1
            return
        place = &place[0].next
