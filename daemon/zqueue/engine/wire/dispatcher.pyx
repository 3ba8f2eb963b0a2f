"""See dispatcher.pxd; for Python the same is ``exchange.Exchange``."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset, strncpy
from zqueue.engine.wire.admission cimport (
    admitted,
    has_room,
    leave_stalled,
    stall,
    unstall_itself,
)
from zqueue.engine.wire.clients cimport (
    MADE_ID,
    client_with,
    forget_client,
    id_hash,
    know_client,
    make_id,
)
from zqueue.engine.wire.due cimport schedule
from zqueue.engine.wire.entities cimport (
    BACKEND,
    BY_ITSELF,
    DEEPEST_ENVELOPE,
    FLOWS,
    FRONTEND,
    HOLD,
    IN_LINE,
    LONGEST_ENVELOPE,
    NAME,
    Client,
    Line,
    Request,
    Worker,
)
from zqueue.engine.wire.histogram cimport record
from zqueue.engine.wire.matches cimport match_add, match_find, match_remove
from zqueue.engine.wire.memory cimport (
    KEEPS,
    Body,
    body_bytes,
    body_drop,
    body_new,
    outgoing_copy,
    outgoing_sent,
    outgoing_share,
    pool_clear,
)
from zqueue.engine.wire.notices cimport (
    BROKE,
    CONNECTED,
    DEAD,
    DISCONNECTED,
    DUPLICATE,
    MALFORMED,
    NO_WORKERS,
    REJECTED,
    RETURNED,
    STRAY,
    WORKER_DRAINED,
    notice,
)
from zqueue.engine.wire.session cimport (
    ARRIVED,
    AWAITS_READY,
    BROKE_PROTOCOL,
    TALKS,
    session_clear,
    session_next,
    session_open,
    session_pulse,
    session_refuse,
)
from zqueue.engine.wire.tap cimport REPLY, REQUEST, tap_is_on, tap_put
from zqueue.engine.wire.zmtp cimport (
    DEALER,
    LONGEST_ID,
    Limits,
    MESSAGE,
    MORE,
    NOTHING,
    REP,
    ROUTER,
    Piece,
    intake_read,
    intake_room,
    same_frames,
    type_name,
)

from zqueue.engine.wire.workers cimport (
    UNLIMITED,
    least_of,
    least_of_all,
    measure_worker,
    place_worker,
    unplace_worker,
)

cdef enum:
    TURN = 16
    UNANSWERED = 10_000
    LARGE = 65536


# -- opening and closing -------------------------------------------------------------------------


cdef bint dispatcher_open(
    Dispatcher* it, const Settings* settings, Notices* notices, uint32_t first_id
) noexcept nogil:
    """Make an empty one; False if there is no memory."""
    memset(it, 0, sizeof(Dispatcher))
    it.settings = settings[0]
    it.worker_limits = settings.limits[BACKEND]
    it.worker_limits.message_bytes += LONGEST_ENVELOPE + LONGEST_ID + 2
    if it.worker_limits.frames < <uint32_t> 1 << 31:
        it.worker_limits.frames += DEEPEST_ENVELOPE + 1
    it.notices = notices
    it.id_counter = first_id
    it.client_slots = it.match_slots = 64
    it.clients = <Client**> calloc(it.client_slots, sizeof(Client*))
    it.matches = <Line*> calloc(it.match_slots, sizeof(Line))
    return it.clients != NULL and it.matches != NULL


cdef void dispatcher_close(Dispatcher* it) noexcept nogil:
    """Give back all memory. Every peer must have been closed."""
    cdef Request* request
    while it.line.first != NULL:
        _end(it, _unqueue(it, it.line.first), &it.counters.dead)
    while it.odd.first != NULL:
        _end(it, _unqueue(it, it.odd.first), &it.counters.dead)
    while it.spare != NULL:
        request = it.spare
        it.spare = request.next
        free(request)
    free(it.clients)
    free(it.matches)
    free(it.strict.first)
    free(it.strict.last)
    free(it.loose.first)
    free(it.loose.last)
    free(it.due)
    pool_clear(&it.pool)


cdef void dispatcher_mode(Dispatcher* it, int mode) noexcept nogil:
    """FORWARD: requests pass. HOLD: none goes to a worker. DRAIN: none is taken from a client."""
    it.mode = mode
    it.told_no_workers = False


cdef void dispatcher_turn(Dispatcher* it) noexcept nogil:
    """Give out what waits, and let clients go on that were held back, as far as there is room."""
    while True:
        if it.mode != HOLD:
            _give_all(it)
        if not (it.stalled and has_room(it) and _serve_stalled(it)):
            break
    if not it.counters.waiting:
        it.told_congested = False


# -- peers ---------------------------------------------------------------------------------------


cdef Peer* peer_open(Dispatcher* it, int side, const char* name) noexcept nogil:
    """A new connection; NULL if there is no memory for it."""
    cdef Peer* peer = <Peer*> calloc(1, sizeof(Peer))
    if peer == NULL:
        return NULL
    if not session_open(&peer.session, &it.pool, ROUTER if side == FRONTEND else DEALER, it.now):
        free(peer)
        return NULL
    it.peers_made += 1
    it.peers_out += 1
    it.counters.accepted[side] += 1
    peer.number = it.peers_made
    peer.side = side
    peer.fd = -1
    peer.due_place = -1
    peer.opened_at = it.now
    strncpy(peer.name, name, NAME - 1)
    peer.next = it.peers
    if it.peers != NULL:
        it.peers.previous = peer
    it.peers = peer
    _pulse(it, peer)
    _make_dirty(it, peer)
    return peer


cdef Peer* peer_numbered(Dispatcher* it, int64_t number) noexcept nogil:
    cdef Peer* peer = it.peers
    while peer != NULL and peer.number != number:
        peer = peer.next
    return peer


cdef inline void _make_dirty(Dispatcher* it, Peer* peer) noexcept nogil:
    if not peer.dirty:
        peer.dirty = True
        peer.dirty_next = it.dirty
        it.dirty = peer


cdef void peer_is_ready(Dispatcher* it, Peer* peer) noexcept nogil:
    """It may be read from though its descriptor will not say so again."""
    if not peer.ready:
        peer.ready = True
        peer.ready_next = it.ready
        it.ready = peer


cdef size_t peer_room(Dispatcher* it, Peer* peer, uint8_t** room) noexcept nogil:
    """Where the rest of a large message may be read to; tell :c:func:`peer_take` of what came
    there by passing that very address."""
    if peer.session.stage != TALKS:
        return 0
    return intake_room(&peer.session.intake, &it.pool, room)


cdef bint peer_reads(Dispatcher* it, Peer* peer) noexcept nogil:
    """Whether it may be read from now; if not, it will be in ``ready`` when it may."""
    if peer.ended or peer.stalled != FLOWS:
        return False
    if peer.client == NULL or peer.session.intake.have or peer.invited or admitted(it, peer):
        return True
    stall(it, peer)
    return False


cdef bint peer_was_read(Dispatcher* it, Peer* peer) noexcept nogil:
    """The room that was kept for it in its turn is free again; True if there was any."""
    cdef bint invited = peer.invited
    peer.invited = False
    it.invited -= invited
    return invited


cdef void peer_take(Dispatcher* it, Peer* peer, const uint8_t* data, size_t size) noexcept nogil:
    """Bytes came. What cannot be taken now is kept, and taken when there is room."""
    it.serving, it.quota = peer_was_read(it, peer), TURN
    _take_or_keep(it, peer, data, size)
    it.serving = False


cdef void _take_or_keep(
    Dispatcher* it, Peer* peer, const uint8_t* data, size_t size
) noexcept nogil:
    cdef size_t used = 0
    cdef uint8_t* room = NULL
    if peer.ended:
        return
    if peer_room(it, peer, &room) and room == data:
        intake_read(&peer.session.intake, size)
        # Whole or not: the next call looks at it.
        used = _take(it, peer, NULL, 0)
        return
    used = _take(it, peer, data, size)
    if used < size and not peer.ended:
        peer.held = body_new(&it.pool, size - used)
        if peer.held == NULL:
            peer_end(it, peer, b"there is no memory for what it sent")
            return
        memcpy(body_bytes(peer.held), data + used, size - used)
        peer.held_begin, peer.held_end = 0, size - used


cdef size_t _take(Dispatcher* it, Peer* peer, const uint8_t* data, size_t size) noexcept nogil:
    """Deal with messages in ``data`` for as long as they are admitted; how much was taken."""
    cdef size_t at = 0, used = 0
    cdef int found
    cdef Piece piece
    cdef uint64_t answered = peer.worker.answered if peer.worker != NULL else 0
    cdef int64_t since = 0
    peer.session.heard_at = it.now
    if peer.worker != NULL and peer.worker.outstanding.first != NULL:
        since = max(peer.worker.answered_at, peer.worker.outstanding.first.given_at)
    while True:
        if at == size and size:
            break
        if peer.client != NULL and not peer.session.intake.have and not admitted(it, peer):
            stall(it, peer)
            break
        found = session_next(
            &peer.session,
            &it.pool,
            &it.worker_limits if peer.worker != NULL else &it.settings.limits[peer.side],
            data + at,
            size - at,
            &used,
            &piece,
        )
        at += used
        if found == MESSAGE:
            peer.sends_large = piece.size >= LARGE
            if peer.client != NULL:
                _request(it, peer, &piece)
            else:
                _reply(it, peer, &piece)
        elif found == ARRIVED:
            _arrived(it, peer, &piece)
        elif found != NOTHING:
            _ended(it, peer, found)
        if peer.ended or found == NOTHING or not size:
            break
    if peer.session.out.size:
        _make_dirty(it, peer)
    if peer.worker != NULL and peer.worker.answered > answered:
        measure_worker(it, peer.worker, peer.worker.answered - answered, since)
    if peer.session.ttl and (not peer.due or peer.due > it.now + peer.session.ttl):
        schedule(it, peer, it.now + peer.session.ttl)
    return at


cdef void peer_sent(Dispatcher* it, Peer* peer, size_t size) noexcept nogil:
    """So many bytes of ``peer.session.out`` have gone out."""
    outgoing_sent(&it.pool, &peer.session.out, size)
    if peer.stalled == BY_ITSELF:
        unstall_itself(it, peer)
    if peer.worker != NULL and peer.worker.place < 0:
        place_worker(it, peer.worker)


cdef void peer_end(Dispatcher* it, Peer* peer, const char* reason) noexcept nogil:
    """It is to be closed: it has left (``reason`` is NULL or what the kernel said), or has to."""
    if not peer.ended:
        if reason != NULL:
            peer.session.fault = reason
        _put_in_ended(it, peer)


cdef void _put_in_ended(Dispatcher* it, Peer* peer) noexcept nogil:
    peer.ended = True
    peer.ended_next = it.ended
    it.ended = peer
    if peer.worker != NULL:
        place_worker(it, peer.worker)


cdef void _ended(Dispatcher* it, Peer* peer, int how) noexcept nogil:
    """Its session has ended by what it sent, or did not send."""
    if peer.ended:
        return
    if how == BROKE_PROTOCOL and _has_arrived(peer):
        it.counters.protocol_errors += 1
        notice(
            it.notices, it.now, BROKE, peer.side, peer.number, peer.name, peer.session.fault, 0, 0
        )
    _put_in_ended(it, peer)


cdef inline bint _has_arrived(Peer* peer) noexcept nogil:
    return peer.client != NULL or peer.worker != NULL


cdef void peer_close(Dispatcher* it, Peer* peer) noexcept nogil:
    """Forget it. What it held goes back, what it had asked for is withdrawn. It must not be in the
    lists ``dirty``, ``ready`` and ``ended`` any more."""
    cdef const char* why = peer.session.fault
    cdef int side = peer.side
    if why == NULL:
        why = _why_it_left(peer)
    if _has_arrived(peer):
        it.counters.connected[side] -= 1
        it.counters.disconnected[side] += 1
        notice(
            it.notices, it.now, DISCONNECTED, side, peer.number, peer.name, why,
            it.now - peer.opened_at, 0,
        )
    else:
        it.counters.rejected[side] += 1
        notice(it.notices, it.now, REJECTED, side, peer.number, peer.name, why, 0, 0)
    if peer.worker != NULL:
        _worker_gone(it, peer)
    if peer.client != NULL:
        _client_gone(it, peer.client)
    if peer.stalled == IN_LINE:
        leave_stalled(it, peer)
    if peer.held != NULL:
        body_drop(&it.pool, peer.held)
    peer_was_read(it, peer)
    schedule(it, peer, 0)
    session_clear(&peer.session, &it.pool)
    if peer.next != NULL:
        peer.next.previous = peer.previous
    if peer.previous != NULL:
        peer.previous.next = peer.next
    else:
        it.peers = peer.next
    it.peers_out -= 1
    free(peer)


cdef const char* _why_it_left(Peer* peer) noexcept nogil:
    if _has_arrived(peer):
        return b""
    if peer.session.stage != AWAITS_READY:
        return b"it left before its handshake was done"
    # libzmq hangs up as soon as it reads a socket type that does not fit its own.
    if peer.side == FRONTEND:
        return b"it left when it learned that it had connected to a ROUTER"
    return b"it left when it learned that it had connected to a DEALER"


cdef void _arrived(Dispatcher* it, Peer* peer, Piece* piece) noexcept nogil:
    """The handshake is done; ``piece`` has the identity that the peer gave itself."""
    if peer.side == BACKEND:
        if not _worker_new(it, peer):
            peer_end(it, peer, b"there is no memory for another worker")
            return
    elif not _client_new(it, peer, piece.data, piece.size):
        return
    it.counters.connected[peer.side] += 1
    notice(
        it.notices, it.now, CONNECTED, peer.side, peer.number, peer.name,
        type_name(peer.session.peer_type), peer.session.major, peer.session.minor,
    )
    _pulse(it, peer)


# -- timers --------------------------------------------------------------------------------------


cdef void _pulse(Dispatcher* it, Peer* peer) noexcept nogil:
    cdef int64_t due
    if peer.stalled != FLOWS:
        # It is we who do not listen.
        peer.session.heard_at = it.now
    due = session_pulse(
        &peer.session,
        &it.pool,
        &it.settings.heartbeat[peer.side],
        it.settings.handshake[peer.side],
        it.now,
    )
    schedule(it, peer, due)
    if peer.session.out.size:
        _make_dirty(it, peer)
    if peer.session.fault != NULL and not peer.ended:
        _ended(it, peer, BROKE_PROTOCOL)


cdef void dispatcher_pulse(Dispatcher* it) noexcept nogil:
    """Do what is due. The first in the heap ``due`` is what is due next."""
    cdef Peer* peer
    while it.due_count and it.due[0].due <= it.now:
        peer = it.due[0]
        schedule(it, peer, 0)
        if not peer.ended:
            _pulse(it, peer)


# -- back-pressure -------------------------------------------------------------------------------


cdef bint _serve_stalled(Dispatcher* it) noexcept nogil:
    """A turn for each client that waits for room, a few requests each; True if one was taken."""
    cdef uint32_t turns = it.stalled
    cdef uint64_t received = it.counters.received
    cdef Peer* peer
    while turns and it.stalled and has_room(it):
        turns -= 1
        peer = it.stalled_first
        leave_stalled(it, peer)
        if peer.ended:
            continue
        if peer.held != NULL:
            it.serving = True
            it.quota = TURN
            peer.held_begin += _take(
                it, peer, body_bytes(peer.held) + peer.held_begin, peer.held_end - peer.held_begin
            )
            it.serving = False
            if peer.held_begin == peer.held_end:
                body_drop(&it.pool, peer.held)
                peer.held = NULL
        if peer.stalled == FLOWS and peer.readable and not peer.ended:
            # Its turn is when it has been read; the others must not take the room until then.
            peer.invited = True
            it.invited += 1
            peer_is_ready(it, peer)
    return it.counters.received > received


# -- clients -------------------------------------------------------------------------------------


cdef bint _client_new(Dispatcher* it, Peer* peer, const uint8_t* id, size_t size) noexcept nogil:
    """Register it under its routing id, or one that is made for it; False if it has to go."""
    cdef uint8_t made[MADE_ID]
    cdef bint named = size > 0
    cdef Client* client
    cdef Client* holder = NULL
    if named:
        holder = client_with(it, id, size)
        if holder != NULL and not it.settings.handover:
            notice(
                it.notices, it.now, DUPLICATE, peer.side, peer.number, peer.name,
                holder.peer.name, holder.peer.number, 0,
            )
            session_refuse(&peer.session, &it.pool, b"its routing id is in use")
            _put_in_ended(it, peer)
            return False
    else:
        size = make_id(it, made)
        id = made
    client = <Client*> calloc(1, sizeof(Client) + size)
    if client == NULL:
        peer_end(it, peer, b"there is no memory for another client")
        return False
    it.clients_out += 1
    client.peer = peer
    client.named = named
    client.id_size = <uint8_t> size
    memcpy(client.id, id, size)
    client.hash = id_hash(id, size)
    peer.client = client
    if holder != NULL:
        peer_end(it, holder.peer, b"another client took over its routing id")
        forget_client(it, holder)
    know_client(it, client)
    return True


cdef void _client_gone(Dispatcher* it, Client* client) noexcept nogil:
    """What it had asked for and no worker has yet is withdrawn."""
    forget_client(it, client)
    client.peer = NULL
    client.requests += 1
    while client.first != NULL:
        _end(it, _unqueue(it, client.first), &it.counters.withdrawn)
    client.requests -= 1
    if not client.requests:
        it.clients_out -= 1
        free(client)


# -- requests ------------------------------------------------------------------------------------


cdef void _request(Dispatcher* it, Peer* peer, Piece* piece) noexcept nogil:
    """A client's message has come: it waits for a worker."""
    cdef Request* request = it.spare
    cdef Body* body = piece.owner
    cdef uint8_t head[LONGEST_ID + 2]
    if piece.scan.envelope > LONGEST_ENVELOPE or piece.scan.depth > DEEPEST_ENVELOPE:
        _refuse_envelope(it, peer, piece)
        return
    if request != NULL:
        it.spare = request.next
    else:
        request = <Request*> malloc(sizeof(Request))
    if body == NULL and request != NULL:
        body = body_new(&it.pool, piece.size)
        if body != NULL:
            memcpy(body_bytes(body), piece.data, piece.size)
    if request == NULL or body == NULL:
        free(request)
        if body != NULL:
            body_drop(&it.pool, body)
        peer_end(it, peer, b"there is no memory for its message")
        return
    memset(request, 0, sizeof(Request))
    it.requests_out += 1
    it.requests_made += 1
    request.number = it.requests_made
    request.client = peer.client
    request.body = body
    request.size = piece.size
    request.envelope = piece.scan.envelope
    request.received_at = it.now
    peer.client.requests += 1
    if it.serving:
        it.quota -= 1
    it.counters.received += 1
    it.counters.request_frames += piece.scan.frames + 1
    it.counters.request_bytes += piece.scan.payload + peer.client.id_size
    if it.tap != NULL and tap_is_on(it.tap):
        tap_put(
            it.tap, REQUEST, head, _id_frame(peer.client, head), body_bytes(body), request.size
        )
    _queue(it, request, False)


cdef void _refuse_envelope(Dispatcher* it, Peer* peer, Piece* piece) noexcept nogil:
    """A worker that sent it back would exceed its own limits, through no fault of its own."""
    it.counters.received += 1
    it.counters.malformed += 1
    it.counters.request_frames += piece.scan.frames + 1
    it.counters.request_bytes += piece.scan.payload + peer.client.id_size
    notice(
        it.notices, it.now, MALFORMED, FRONTEND, peer.number, peer.name,
        b"its envelope is larger than 1 MiB or has more than 10,000 frames", piece.size, 0,
    )
    if piece.owner != NULL:
        body_drop(&it.pool, piece.owner)


cdef void _queue(Dispatcher* it, Request* request, bint first) noexcept nogil:
    """Put it at the end of its line, or at its head."""
    cdef Line* line = &it.line if request.envelope else &it.odd
    cdef Client* client = request.client
    if first:
        request.previous, request.next = NULL, line.first
        request.client_previous, request.client_next = NULL, client.first
    else:
        request.previous, request.next = line.last, NULL
        request.client_previous, request.client_next = client.last, NULL
    _link(line, request)
    if request.client_next != NULL:
        request.client_next.client_previous = request
    else:
        client.last = request
    if request.client_previous != NULL:
        request.client_previous.client_next = request
    else:
        client.first = request
    client.waiting += 1
    client.waiting_bytes += request.size
    it.counters.waiting += 1
    it.counters.waiting_bytes += request.size


cdef inline void _link(Line* line, Request* request) noexcept nogil:
    """Let its neighbours, which it knows, know it."""
    if request.next != NULL:
        request.next.previous = request
    else:
        line.last = request
    if request.previous != NULL:
        request.previous.next = request
    else:
        line.first = request


cdef inline void _unlink(Line* line, Request* request) noexcept nogil:
    if request.next != NULL:
        request.next.previous = request.previous
    else:
        line.last = request.previous
    if request.previous != NULL:
        request.previous.next = request.next
    else:
        line.first = request.next


cdef Request* _unqueue(Dispatcher* it, Request* request) noexcept nogil:
    """Take it out of its line."""
    cdef Client* client = request.client
    _unlink(&it.line if request.envelope else &it.odd, request)
    if request.client_next != NULL:
        request.client_next.client_previous = request.client_previous
    else:
        client.last = request.client_previous
    if request.client_previous != NULL:
        request.client_previous.client_next = request.client_next
    else:
        client.first = request.client_next
    client.waiting -= 1
    client.waiting_bytes -= request.size
    it.counters.waiting -= 1
    it.counters.waiting_bytes -= request.size
    if client.peer != NULL and client.peer.stalled == BY_ITSELF:
        unstall_itself(it, client.peer)
    return request


cdef void _end(Dispatcher* it, Request* request, uint64_t* end) noexcept nogil:
    """It has come to one of its ends, which is counted there. It must be in no line any more."""
    cdef Client* client = request.client
    end[0] += 1
    if request.body != NULL:
        body_drop(&it.pool, request.body)
    client.requests -= 1
    if not client.requests and client.peer == NULL:
        it.clients_out -= 1
        free(client)
    it.requests_out -= 1
    if KEEPS:
        request.next = it.spare
        it.spare = request
    else:
        free(request)


# -- giving out ----------------------------------------------------------------------------------


cdef void _give_all(Dispatcher* it) noexcept nogil:
    """The oldest request to the worker with the least to do, again and again."""
    cdef Request* request
    cdef Worker* worker
    if it.odd.first != NULL and not it.loose.connected and it.strict.connected:
        _drop_malformed(it)
    while dispatcher_can_give(it):
        request, worker = it.line.first, NULL
        if request == NULL or (it.odd.first != NULL and it.odd.first.number < request.number):
            request = it.odd.first
            worker = least_of(&it.loose)
        if worker == NULL and it.line.first != NULL:
            request = it.line.first
            worker = least_of_all(it)
        if worker == NULL and it.odd.first != NULL:
            request = it.odd.first
            worker = least_of(&it.loose)
        if worker == NULL or not _give(it, worker, request):
            return
    if it.line.first != NULL or it.odd.first != NULL:
        _tell_if_bereft(it)


cdef bint dispatcher_can_give(Dispatcher* it) noexcept nogil:
    """Whether something waits, and a worker can take it."""
    if it.mode == HOLD or it.counters.in_flight_bytes >= it.settings.max_waiting_bytes:
        return False
    if it.line.first != NULL and (it.strict.able or it.loose.able):
        return True
    return it.odd.first != NULL and it.loose.able > 0


cdef void _tell_if_bereft(Dispatcher* it) noexcept nogil:
    if it.strict.connected or it.loose.connected:
        it.told_no_workers = False
    elif not it.told_no_workers:
        it.told_no_workers = True
        notice(it.notices, it.now, NO_WORKERS, BACKEND, 0, b"", b"", it.counters.waiting, 0)


cdef void _drop_malformed(Dispatcher* it) noexcept nogil:
    """A REP would discard them in silence and put the order of its answers in doubt."""
    cdef Request* request
    cdef Peer* peer
    while it.odd.first != NULL:
        request = _unqueue(it, it.odd.first)
        peer = request.client.peer
        if peer != NULL:
            notice(
                it.notices, it.now, MALFORMED, FRONTEND, peer.number, peer.name,
                b"a REP needs an empty frame before the body", request.size, 0,
            )
        _end(it, request, &it.counters.malformed)


cdef bint _give(Dispatcher* it, Worker* worker, Request* request) noexcept nogil:
    """Send it to the worker; False if there is no memory, and it still waits."""
    cdef Peer* peer = worker.peer
    cdef Client* client = request.client
    cdef uint8_t head[LONGEST_ID + 2]
    if not (
        outgoing_copy(&it.pool, &peer.session.out, head, _id_frame(client, head))
        and outgoing_share(&it.pool, &peer.session.out, request.body, 0, request.size)
    ):
        # Half a message may be on its way: this connection is of no use any more.
        peer_end(it, peer, b"there is no memory to send to it")
        return False
    _unqueue(it, request)
    request.worker = worker
    request.attempts += 1
    request.given_at = it.now
    record(&it.queueing, it.now - request.received_at)
    request.previous, request.next = worker.outstanding.last, NULL
    _link(&worker.outstanding, request)
    worker.given += 1
    it.counters.in_flight += 1
    if request.envelope:
        worker.count += 1
        worker.bytes += request.size
        it.counters.in_flight_bytes += request.size
    else:
        worker.odd += 1
    if not worker.strict:
        match_add(it, request)
        _forget_unanswered(it, worker)
    # Behind its equals also when it has no more than before.
    unplace_worker(it, worker)
    place_worker(it, worker)
    _make_dirty(it, peer)
    return True


cdef void _forget_unanswered(Dispatcher* it, Worker* worker) noexcept nogil:
    """A ROUTER or DEALER need not answer, and what it does not is not kept for ever. A request
    without an envelope is given to nobody else, so its bytes are not kept at all."""
    cdef Request* newest = worker.outstanding.last
    if not newest.envelope:
        body_drop(&it.pool, newest.body)
        newest.body = NULL
    while worker.outstanding.first != newest and (
        worker.count + worker.odd > UNANSWERED
        or worker.bytes > it.settings.max_waiting_bytes // 4
    ):
        _end(it, _take_back(it, worker.outstanding.first), &it.counters.unanswered)


cdef inline size_t _id_frame(Client* client, uint8_t* head) noexcept nogil:
    """The routing id as the first frame of a message."""
    head[0] = MORE
    head[1] = client.id_size
    memcpy(head + 2, client.id, client.id_size)
    return <size_t> 2 + client.id_size


cdef Request* _take_back(Dispatcher* it, Request* request) noexcept nogil:
    """It is not its worker's any more."""
    cdef Worker* worker = request.worker
    _unlink(&worker.outstanding, request)
    if not worker.strict:
        match_remove(it, request)
    request.worker = NULL
    if request.envelope:
        worker.count -= 1
        worker.bytes -= request.size
        it.counters.in_flight_bytes -= request.size
    else:
        worker.odd -= 1
    it.counters.in_flight -= 1
    return request


# -- workers -------------------------------------------------------------------------------------


cdef bint _worker_new(Dispatcher* it, Peer* peer) noexcept nogil:
    cdef Worker* worker = <Worker*> calloc(1, sizeof(Worker))
    if worker == NULL:
        return False
    worker.peer = peer
    worker.place = -1
    # A REP answers in order, one for one; what the others do is not known beforehand.
    worker.strict = peer.session.peer_type == REP
    worker.credit = it.settings.prefetch
    if not worker.credit:
        worker.credit = 1 if worker.strict else UNLIMITED
    peer.worker = worker
    it.told_no_workers = False
    if worker.strict:
        it.strict.connected += 1
    else:
        it.loose.connected += 1
    place_worker(it, worker)
    return True


cdef void _worker_gone(Dispatcher* it, Peer* peer) noexcept nogil:
    """What it had not answered goes to the head of the line, the oldest first."""
    cdef Worker* worker = peer.worker
    cdef Request* request
    cdef int64_t returned = 0, dead = 0
    while worker.outstanding.last != NULL:
        request = _take_back(it, worker.outstanding.last)
        if request.client.peer == NULL:
            _end(it, request, &it.counters.withdrawn)
        elif not request.envelope:
            # It may well have been one that is never answered.
            _end(it, request, &it.counters.unanswered)
        elif it.settings.max_attempts and request.attempts >= it.settings.max_attempts:
            dead += 1
            _end(it, request, &it.counters.dead)
        else:
            returned += 1
            _queue(it, request, True)
    it.counters.returned += returned
    if returned:
        notice(
            it.notices, it.now, RETURNED, BACKEND, peer.number, peer.name, b"", returned, 0
        )
    if dead:
        notice(it.notices, it.now, DEAD, BACKEND, peer.number, peer.name, b"", dead, 0)
    unplace_worker(it, worker)
    if worker.strict:
        it.strict.connected -= 1
    else:
        it.loose.connected -= 1
    free(worker)
    peer.worker = NULL


cdef bint worker_drain(Dispatcher* it, Peer* peer) noexcept nogil:
    """Give it nothing more; a notice tells when it has answered all. False: it is no worker."""
    if peer == NULL or peer.worker == NULL:
        return False
    if not peer.worker.draining:
        peer.worker.draining = True
        place_worker(it, peer.worker)
        _tell_if_drained(it, peer)
    return True


cdef void _tell_if_drained(Dispatcher* it, Peer* peer) noexcept nogil:
    if (
        peer.worker.draining
        and not peer.worker.told_drained
        and peer.worker.outstanding.first == NULL
    ):
        peer.worker.told_drained = True
        notice(it.notices, it.now, WORKER_DRAINED, BACKEND, peer.number, peer.name, b"", 0, 0)


# -- replies -------------------------------------------------------------------------------------


cdef void _reply(Dispatcher* it, Peer* peer, Piece* piece) noexcept nogil:
    """A worker's message has come: it goes to the client whose routing id is its first frame."""
    cdef Worker* worker = peer.worker
    cdef const uint8_t* id = piece.data + piece.scan.first_body
    cdef size_t id_size = piece.scan.first - piece.scan.first_body
    cdef Request* request = NULL
    cdef Client* client = NULL
    cdef const char* why
    it.counters.reply_messages += 1
    it.counters.reply_frames += piece.scan.frames
    it.counters.reply_bytes += piece.scan.payload
    if it.tap != NULL and tap_is_on(it.tap):
        tap_put(it.tap, REPLY, piece.data, 0, piece.data, piece.size)
    if not _is_within(&it.settings.limits[BACKEND], piece):
        peer.session.fault = b"a message is larger than max_message_size or max_frames allow"
        if piece.owner != NULL:
            body_drop(&it.pool, piece.owner)
        _ended(it, peer, BROKE_PROTOCOL)
        return
    if worker.strict:
        request = worker.outstanding.first
        if request == NULL or not _answers(request, piece):
            peer.session.fault = b"a REP's reply has another envelope than the request"
            if request == NULL:
                peer.session.fault = b"a REP answered although nothing was asked"
            if piece.owner != NULL:
                body_drop(&it.pool, piece.owner)
            _ended(it, peer, BROKE_PROTOCOL)
            return
    elif id_size and piece.scan.frames > 1:
        request = match_find(it, worker, id, id_size, piece)
    if request != NULL:
        _take_back(it, request)
        client = request.client
        record(&it.service, it.now - request.given_at)
    if (client == NULL or not _can_be_told(client.peer)) and piece.scan.frames > 1:
        # Another may have its routing id by now.
        client = client_with(it, id, id_size)
    if client != NULL and _can_be_told(client.peer) and _deliver(it, client.peer, piece):
        if request != NULL:
            _end(it, request, &it.counters.replied)
        else:
            it.counters.extra_replies += 1
    else:
        it.counters.dropped_replies += 1
        why = b"no client has its routing id"
        if request != NULL:
            why = b"its client has left"
        notice(
            it.notices, it.now, STRAY, BACKEND, peer.number, peer.name, why, piece.size, 0
        )
        if request != NULL:
            _end(it, request, &it.counters.withdrawn)
    if piece.owner != NULL:
        body_drop(&it.pool, piece.owner)
    worker.answered += 1
    place_worker(it, worker)
    _tell_if_drained(it, peer)


cdef inline bint _is_within(const Limits* limits, Piece* piece) noexcept nogil:
    """Whether what is the worker's own of its message, all behind the envelope, is within limits."""
    cdef size_t envelope = piece.scan.envelope or piece.scan.first
    cdef uint32_t depth = piece.scan.depth or 1
    return (
        piece.size - envelope <= limits.message_bytes and piece.scan.frames - depth <= limits.frames
    )


cdef inline bint _can_be_told(Peer* peer) noexcept nogil:
    return peer != NULL and not peer.ended and not peer.deaf


cdef bint _answers(Request* request, Piece* piece) noexcept nogil:
    """Whether a REP's message has the routing id and the envelope of the request."""
    cdef Client* client = request.client
    return (
        piece.scan.envelope > 0
        and piece.scan.first - piece.scan.first_body == client.id_size
        and memcmp(piece.data + piece.scan.first_body, client.id, client.id_size) == 0
        and same_frames(
            piece.data + piece.scan.first,
            piece.scan.envelope - piece.scan.first,
            body_bytes(request.body),
            request.envelope,
        )
    )


cdef bint _deliver(Dispatcher* it, Peer* peer, Piece* piece) noexcept nogil:
    """Send all but the routing id to the client; False if it is to be closed instead."""
    cdef size_t begin = piece.scan.first
    cdef bint sent
    if peer.session.out.size > it.settings.client_unsent:
        it.counters.slow_clients += 1
        peer_end(it, peer, b"it does not read its replies, and max_unsent was reached")
        return False
    if piece.owner != NULL:
        sent = outgoing_share(&it.pool, &peer.session.out, piece.owner, begin, piece.size)
    else:
        sent = outgoing_copy(&it.pool, &peer.session.out, piece.data + begin, piece.size - begin)
    if not sent:
        peer_end(it, peer, b"there is no memory for its reply")
    _make_dirty(it, peer)
    return sent
