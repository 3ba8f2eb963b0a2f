"""See listing.pxd."""

from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset, strncpy
from zqueue.engine.wire.entities cimport FLOWS, IN_TURN, Client, Line, Request, Worker
from zqueue.engine.wire.notices cimport DETAIL, NAME
from zqueue.engine.wire.peers cimport has_arrived
from zqueue.engine.wire.recent cimport recent_share
from zqueue.engine.wire.requests cimport Waiting, all_waiting, attempts_at, next_waiting, waiting_told
from zqueue.engine.wire.workers cimport UNLIMITED
from zqueue.engine.wire.zmtp cimport LONGEST_BROKER_ID
from zqueue.engine.wire.zmtp cimport type_name


cdef void list_connections(Dispatcher* it, int side, Listing* into) noexcept nogil:
    """Every one of a side that is open, or of BOTH_SIDES, and then also those that are remembered,
    the latest last; none if there is no memory."""
    cdef Peer* peer = it.peers
    cdef int arrived
    listing_clear(into)
    into.now = it.now
    into.connections = <ConnectionRow*> malloc(
        sizeof(ConnectionRow) * (<size_t> it.peers_out + 2 * REMEMBERED)
    )
    if into.connections == NULL:
        return
    while peer != NULL:
        if side in (peer.side, BOTH_SIDES):
            _write_down(it, peer, &into.connections[into.connection_count])
            into.connection_count += 1
        peer = peer.next
    if side == BOTH_SIDES:
        for arrived in range(2):
            _list_closed(it, arrived, into)


cdef void _list_closed(Dispatcher* it, int arrived, Listing* into) noexcept nogil:
    cdef size_t made = it.closed_made[arrived]
    cdef size_t at = made - min(made, <size_t> REMEMBERED)
    while at < made:
        into.connections[into.connection_count] = (
            it.closed[arrived * REMEMBERED + at % REMEMBERED]
        )
        into.connection_count += 1
        at += 1


cdef void remember_closed(Dispatcher* it, Peer* peer, const char* why) noexcept nogil:
    """It ends now. Those that never were peers are remembered apart: they may be many."""
    cdef ConnectionRow* row
    cdef int arrived = has_arrived(peer)
    if it.closed == NULL:
        it.closed = <ConnectionRow*> calloc(2 * REMEMBERED, sizeof(ConnectionRow))
        if it.closed == NULL:
            return
    row = &it.closed[arrived * REMEMBERED + it.closed_made[arrived] % REMEMBERED]
    it.closed_made[arrived] += 1
    _write_down(it, peer, row)
    row.closed_at = it.now
    strncpy(row.reason, why, DETAIL - 1)


cdef void _write_down(Dispatcher* it, Peer* peer, ConnectionRow* row) noexcept nogil:
    cdef Client* client = peer.client
    cdef Worker* worker = peer.worker
    memset(row, 0, sizeof(ConnectionRow))
    row.number, row.side, row.type = peer.number, peer.side, peer.session.peer_type
    row.major, row.minor = peer.session.major, peer.session.minor
    row.arrived, row.held_back = has_arrived(peer), peer.stalled != FLOWS
    row.opened_at, row.heard_at = peer.opened_at, peer.session.heard_at
    row.received_bytes, row.sent_bytes = peer.received_bytes, peer.sent_bytes
    row.unsent_bytes = peer.session.out.size
    memcpy(row.name, peer.name, NAME)
    memcpy(row.broker_id, peer.session.peer_broker_id, LONGEST_BROKER_ID)
    if client != NULL:
        row.requests, row.replies = client.asked, client.answered
        row.waiting, row.in_flight = client.waiting, client.in_flight
        row.id_size = client.id_size
        memcpy(row.id, client.id, client.id_size)
    if worker != NULL:
        row.requests, row.replies = worker.given, worker.answered
        row.unasked = worker.unasked
        row.in_flight = worker.live + worker.one_way
        row.ahead = 0 if worker.credit == UNLIMITED else worker.credit
        row.service = <int64_t> worker.service
        row.p50, row.p99 = recent_share(&worker.took, 0.5), recent_share(&worker.took, 0.99)
        row.draining, row.aside = worker.draining, worker.aside
        row.id_size = worker.id_size
        memcpy(row.id, worker.id, worker.id_size)


cdef void list_requests(Dispatcher* it, Listing* into) noexcept nogil:
    """Those that wait, the oldest first, then those at workers; none if there is no memory."""
    cdef Peer* peer = it.peers
    cdef size_t most = min(it.counters.waiting, <uint64_t> MOST_REQUESTS)
    cdef size_t at_workers
    listing_clear(into)
    into.now = it.now
    into.requests_in_all = it.counters.waiting + it.counters.in_flight
    at_workers = min(it.counters.in_flight, <uint64_t> MOST_REQUESTS)
    into.requests = <RequestRow*> malloc(sizeof(RequestRow) * (most + at_workers + 1))
    if into.requests == NULL:
        return
    _list_waiting(it, into, most)
    while peer != NULL:
        if peer.worker != NULL:
            _list_those_of(it, peer.worker, into, most + at_workers)
        peer = peer.next


cdef void _list_waiting(Dispatcher* it, Listing* into, size_t most) noexcept nogil:
    cdef Waiting at = all_waiting(it)
    cdef Request* request
    while into.request_count < most and (request := next_waiting(it, &at)) != NULL:
        _write_request_down(request, into)
    waiting_told(it, &at)


cdef void _list_those_of(
    Dispatcher* it, Worker* worker, Listing* into, size_t most
) noexcept nogil:
    cdef Request* request = worker.outstanding.first
    while request != NULL and into.request_count < most:
        if not request.over:
            _write_request_down(request, into)
        request = request.beside[IN_TURN].next


cdef void _write_request_down(Request* request, Listing* into) noexcept nogil:
    cdef RequestRow* row = &into.requests[into.request_count]
    cdef Client* client = request.client
    into.request_count += 1
    memset(row, 0, sizeof(RequestRow))
    row.number, row.size, row.attempts = request.number, request.size, attempts_at(request)
    row.received_at, row.since = request.received_at, request.since
    row.id_size = client.id_size
    memcpy(row.id, client.id, client.id_size)
    if client.peer != NULL:
        row.peer = client.peer.number
        memcpy(row.client_name, client.peer.name, NAME)
    if request.worker != NULL:
        row.worker = request.worker.peer.number
        memcpy(row.worker_name, request.worker.peer.name, NAME)


cdef void listing_clear(Listing* listing) noexcept nogil:
    """Give back its memory."""
    free(listing.connections)
    free(listing.requests)
    memset(listing, 0, sizeof(Listing))


# -- for Python ----------------------------------------------------------------------------------


cdef list connections_told(Listing* listing):
    """What :c:func:`list_connections` has written down, see ``rows.pxd``, and nothing more is there.
    ``age``, ``silent_for`` and ``closed_for`` are nanoseconds."""
    cdef size_t place
    told = [
        _connection_told(&listing.connections[place], listing.now)
        for place in range(listing.connection_count)
    ]
    listing_clear(listing)
    return told


cdef dict _connection_told(ConnectionRow* row, int64_t now):
    until = row.closed_at or now
    return {
        "number": row.number,
        "side": row.side,
        "type": type_name(row.type).decode() if row.arrived else "",
        "major": row.major,
        "minor": row.minor,
        "arrived": row.arrived,
        "held_back": row.held_back,
        "draining": row.draining,
        "aside": row.aside,
        "age": until - row.opened_at,
        "silent_for": until - row.heard_at,
        "closed_for": now - row.closed_at if row.closed_at else None,
        "received_bytes": row.received_bytes,
        "sent_bytes": row.sent_bytes,
        "unsent_bytes": row.unsent_bytes,
        "requests": row.requests,
        "replies": row.replies,
        "unasked": row.unasked,
        "waiting": row.waiting,
        "in_flight": row.in_flight,
        "ahead": row.ahead,
        "service": row.service,
        "p50": row.p50,
        "p99": row.p99,
        "id": <bytes> row.id[:row.id_size],
        "name": row.name.decode(errors="replace"),
        "reason": row.reason.decode(errors="replace"),
        "broker": row.broker_id.decode(errors="replace"),
    }


cdef tuple requests_told(Listing* listing):
    """What :c:func:`list_requests` has written down, see ``rows.pxd``, and how many there were in all;
    nothing more is there. ``age`` and ``for`` are nanoseconds."""
    cdef size_t place
    told = [
        _request_told(&listing.requests[place], listing.now)
        for place in range(listing.request_count)
    ]
    in_all = listing.requests_in_all
    listing_clear(listing)
    return told, in_all


cdef dict _request_told(RequestRow* row, int64_t now):
    return {
        "number": row.number,
        "age": now - row.received_at,
        "for": now - row.since,
        "size": row.size,
        "attempts": row.attempts,
        "peer": row.peer,
        "worker": row.worker,
        "id": <bytes> row.id[:row.id_size],
        "client_name": row.client_name.decode(errors="replace"),
        "worker_name": row.worker_name.decode(errors="replace"),
    }
