"""See clients.pxd."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy
from zqueue.engine.wire.admission cimport leave_stalled, unstall_itself
from zqueue.engine.wire.due cimport schedule
from zqueue.engine.wire.entities cimport BY_ITSELF, FLOWS, IN_LINE, LET_GO
from zqueue.engine.wire.memory cimport (
    SMALL_SLAB,
    Outgoing,
    Segment,
    body_bytes,
    body_drop,
    body_new,
    outgoing_append,
    outgoing_clear,
    outgoing_copy,
    outgoing_refer,
    outgoing_sent,
    outgoing_share,
    zeros_new,
)
from zqueue.engine.wire.notices cimport CLIENT_RETURNED, DUPLICATE, notice
from zqueue.engine.wire.peers cimport (
    can_be_told,
    is_gone,
    is_owed,
    is_unused,
    make_dirty,
    owe_no_more,
    peer_end,
    peer_is_ready,
)
from zqueue.engine.wire.requests cimport finish, is_req, unqueue
from zqueue.engine.wire.return_addresses cimport ReturnAddress, read_address
from zqueue.engine.wire.routing_ids cimport (
    MADE_ID,
    client_with,
    forget_client,
    id_hash,
    know_client,
    make_id,
)
from zqueue.engine.wire.session cimport session_ask, session_ready, session_refuse
from zqueue.engine.wire.slabs cimport piece_give
from zqueue.engine.wire.zmtp cimport REQ, unit_size

cdef enum:
    CLAIM_WAIT = 50_000_000
    # What one that is away takes at least, whatever is kept for it.
    ABSENCE = 1024
    # And for each message beside its bytes.
    MESSAGE_KEPT = 128
    CLAIM_PATIENCE = 2_000_000_000


cdef bint client_arrived(
    Dispatcher* it, Peer* peer, const uint8_t* id, size_t size
) noexcept nogil:
    """Register it under its routing id, or one that is made for it; False if it has to go, or waits
    for :c:func:`claim_settled`."""
    cdef uint8_t made[MADE_ID]
    cdef ReturnAddress address
    # One that looks like what workers are given in its place could not be told from that.
    cdef bint named = size > 0 and not read_address(id, size, &address)
    cdef Client* holder
    if not named:
        return _is_known_as(it, peer, made, make_id(it, made), False)
    if size == MADE_ID and not id[0]:
        # It would get what is for another, once that has left.
        session_refuse(&peer.session, &it.pool, b"its routing id is of those that zqueued makes")
        peer_end(it, peer, NULL)
        return False
    holder = client_with(it, id, size)
    if holder != NULL and holder.peer != NULL and not _may_take_over(it, holder.peer):
        _claim(it, peer, holder, id, size)
        return False
    return _takes_over(it, peer, holder, id, size)


cdef bint _takes_over(
    Dispatcher* it, Peer* peer, Client* holder, const uint8_t* id, size_t size
) noexcept nogil:
    """It has this routing id from now on; ``holder`` had it, and may be NULL. False if it has to go."""
    if holder != NULL and holder.peer != NULL:
        client_leaves(it, holder.peer, b"another client took over its routing id")
        holder = client_with(it, id, size)
    if holder != NULL:
        if peer.session.peer_type != REQ:
            return _returned(it, peer, holder)
        # It cannot tell a reply to what it asked before from one to what it asks now.
        absence_over(it, holder.absence)
    return _is_known_as(it, peer, id, size, True)


cdef bint _is_known_as(
    Dispatcher* it, Peer* peer, const uint8_t* id, size_t size, bint named
) noexcept nogil:
    cdef Client* client = client_new(it, id, size)
    if client == NULL or not session_ready(&peer.session, &it.pool):
        if client != NULL:
            it.clients_out -= 1
            piece_give(client, SMALL_SLAB)
        peer_end(it, peer, b"there is no memory for another client")
        return False
    client.named = named
    _begins(client, peer)
    know_client(it, client)
    return True


cdef inline void _begins(Client* client, Peer* peer) noexcept nogil:
    client.peer = peer
    peer.client = client
    # The handshake, as far as it has not gone out yet.
    peer.ahead = peer.session.out.size


# -- routing ids that are in use -----------------------------------------------------------------


cdef void _claim(
    Dispatcher* it, Peer* peer, Client* holder, const uint8_t* id, size_t size
) noexcept nogil:
    """Let it wait until it is known whether ``holder`` lives. It may be the same client, whose
    connection before this one has ended, and that is not known yet."""
    peer.claim = client_new(it, id, size)
    if peer.claim == NULL:
        peer_end(it, peer, b"there is no memory for another client")
        return
    peer.claims_since = it.now
    if session_ask(&holder.peer.session, &it.pool, it.now):
        make_dirty(it, holder.peer)
    schedule(it, peer, it.now + CLAIM_LOOKS)


cdef bint claim_settled(Dispatcher* it, Peer* peer) noexcept nogil:
    """See what has become of the client that has the routing id; True if it is this one's now."""
    cdef Client* claim = peer.claim
    cdef Client* holder = client_with(it, claim.id, claim.id_size)
    cdef int64_t waited = it.now - peer.claims_since
    cdef bint arrived
    if holder != NULL and holder.peer != NULL and not _may_take_over(it, holder.peer):
        if waited < CLAIM_WAIT or (
            waited < CLAIM_PATIENCE and _seems_unreachable(holder.peer, peer.claims_since)
        ):
            schedule(it, peer, it.now + max(waited // 4, <int64_t> CLAIM_LOOKS))
            return False
        if not _seems_unreachable(holder.peer, peer.claims_since):
            _refuse(it, peer, holder.peer)
            return False
        client_leaves(it, holder.peer, b"it cannot be reached, and a client came with its routing id")
        holder = client_with(it, claim.id, claim.id_size)
    arrived = _takes_over(it, peer, holder, claim.id, claim.id_size)
    claim_over(it, peer)
    return arrived


cdef void claim_over(Dispatcher* it, Peer* peer) noexcept nogil:
    it.clients_out -= 1
    piece_give(peer.claim, SMALL_SLAB)
    peer.claim = NULL


cdef inline bint _seems_unreachable(Peer* holder, int64_t since) noexcept nogil:
    """It was sent something, and its kernel has not acknowledged it; without a kernel between there is
    no such thing. One that only does not answer is there."""
    return (
        holder.session.edge > 0
        and holder.session.unsent > 0
        and holder.session.heard_at <= since
        and holder.session.moved_at <= since
    )


cdef Peer* claim_holder(Dispatcher* it, Peer* peer) noexcept nogil:
    """Whose routing id it has; NULL if it is nobody's any more."""
    cdef Client* holder = client_with(it, peer.claim.id, peer.claim.id_size)
    return holder.peer if holder != NULL else NULL


cdef void _refuse(Dispatcher* it, Peer* peer, Peer* holder) noexcept nogil:
    """Without a word: after an ERROR libzmq never connects again, and so it keeps what it has to ask
    for its next connection."""
    notice(
        it.notices, it.now, DUPLICATE, peer.side, peer.number, peer.name, holder.name, holder.number,
        0,
    )
    peer_end(it, peer, b"its routing id is in use")


cdef inline bint _may_take_over(Dispatcher* it, Peer* holder) noexcept nogil:
    """Whether another may have this one's routing id. Its connection may have ended though not all of
    what it sent was read."""
    return it.settings.handover or holder.ended or holder.hung_up


cdef Client* client_new(Dispatcher* it, const uint8_t* id, size_t size) noexcept nogil:
    """One that nobody is yet; NULL if there is no memory."""
    cdef Client* client = <Client*> zeros_new(&it.pool, sizeof(Client) + size)
    if client != NULL:
        it.clients_out += 1
        client.id_size = <uint8_t> size
        memcpy(client.id, id, size)
        client.hash = id_hash(it, id, size)
    return client


cdef Client* client_absent(Dispatcher* it, const uint8_t* id, size_t size) noexcept nogil:
    """One that nobody is, in whose name something is asked; NULL if there is no memory. Whoever
    asked for it gives it its request, with whose end it ends."""
    cdef Client* client = client_new(it, id, size)
    if client != NULL:
        client.lasting = True
        # One that gives itself a routing id cannot begin it as those begin that are made.
        client.named = size != MADE_ID or id[0] != 0
    return client


cdef bint _returned(Dispatcher* it, Peer* peer, Client* client) noexcept nogil:
    """It is back within ``client_grace``: it gets what came meanwhile, in order."""
    cdef Absence* absence = client.absence
    if not session_ready(&peer.session, &it.pool):
        peer_end(it, peer, b"there is no memory for another client")
        return False
    notice(
        it.notices, it.now, CLIENT_RETURNED, peer.side, peer.number, peer.name, b"",
        absence.replies, it.now - absence.since,
    )
    _begins(client, peer)
    client.unsent = absence.replies
    outgoing_append(&peer.session.out, &absence.kept)
    _forget_absence(it, absence)
    make_dirty(it, peer)
    return True


cdef void client_leaves(Dispatcher* it, Peer* peer, const char* reason) noexcept nogil:
    """Nothing is sent to this connection any more, but what came on it before is read, as there is
    room for it; ``reason`` is NULL if it has ended at the client's side.

    If nobody is to hear of it, what waits is withdrawn now, and so is the rest when it is read.
    """
    cdef Client* client = peer.client
    cdef Peer** place = &client.leaving
    if peer.leaving:
        return
    peer.leaving = peer.deaf = peer.readable = True
    peer.farewell = reason
    while place[0] != NULL:
        place = &place[0].leaving_next
    place[0] = peer
    _is_away(it, client, peer)
    if peer.stalled == BY_ITSELF:
        unstall_itself(it, peer)
    if peer.held == NULL and not peer.ended:
        # Held back or not: it ends if it has sent nothing that is not read.
        peer_is_ready(it, peer)


cdef void client_left(Dispatcher* it, Peer* peer) noexcept nogil:
    """Its connection is closed."""
    cdef Client* client = peer.client
    cdef Peer** place = &client.leaving
    if not peer.leaving:
        _is_away(it, client, peer)
        return
    while place[0] != peer:
        place = &place[0].leaving_next
    place[0] = peer.leaving_next
    if is_unused(client):
        it.clients_out -= 1
        piece_give(client, SMALL_SLAB)
        return
    # What came on the next one may be read now.
    if client.leaving != NULL and client.leaving.stalled == BY_ITSELF:
        unstall_itself(it, client.leaving)
    if client.peer != NULL and client.peer.stalled == BY_ITSELF:
        unstall_itself(it, client.peer)
    owe_no_more(it, client)


cdef void _is_away(Dispatcher* it, Client* client, Peer* peer) noexcept nogil:
    """It may come back, or what it asked for is done all the same, or what no worker has yet is
    withdrawn."""
    cdef Outgoing whole = Outgoing(NULL, NULL, 0)
    cdef uint64_t unsent = client.unsent
    client.peer = NULL
    client.unsent = 0
    if _may_return(it, client, peer) and client_with(it, client.id, client.id_size) == client:
        _take_whole(it, peer, &whole)
        if whole.first != NULL or client.requests or client.leaving != NULL:
            if absence_begins(it, client):
                if whole.first != NULL:
                    client.absence.replies, unsent = unsent, 0
                client.absence.weight += whole.size
                it.absent_bytes += whole.size
                outgoing_append(&client.absence.kept, &whole)
    outgoing_clear(&it.pool, &whole)
    outgoing_clear(&it.pool, &peer.session.out)
    peer.ahead = peer.begun = 0
    _count_unclaimed(it, unsent)
    if client.absence == NULL:
        _gone_for_good(it, client)


cdef inline bint _may_return(Dispatcher* it, Client* client, Peer* peer) noexcept nogil:
    """Whether what is for it reaches it on its next connection, too."""
    return it.settings.client_grace > 0 and client.named and peer.session.peer_type != REQ


cdef void _take_whole(Dispatcher* it, Peer* peer, Outgoing* whole) noexcept nogil:
    """The messages that are not written, or not to their end: of that one a peer makes nothing. None if
    there is no memory."""
    cdef Outgoing* out = &peer.session.out
    cdef Segment* segment
    cdef uint8_t* data
    cdef size_t at, begin, start
    cdef bint is_message = False
    if peer.boundary_lost:
        return
    if peer.begun:
        # Its beginning is still there, before what is left of it.
        out.first.begin -= peer.begun
        out.size += peer.begun
    else:
        outgoing_sent(&it.pool, out, peer.ahead)
    segment = out.first
    while segment != NULL:
        data = body_bytes(segment.body)
        at = begin = segment.begin
        while at < segment.end:
            start = at
            at += unit_size(data + at, segment.end - at, &is_message)
            if is_message and at < segment.end:
                continue
            # A command is nothing to another connection.
            if is_message:
                start = at
            if start > begin and not _keep(it, whole, segment.body, begin, start):
                outgoing_clear(&it.pool, whole)
                return
            begin = at
        segment = segment.next


cdef bint _keep(
    Dispatcher* it, Outgoing* kept, Body* body, size_t begin, size_t end
) noexcept nogil:
    """Append a range of ``body``; a block is not held for less than half of it. False if there is no
    memory."""
    if 2 * (end - begin) >= body.capacity:
        return outgoing_refer(&it.pool, kept, body, begin, end)
    return _keep_copy(it, kept, body_bytes(body) + begin, end - begin)


cdef bint _keep_copy(
    Dispatcher* it, Outgoing* kept, const uint8_t* data, size_t size
) noexcept nogil:
    cdef Body* body = body_new(&it.pool, size)
    cdef bint taken
    if body == NULL:
        return False
    memcpy(body_bytes(body), data, size)
    taken = outgoing_refer(&it.pool, kept, body, 0, size)
    body_drop(&it.pool, body)
    return taken


cdef void client_is_sent_part(Dispatcher* it, Peer* peer, size_t size) noexcept nogil:
    """As :c:func:`client_is_sent`, whatever is counted."""
    cdef Client* client = peer.client
    cdef uint64_t whole
    if size == peer.session.out.size:
        peer.ahead = peer.begun = 0
        peer.boundary_lost = False
        whole = client.unsent
    else:
        whole = min(_whole_with(peer, size), client.unsent)
    client.unsent -= whole
    it.counters.kept -= whole
    it.counters.replied += whole


cdef uint64_t _whole_with(Peer* peer, size_t size) noexcept nogil:
    """How many messages are written whole when so many bytes more are; and where the next one begins.
    Each lies in one block."""
    cdef Segment* segment = peer.session.out.first
    cdef size_t at = peer.ahead, start = 0, before = 0, here
    cdef uint64_t whole = 0
    cdef bint is_message = False
    if peer.boundary_lost:
        return 0
    if size < at:
        peer.ahead -= size
        if peer.begun:
            peer.begun += size
        return 0
    if peer.begun:
        whole = peer.begun_message
    while at < size:
        here = segment.end - segment.begin
        if at - before >= here:
            before += here
            segment = segment.next
            continue
        start = at
        at += unit_size(
            body_bytes(segment.body) + segment.begin + (at - before), here - (at - before), &is_message
        )
        if at <= size:
            whole += is_message
    peer.ahead = at - size
    peer.begun = size - start if at > size else 0
    peer.begun_message = is_message
    return whole


cdef inline void _count_unclaimed(Dispatcher* it, uint64_t replies) noexcept nogil:
    """They were kept for one that does not come for them."""
    it.counters.kept -= replies
    it.counters.unclaimed += replies
    it.counters.dropped_replies += replies


cdef bint absence_begins(Dispatcher* it, Client* client) noexcept nogil:
    """False if there is no memory for it."""
    cdef Absence* absence = <Absence*> zeros_new(&it.pool, sizeof(Absence))
    if absence == NULL:
        return False
    client.absence = absence
    absence.client, absence.since = client, it.now
    absence.weight = ABSENCE
    it.absent_bytes += ABSENCE
    absence.previous = it.absent_last
    if it.absent_last != NULL:
        it.absent_last.next = absence
    else:
        it.absent_first = absence
    it.absent_last = absence
    return True


cdef void absence_over(Dispatcher* it, Absence* absence) noexcept nogil:
    """It did not come back in time, or not as one that can use what was kept for it."""
    cdef Client* client = absence.client
    _count_unclaimed(it, absence.replies)
    outgoing_clear(&it.pool, &absence.kept)
    _forget_absence(it, absence)
    _gone_for_good(it, client)


cdef void absences_tidied(Dispatcher* it) noexcept nogil:
    """Forget those to whom nothing is owed, and the oldest ones if all take more memory than what waits
    may; of one alone there is ``max_unsent`` at most."""
    while it.unowed != NULL:
        if is_owed(it.unowed.client):
            _leave_unowed(it, it.unowed)
        else:
            absence_over(it, it.unowed)
    while it.absent_bytes > it.settings.max_waiting_bytes and it.absent_first != it.absent_last:
        absence_over(it, it.absent_first)


cdef void _leave_unowed(Dispatcher* it, Absence* absence) noexcept nogil:
    cdef Absence** place = &it.unowed
    while place[0] != absence:
        place = &place[0].unowed_next
    place[0] = absence.unowed_next
    absence.unowed = False


cdef void _forget_absence(Dispatcher* it, Absence* absence) noexcept nogil:
    if absence.unowed:
        _leave_unowed(it, absence)
    it.absent_bytes -= absence.weight
    absence.client.absence = NULL
    if absence.next != NULL:
        absence.next.previous = absence.previous
    else:
        it.absent_last = absence.previous
    if absence.previous != NULL:
        absence.previous.next = absence.next
    else:
        it.absent_first = absence.next
    piece_give(absence, SMALL_SLAB)


cdef void _gone_for_good(Dispatcher* it, Client* client) noexcept nogil:
    forget_client(it, client)
    client.lasting = it.settings.keep_for_gone
    client.requests += 1
    while client.line.first != NULL and not client.lasting:
        finish(it, unqueue(it, client.line.first), &it.counters.withdrawn)
    client.requests -= 1
    if is_unused(client):
        it.clients_out -= 1
        piece_give(client, SMALL_SLAB)
    elif is_gone(client):
        _let_go(it, client.leaving)


cdef void _let_go(Dispatcher* it, Peer* peer) noexcept nogil:
    """This connection and those after it are read whether there is room or not."""
    while peer != NULL:
        if peer.stalled in (IN_LINE, BY_ITSELF) and not peer.ended:
            if peer.stalled == IN_LINE:
                leave_stalled(it, peer)
            peer.stalled = LET_GO
            peer.stalled_previous = NULL
            peer.stalled_next = it.let_go
            if it.let_go != NULL:
                it.let_go.stalled_previous = peer
            it.let_go = peer
        peer = peer.leaving_next


cdef Client* client_instead(Dispatcher* it, Client* client) noexcept nogil:
    """As with a ROUTER, whoever has its routing id by now; but no REQ, which would take it for the
    reply to what it asks itself."""
    cdef Client* other = client_with(it, client.id, client.id_size)
    return NULL if other != NULL and is_req(other) else other


cdef int client_send(
    Dispatcher* it, Client* client, const uint8_t* data, size_t size, Body* owner, size_t begin
) noexcept nogil:
    """Send it a message, or keep it for it while it is away; REFUSED_BY_CLIENT if neither can be.

    The message is ``size`` bytes at ``data``, or from ``begin`` on in ``owner`` if that is given.
    """
    cdef Outgoing* out
    cdef bint taken
    if client.absence != NULL:
        out = &client.absence.kept
        if out.size > it.settings.client_unsent:
            return REFUSED_BY_CLIENT
    elif can_be_told(client.peer):
        out = &client.peer.session.out
        if out.size > it.settings.client_unsent:
            it.counters.slow_clients += 1
            peer_end(it, client.peer, b"it does not read its replies, and max_unsent was reached")
            return REFUSED_BY_CLIENT
    else:
        return REFUSED_BY_CLIENT
    if client.absence != NULL and owner != NULL:
        taken = _keep(it, out, owner, begin, begin + size)
    elif client.absence != NULL:
        taken = _keep_copy(it, out, data, size)
    elif owner != NULL:
        taken = outgoing_share(&it.pool, out, owner, begin, begin + size)
    else:
        taken = outgoing_copy(&it.pool, out, data, size)
    if client.absence != NULL:
        if taken:
            client.absence.weight += size + MESSAGE_KEPT
            it.absent_bytes += size + MESSAGE_KEPT
        return KEPT if taken else REFUSED_BY_CLIENT
    make_dirty(it, client.peer)
    if taken:
        client.answered += 1
        return KEPT if _may_return(it, client, client.peer) else SENT
    peer_end(it, client.peer, b"there is no memory for its reply")
    return REFUSED_BY_CLIENT
