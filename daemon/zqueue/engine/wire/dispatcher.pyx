"""See dispatcher.pxd; for Python the same is ``exchange.Exchange``."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strcmp, strncpy
from zqueue.engine.wire.admission cimport (
    admitted,
    has_room,
    leave_stalled,
    stall,
    unstall_itself,
)
from zqueue.engine.wire.clients cimport (
    absence_over,
    absences_tidied,
    claim_holder,
    claim_over,
    claim_settled,
    client_arrived,
    client_is_sent,
    client_leaves,
    client_left,
)
from zqueue.engine.wire.deaths cimport deaths_free, deaths_take
from zqueue.engine.wire.due cimport due_has_room, schedule, schedule_by
from zqueue.engine.wire.entities cimport (
    BACKEND,
    BY_ITSELF,
    DRAIN,
    DEEPEST_ENVELOPE,
    FLOWS,
    FRONTEND,
    HOLD,
    IN_LINE,
    LET_GO,
    LONGEST_ENVELOPE,
    NAME,
    Client,
    Counters,
    Line,
    Neighbours,
    Request,
    Worker,
)
from zqueue.engine.wire.expiry cimport expire, expire_one_way, next_expiry
from zqueue.engine.wire.giving cimport give_all
from zqueue.engine.wire.instants cimport earlier
from zqueue.engine.wire.linux cimport zq_check
from zqueue.engine.wire.listing cimport remember_closed
from zqueue.engine.wire.memory cimport (
    SMALL_SLAB,
    body_bytes,
    body_drop,
    body_new,
    outgoing_clear,
    outgoing_sent,
    pool_balance,
    pool_clear,
    pool_mapped,
    pool_open,
    zeros_new,
)
from zqueue.engine.wire.notices cimport BROKE, BROKER_LOOP, CONNECTED, DISCONNECTED, REJECTED, notice
from zqueue.engine.wire.peers cimport has_arrived, leave_dirty, make_dirty, peer_end, peer_is_ready
from zqueue.engine.wire.receiving cimport request_came
from zqueue.engine.wire.redelivery cimport worker_lost, worker_overdue, worker_overdue_at
from zqueue.engine.wire.replies cimport reply_came
from zqueue.engine.wire.requests cimport finish, oldest_waiting, unqueue
from zqueue.engine.wire.session cimport (
    ARRIVED,
    AWAITS_READY,
    READY_WAIT,
    BROKE_PROTOCOL,
    TALKS,
    session_clear,
    session_next,
    session_moved,
    session_open,
    session_pulse,
    session_wants_look,
)
from zqueue.engine.wire.slabs cimport piece_give
from zqueue.engine.wire.workers cimport (
    UNANSWERED,
    UNLIMITED,
    are_timed,
    finish_one_way,
    measure_worker,
    place_worker,
    ring_free,
    ring_reaches,
    ring_of_kind,
    tell_if_drained,
    unplace_worker,
)
from zqueue.engine.wire.zmtp cimport (
    DEALER,
    ID_FRAME,
    LONGEST_HEAD,
    LONGEST_ID,
    MESSAGE,
    NOTHING,
    REP,
    ROUTER,
    Piece,
    intake_read,
    intake_room,
    type_name,
)

cdef enum:
    TURN = 16
    LARGE = 65536
    # Anybody may say that it is one.
    BROKERS_LOOKED_AT = 64

# More than any message can have, and far from where 64 bits end.
cdef uint64_t ENDLESS = <uint64_t> 1 << 62


# -- opening and closing -------------------------------------------------------------------------


cdef bint dispatcher_open(
    Dispatcher* it, const Settings* settings, Notices* notices, uint32_t first_id, Secret secret
) noexcept nogil:
    """Make an empty one; False if there is no memory."""
    memset(it, 0, sizeof(Dispatcher))
    pool_open(&it.pool)
    it.settings = settings[0]
    it.worker_limits = settings.limits[BACKEND]
    # A worker may write each length of the envelope in the long way.
    it.worker_limits.message_bytes = min(it.worker_limits.message_bytes, ENDLESS) + (
        ID_FRAME + LONGEST_ENVELOPE + DEEPEST_ENVELOPE * LONGEST_HEAD
    )
    if it.worker_limits.frames < <uint32_t> 1 << 31:
        it.worker_limits.frames += DEEPEST_ENVELOPE + 1
    it.request_size = sizeof(Request)
    if not settings.max_waiting_time:
        it.request_size -= sizeof(Neighbours)
        if not settings.deadline:
            it.request_size -= sizeof(Neighbours)
    it.notices = notices
    it.id_counter = it.salt = first_id
    it.secret = secret
    it.client_slots = it.match_slots = 64
    it.clients = <Client**> calloc(it.client_slots, sizeof(Client*))
    it.matches = <Line*> calloc(it.match_slots, sizeof(Line))
    # A worker that comes has nothing to do yet: that it can be placed then needs no memory any more.
    return (
        it.clients != NULL
        and it.matches != NULL
        and ring_reaches(&it.strict, 0)
        and ring_reaches(&it.loose, 0)
        and ring_reaches(&it.brokers, 0)
    )


cdef void dispatcher_close(Dispatcher* it) noexcept nogil:
    """Give back all memory. Every peer must have been closed."""
    cdef Request* request
    while it.absent_first != NULL:
        absence_over(it, it.absent_first)
    while (request := oldest_waiting(it)) != NULL:
        finish(it, unqueue(it, request), &it.counters.dead)
    deaths_free(it, deaths_take(it))
    free(it.clients)
    free(it.matches)
    free(it.lost)
    free(it.lost_slots)
    ring_free(&it.strict)
    ring_free(&it.loose)
    ring_free(&it.brokers)
    free(it.due)
    free(it.closed)
    pool_clear(&it.pool)


cdef void dispatcher_mode(Dispatcher* it, int mode) noexcept nogil:
    """FORWARD: requests pass. HOLD: none goes to a worker. DRAIN: none is taken from a client."""
    it.mode = mode
    it.told_no_workers = False


cdef void dispatcher_turn(Dispatcher* it) noexcept nogil:
    """Give out what waits, and let clients go on that were held back, as far as there is room."""
    while True:
        if it.unowed != NULL or it.absent_bytes > it.settings.max_waiting_bytes:
            absences_tidied(it)
        if it.let_go != NULL:
            _take_what_is_let_go(it)
        if it.one_way.first != NULL:
            expire_one_way(it)
        if it.counters.waiting and it.mode != HOLD:
            give_all(it)
        if not (it.stalled and has_room(it) and _serve_stalled(it)):
            break
    if not it.counters.waiting:
        it.told_congested = False
    if pool_mapped(&it.pool) != it.pool.balanced:
        pool_balance(&it.pool)
    _check(it)


cdef void _check(Dispatcher* it) noexcept nogil:
    """What must hold between two calls, as far as it can be told at once."""
    cdef Counters* counted = &it.counters
    zq_check(
        counted.received == counted.waiting + counted.in_flight + counted.kept + counted.replied
        + counted.unclaimed + counted.withdrawn + counted.dead + counted.rejected
        + counted.malformed + counted.unanswered
    )
    zq_check(counted.waiting or not counted.waiting_bytes)
    zq_check(counted.in_flight or not counted.in_flight_bytes)
    zq_check(it.strict.connected >= it.strict.able >= 0 and it.loose.connected >= it.loose.able >= 0)
    zq_check(it.pool.bodies_out >= 0 and it.pool.segments_out >= 0)
    zq_check(it.requests_out >= <int64_t> (counted.waiting + counted.in_flight))
    zq_check((it.stalled == 0) == (it.stalled_first == NULL))


# -- peers ---------------------------------------------------------------------------------------


cdef Peer* peer_open(Dispatcher* it, int side, const char* name) noexcept nogil:
    """A new connection; NULL if there is no memory for it."""
    cdef Peer* peer = _peer_new(it, side)
    if peer == NULL:
        return NULL
    it.peers_made += 1
    it.counters.accepted[side] += 1
    peer.number = it.peers_made
    strncpy(peer.name, name, NAME - 1)
    peer.next = it.peers
    if it.peers != NULL:
        it.peers.previous = peer
    it.peers = peer
    peer_pulse(it, peer)
    make_dirty(it, peer)
    return peer


cdef Peer* _peer_new(Dispatcher* it, int side) noexcept nogil:
    cdef Peer* peer = NULL
    if due_has_room(it):
        peer = <Peer*> zeros_new(&it.pool, sizeof(Peer))
    if peer == NULL:
        return NULL
    if not session_open(&peer.session, &it.pool, ROUTER if side == FRONTEND else DEALER, it.now):
        piece_give(peer, SMALL_SLAB)
        return NULL
    it.peers_out += 1
    it.peers_of[side] += 1
    peer.session.broker_id = it.settings.broker_id
    peer.side = side
    peer.fd = peer.connector = -1
    peer.due_place = -1
    peer.unread = -1
    peer.opened_at = it.now
    return peer


cdef Peer* peer_again(Dispatcher* it, int side, Peer* last) noexcept nogil:
    """A connection of a process before this one, behind ``last`` in the list: it has no number, and
    nothing to say. NULL if there is no memory for it."""
    cdef Peer* peer = _peer_new(it, side)
    if peer == NULL:
        return NULL
    outgoing_clear(&it.pool, &peer.session.out)
    peer.previous = last
    if last != NULL:
        last.next = peer
    else:
        it.peers = peer
    return peer


cdef size_t peer_room(Dispatcher* it, Peer* peer, uint8_t** room) noexcept nogil:
    """Where the rest of a large message may be read to; tell :c:func:`peer_take` of what came
    there by passing that very address."""
    if peer.session.stage != TALKS:
        return 0
    return intake_room(&peer.session.intake, &it.pool, room)


cdef bint peer_reads(Dispatcher* it, Peer* peer) noexcept nogil:
    """Whether it may be read from now; if not, it will be in ``ready`` when it may."""
    if peer.ended or peer.stalled != FLOWS or peer.claim != NULL:
        return False
    if peer.client == NULL or peer.session.intake.have or peer.invited or admitted(it, peer):
        return True
    stall(it, peer)
    return False


cdef void peer_hung_up(Dispatcher* it, Peer* peer) noexcept nogil:
    """It has ended at the peer's side, and may not be read from now. What a client sent before, the
    kernel still has."""
    if peer.client == NULL:
        peer_end(it, peer, NULL)
    elif not peer.ended:
        client_leaves(it, peer, NULL)


cdef void peer_deaf(Dispatcher* it, Peer* peer) noexcept nogil:
    """Nothing can be sent to it any more. What it sent before is still read."""
    peer.hung_up = peer.deaf = peer.readable = True
    if peer.client == NULL:
        outgoing_clear(&it.pool, &peer.session.out)
    elif not peer.ended:
        client_leaves(it, peer, NULL)
    if peer.worker != NULL:
        place_worker(it, peer.worker)
    if peer.stalled == FLOWS:
        peer_is_ready(it, peer)


cdef bint peer_was_read(Dispatcher* it, Peer* peer) noexcept nogil:
    """The room that was kept for it in its turn is free again; True if there was any."""
    cdef bint invited = peer.invited
    peer.invited = False
    it.invited -= invited
    return invited


cdef void peer_take(Dispatcher* it, Peer* peer, const uint8_t* data, size_t size) noexcept nogil:
    """Bytes came. What cannot be taken now is kept, and taken when there is room."""
    peer.received_bytes += size
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
        since = max(peer.worker.answered_at, peer.worker.outstanding.first.since)
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
                request_came(it, peer, &piece)
            elif not reply_came(it, peer, &piece):
                _ended(it, peer, BROKE_PROTOCOL)
        elif found == ARRIVED:
            _arrived(it, peer, &piece)
        elif found != NOTHING:
            _ended(it, peer, found)
        if peer.ended or found == NOTHING or not size or peer.claim != NULL:
            break
    if peer.session.stage == AWAITS_READY and peer.session.owes_ready:
        schedule_by(it, peer, it.now + READY_WAIT)
    if peer.session.out.size:
        make_dirty(it, peer)
    # What it answers though it has nothing tells of another connection.
    if since and peer.worker.answered > answered:
        measure_worker(it, peer.worker, peer.worker.answered - answered, since)
    if peer.session.ttl:
        schedule_by(it, peer, it.now + peer.session.ttl // 2)
    return at


cdef void peer_sent(Dispatcher* it, Peer* peer, size_t size) noexcept nogil:
    """So many bytes of ``peer.session.out`` have gone out."""
    peer.sent_bytes += size
    if peer.client != NULL:
        client_is_sent(it, peer, size)
    outgoing_sent(&it.pool, &peer.session.out, size)
    if peer.stalled == BY_ITSELF:
        unstall_itself(it, peer)
    if peer.worker == NULL:
        return
    if peer.worker.one_way and (it.mode == DRAIN or peer.worker.draining):
        finish_one_way(it, peer.worker)
        tell_if_drained(it, peer.worker)
    if peer.worker.place < 0:
        place_worker(it, peer.worker)


cdef void _ended(Dispatcher* it, Peer* peer, int how) noexcept nogil:
    """Its session has ended by what it sent, or did not send."""
    if peer.ended:
        return
    if how == BROKE_PROTOCOL and has_arrived(peer):
        it.counters.protocol_errors += 1
        notice(
            it.notices, it.now, BROKE, peer.side, peer.number, peer.name, peer.session.fault, 0, 0
        )
    peer_end(it, peer, NULL)


cdef void peer_close(Dispatcher* it, Peer* peer) noexcept nogil:
    """Forget it. What it held goes back, what it had asked for is withdrawn. It must not be in the
    lists ``ready`` and ``ended`` any more."""
    cdef const char* why = peer.session.fault
    cdef int side = peer.side
    if why == NULL:
        why = peer.farewell
    if why == NULL:
        why = _why_it_left(peer)
    remember_closed(it, peer, why)
    if has_arrived(peer):
        it.counters.connected[side] -= 1
        it.counters.disconnected[side] += 1
        notice(
            it.notices, it.now, DISCONNECTED, side, peer.number, peer.name, why,
            it.now - peer.opened_at, 0,
        )
    else:
        it.counters.turned_away[side] += 1
        notice(it.notices, it.now, REJECTED, side, peer.number, peer.name, why, 0, 0)
    _forget_broker(it, peer)
    if peer.worker != NULL:
        _worker_gone(it, peer)
    if peer.client != NULL:
        client_left(it, peer)
    if peer.stalled == IN_LINE:
        leave_stalled(it, peer)
    elif peer.stalled == LET_GO:
        _leave_let_go(it, peer)
    if peer.dirty:
        # It was told of a death when a worker was closed, and that was too much for it to be kept.
        leave_dirty(it, peer)
    if peer.held != NULL:
        body_drop(&it.pool, peer.held)
    if peer.claim != NULL:
        claim_over(it, peer)
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
    it.peers_of[side] -= 1
    piece_give(peer, SMALL_SLAB)


cdef const char* _why_it_left(Peer* peer) noexcept nogil:
    if has_arrived(peer):
        return b""
    if not peer.session.greeted:
        return b"it closed the connection without sending a byte"
    if peer.session.stage != AWAITS_READY:
        return b"it left before its handshake was done"
    # It may be libzmq, which hangs up when it reads a socket type that does not fit its own.
    return b"it left in the middle of its handshake"


cdef void _arrived(Dispatcher* it, Peer* peer, Piece* piece) noexcept nogil:
    """The handshake is done; ``piece`` has the identity that the peer gave itself."""
    if peer.side == BACKEND:
        if not worker_new(it, peer):
            peer_end(it, peer, b"there is no memory for another worker")
            return
        peer.worker.id_size = <uint8_t> min(piece.size, <size_t> LONGEST_ID)
        if peer.worker.id_size:
            memcpy(peer.worker.id, piece.data, peer.worker.id_size)
    elif not client_arrived(it, peer, piece.data, piece.size):
        return
    _is_there(it, peer)


cdef void _is_there(Dispatcher* it, Peer* peer) noexcept nogil:
    if peer.client != NULL:
        peer.client.broker = peer.session.peer_broker_id[0] != 0
    _tell_of_loop(it, peer)
    know_broker(it, peer)
    it.counters.connected[peer.side] += 1
    notice(
        it.notices, it.now, CONNECTED, peer.side, peer.number, peer.name,
        type_name(peer.session.peer_type), peer.session.major, peer.session.minor,
    )
    peer_pulse(it, peer)


# -- other brokers -------------------------------------------------------------------------------


cdef void _tell_of_loop(Dispatcher* it, Peer* peer) noexcept nogil:
    """Tell if it is another zqueued, or this one, that is client and worker at once."""
    cdef Peer* other = it.brokers_connected
    cdef int looked = 0
    if not peer.session.peer_broker_id[0]:
        return
    while other != NULL and looked < BROKERS_LOOKED_AT:
        if other.side != peer.side and strcmp(
            other.session.peer_broker_id, peer.session.peer_broker_id
        ) == 0:
            notice(
                it.notices, it.now, BROKER_LOOP, peer.side, peer.number, peer.name, other.name,
                other.number, strcmp(peer.session.peer_broker_id, it.settings.broker_id) == 0,
            )
            return
        other = other.broker_next
        looked += 1


cdef void know_broker(Dispatcher* it, Peer* peer) noexcept nogil:
    """Have it among the other brokers, if it is one."""
    if not peer.session.peer_broker_id[0]:
        return
    peer.broker_next = it.brokers_connected
    if it.brokers_connected != NULL:
        it.brokers_connected.broker_previous = peer
    it.brokers_connected = peer


cdef void _forget_broker(Dispatcher* it, Peer* peer) noexcept nogil:
    if peer.broker_next != NULL:
        peer.broker_next.broker_previous = peer.broker_previous
    if peer.broker_previous != NULL:
        peer.broker_previous.broker_next = peer.broker_next
    elif it.brokers_connected == peer:
        it.brokers_connected = peer.broker_next


# -- timers --------------------------------------------------------------------------------------


cdef void peer_pulse(Dispatcher* it, Peer* peer) noexcept nogil:
    """Do what is due for it, and see when to look again."""
    cdef int64_t due
    if peer.claim != NULL:
        if claim_settled(it, peer):
            _is_there(it, peer)
            _take_held(it, peer)
            if peer.readable:
                peer_is_ready(it, peer)
        return
    if peer.leaving:
        # It has nothing more to say, and hears nothing.
        schedule(it, peer, 0)
        return
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
    if peer.worker != NULL and not peer.ended:
        due = _watch_worker(it, peer.worker, due)
    schedule(it, peer, due)
    if peer.session.out.size:
        make_dirty(it, peer)
    if peer.session.fault != NULL and not peer.ended:
        _ended(it, peer, BROKE_PROTOCOL)


cdef int64_t _watch_worker(Dispatcher* it, Worker* worker, int64_t due) noexcept nogil:
    """Set it aside if it is overdue; when to look at it again, ``due`` at the latest."""
    cdef int64_t overdue_at = worker_overdue_at(it, worker)
    if overdue_at and overdue_at <= it.now:
        worker_overdue(it, worker)
        overdue_at = worker_overdue_at(it, worker)
    return earlier(due, overdue_at)


cdef int64_t dispatcher_due(Dispatcher* it) noexcept nogil:
    """When :c:func:`dispatcher_pulse` has something to do, 0 for never."""
    return earlier(it.due[0].due if it.due_count else 0, next_expiry(it))


cdef Peer* dispatcher_pulse(Dispatcher* it) noexcept nogil:
    """Do what is due. If that depends on whether what was sent to a connection moves: that one, and it
    is to be called again after :c:func:`peer_moved`. NULL when all is done."""
    cdef Peer* peer
    cdef Peer* in_doubt
    while it.due_count and it.due[0].due <= it.now:
        peer = it.due[0]
        in_doubt = _in_doubt(it, peer)
        if in_doubt != NULL and not peer.looked_at:
            peer.looked_at = True
            return in_doubt
        peer.looked_at = False
        schedule(it, peer, 0)
        if not peer.ended:
            peer_pulse(it, peer)
    expire(it)
    return NULL


cdef inline Peer* _in_doubt(Dispatcher* it, Peer* peer) noexcept nogil:
    """The connection of which it counts whether it still takes what is sent to it, or NULL."""
    if peer.ended or peer.leaving:
        return NULL
    if peer.claim != NULL:
        return claim_holder(it, peer)
    if session_wants_look(&peer.session, &it.settings.heartbeat[peer.side], it.now):
        return peer
    return NULL


cdef void peer_moved(
    Dispatcher* it, Peer* peer, int64_t delivered, uint64_t unsent, uint64_t edge
) noexcept nogil:
    """What the kernel says of what was sent to it, of which ``unsent`` bytes have not got there; see
    :c:func:`session_moved`."""
    session_moved(&peer.session, delivered, unsent + peer.session.out.size, edge, it.now)


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
        it.serving, it.quota = True, TURN
        _take_held(it, peer)
        it.serving = False
        if peer.stalled == FLOWS and peer.readable and not peer.ended:
            # Its turn is when it has been read; the others must not take the room until then.
            peer.invited = True
            it.invited += 1
            peer_is_ready(it, peer)
    return it.counters.received > received


cdef void _take_held(Dispatcher* it, Peer* peer) noexcept nogil:
    if peer.held == NULL:
        return
    peer.held_begin += _take(
        it, peer, body_bytes(peer.held) + peer.held_begin, peer.held_end - peer.held_begin
    )
    if peer.held_begin == peer.held_end:
        body_drop(&it.pool, peer.held)
        peer.held = NULL


cdef void _take_what_is_let_go(Dispatcher* it) noexcept nogil:
    """It is withdrawn as it comes, and needs no room."""
    cdef Peer* peer
    while it.let_go != NULL:
        peer = it.let_go
        _leave_let_go(it, peer)
        if not peer.ended:
            _take_held(it, peer)
            peer_is_ready(it, peer)


cdef void _leave_let_go(Dispatcher* it, Peer* peer) noexcept nogil:
    peer.stalled = FLOWS
    if peer.stalled_next != NULL:
        peer.stalled_next.stalled_previous = peer.stalled_previous
    if peer.stalled_previous != NULL:
        peer.stalled_previous.stalled_next = peer.stalled_next
    else:
        it.let_go = peer.stalled_next


# -- workers -------------------------------------------------------------------------------------


cdef bint worker_new(Dispatcher* it, Peer* peer) noexcept nogil:
    """It is a worker; False if there is no memory for another."""
    cdef Worker* worker = <Worker*> zeros_new(&it.pool, sizeof(Worker))
    if worker == NULL:
        return False
    worker.peer = peer
    worker.place = -1
    # A REP answers in order, one for one; what the others do is not known beforehand.
    worker.strict = peer.session.peer_type == REP
    worker.credit = it.settings.prefetch
    if not worker.credit:
        worker.credit = 1 if worker.strict else UNLIMITED
    if not worker.strict and are_timed(it):
        # None is forgotten before its time.
        worker.credit = min(worker.credit, <uint32_t> UNANSWERED)
    peer.worker = worker
    it.told_no_workers = False
    ring_of_kind(it, worker).connected += 1
    worker_is_of_kind(it, peer)
    return True


cdef void worker_is_of_kind(Dispatcher* it, Peer* peer) noexcept nogil:
    """It is known whether it is a broker: put it among its like."""
    cdef Worker* worker = peer.worker
    unplace_worker(it, worker)
    ring_of_kind(it, worker).connected -= 1
    worker.broker = not worker.strict and peer.session.peer_broker_id[0] != 0
    ring_of_kind(it, worker).connected += 1
    place_worker(it, worker)


cdef void _worker_gone(Dispatcher* it, Peer* peer) noexcept nogil:
    cdef Worker* worker = peer.worker
    worker_lost(it, worker)
    unplace_worker(it, worker)
    ring_of_kind(it, worker).connected -= 1
    piece_give(worker, SMALL_SLAB)
    peer.worker = NULL
