"""Requests: in line, at a worker, at their end."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy
from zqueue.engine.wire.entities cimport Body, Client, Dispatcher, Line, Request, Worker
from zqueue.engine.wire.zmtp cimport LONGEST_ID, MORE

cdef inline size_t id_frame(Client* client, uint8_t* head) noexcept nogil:
    """The routing id as the first frame of a message; ``head`` has room for LONGEST_ID + 2."""
    head[0] = MORE
    head[1] = client.id_size
    memcpy(head + 2, client.id, client.id_size)
    return <size_t> 2 + client.id_size

cdef inline bint is_isolated(Worker* worker, Request* request) noexcept nogil:
    """Whether it may bring down a worker, and what else that has. A REP works on one at a time
    anyhow; others would come to a stand if every request that was once lost were given to them by
    itself."""
    return request.suspect and (worker.strict or request.attempts > 2)

# Nobody waits for what it asked for, and it has not been asked to last.
cdef inline bint is_gone(Client* client) noexcept nogil:
    return client.peer == NULL and client.absence == NULL and not client.lasting

cdef Request* request_blank(Dispatcher* it) noexcept nogil
cdef Request* request_new(
    Dispatcher* it, Client* client, Body* body, size_t size, size_t envelope
) noexcept nogil
cdef void queue_last(Dispatcher* it, Request* request) noexcept nogil
cdef void queue_back(Dispatcher* it, Request* request, Request** near) noexcept nogil
cdef void waits_shortest(Dispatcher* it, Request* request) noexcept nogil
cdef Request* unqueue(Dispatcher* it, Request* request) noexcept nogil
cdef void hand_to(Dispatcher* it, Worker* worker, Request* request) noexcept nogil
cdef void put_at_worker(Dispatcher* it, Worker* worker, Request* request) noexcept nogil
cdef Request* take_back(Dispatcher* it, Request* request) noexcept nogil
cdef bint leave_behind(Dispatcher* it, Request* request) noexcept nogil
cdef void finish(Dispatcher* it, Request* request, uint64_t* end) noexcept nogil
cdef void request_free(Dispatcher* it, Request* request) noexcept nogil
cdef void ages(Dispatcher* it, Request* request) noexcept nogil
cdef void ages_no_more(Dispatcher* it, Request* request) noexcept nogil
