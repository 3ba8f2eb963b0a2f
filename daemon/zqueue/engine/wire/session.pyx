"""See session.pxd."""

from libc.string cimport memcmp, memcpy, memset
from zqueue.engine.wire.instants cimport earlier
from zqueue.engine.wire.memory cimport outgoing_clear, outgoing_copy
from zqueue.engine.wire.zmtp cimport (
    BROKEN,
    COMMAND,
    DEALER,
    LONGEST_ID,
    MESSAGE,
    NO_MEMORY,
    NOTHING,
    OTHER_TYPE,
    REP,
    REQ,
    ROUTER,
    TOO_LARGE,
    TOO_MANY_FRAMES,
    Introduction,
    intake_clear,
    intake_next,
    is_command,
    read_ready,
    write_error,
    write_ping,
    write_pong,
    write_ready,
)

cdef enum:
    SIGNATURE = 10
    WITH_VERSION = 11
    GREETING_2_0 = 12
    MECHANISM = 12
    MECHANISM_SIZE = 20
    LONGEST_CONTEXT = 16
    TENTH = 100_000_000
    PONGS_UNSENT = 16 << 10
    READ_AT_LEAST = 4096
    LOOK_AGAIN = 10_000_000


cdef const char* _TOO_LONG = b"its routing id is longer than 255 bytes"


cdef bint session_open(Session* session, Pool* pool, int own_type, int64_t now) noexcept nogil:
    """Begin to greet. Only as much as a peer of any version understands goes out at once; False if
    there is no memory."""
    cdef uint8_t greeting[WITH_VERSION]
    memset(session, 0, sizeof(Session))
    session.own_type = own_type
    session.peer_type = OTHER_TYPE
    session.opened_at = session.heard_at = now
    memset(greeting, 0, WITH_VERSION)
    greeting[0] = 0xFF
    greeting[8] = 1
    greeting[9] = 0x7F
    greeting[10] = 3
    return outgoing_copy(pool, &session.out, greeting, WITH_VERSION)


cdef int _end(Session* session, int how, const char* fault) noexcept nogil:
    session.stage = ENDED
    session.fault = fault
    return how


cdef void session_refuse(Session* session, Pool* pool, const char* reason) noexcept nogil:
    """End it, and tell the peer why where its version has a word for that."""
    cdef uint8_t frame[256]
    if session.major >= 3 and session.greeted == GREETING:
        session_ready(session, pool)
        outgoing_copy(pool, &session.out, frame, write_error(frame, reason))
    _end(session, REFUSED, reason)


cdef void session_clear(Session* session, Pool* pool) noexcept nogil:
    intake_clear(&session.intake, pool)
    outgoing_clear(pool, &session.out)


cdef int session_next(
    Session* session,
    Pool* pool,
    const Limits* limits,
    const uint8_t* data,
    size_t size,
    size_t* used,
    Piece* piece,
) noexcept nogil:
    """Take what comes next out of ``data``; ``used`` is how much of it was taken.

    MESSAGE: ``piece`` has it. ARRIVED: the handshake is done, ``piece`` has the peer's identity.
    REFUSED, BROKE_PROTOCOL: the session has ended, ``session.fault`` says why. NOTHING: all of it
    was taken.
    """
    cdef int found
    cdef size_t taken = 0
    # Of whoever is not in yet, an identity of ZMTP 2.0 is the longest message.
    cdef Limits of_handshake
    of_handshake.message_bytes, of_handshake.frames = GREETING + LONGEST_ID, 1
    # With no bytes at all, look at what was read to where it belongs.
    cdef bint look = size == 0
    used[0] = 0
    while used[0] < size or look:
        look = False
        if session.stage == AWAITS_GREETING:
            found = _take_greeting(session, pool, data + used[0], size - used[0], &taken)
            used[0] += taken
            if found != NOTHING:
                return found
            continue
        found = intake_next(
            &session.intake,
            pool,
            limits if session.stage == TALKS else &of_handshake,
            data + used[0],
            size - used[0],
            &taken,
            piece,
        )
        used[0] += taken
        if session.stage != TALKS and found in (TOO_LARGE, TOO_MANY_FRAMES):
            return _end(session, REFUSED, b"it sent a message before its handshake was done")
        if found == MESSAGE:
            if session.stage == TALKS:
                return MESSAGE
            found = _identity_2_0(session, piece)
        elif found == COMMAND:
            found = _command(session, pool, piece)
        elif found == TOO_LARGE:
            return _end(session, BROKE_PROTOCOL, b"a message is larger than max_message_size")
        elif found == BROKEN:
            return _end(session, BROKE_PROTOCOL, b"what it sent is not a ZMTP frame")
        elif found == NO_MEMORY:
            return _end(session, BROKE_PROTOCOL, b"there is no memory for its message")
        elif found != NOTHING:
            return _end(session, BROKE_PROTOCOL, b"a message has more frames than max_frames")
        if found != NOTHING:
            return found
    return NOTHING


# -- greeting ------------------------------------------------------------------------------------


cdef int _take_greeting(
    Session* session, Pool* pool, const uint8_t* data, size_t size, size_t* used
) noexcept nogil:
    cdef int whole = WITH_VERSION
    cdef size_t take
    if session.greeted >= WITH_VERSION:
        whole = GREETING if session.major >= 3 else GREETING_2_0
    take = min(<size_t> (whole - session.greeted), size)
    memcpy(session.greeting + session.greeted, data, take)
    session.greeted += <int> take
    used[0] = take
    if session.greeting[0] != 0xFF:
        return _end(session, REFUSED, _what_it_speaks(session.greeting, session.greeted))
    if session.greeted >= SIGNATURE and not session.greeting[9] & 1:
        return _end(session, REFUSED, b"it speaks ZMTP 1.0, or is no ZeroMQ peer")
    if session.greeted < whole:
        return NOTHING
    if whole == WITH_VERSION:
        return _answer_version(session, pool)
    if whole == GREETING_2_0:
        session.peer_type = session.greeting[11]
        session.stage = AWAITS_READY
        return _check_type(session, pool)
    session.minor = session.greeting[11]
    return _check_mechanism(session, pool)


cdef const char* _what_it_speaks(const uint8_t* data, int size) noexcept nogil:
    if data[0] == 0x16:
        return b"it speaks TLS"
    if data[0] in (0x47, 0x50, 0x48, 0x4F, 0x44):  # GET, POST or PUT, HEAD, OPTIONS, DELETE
        return b"it speaks HTTP"
    return b"it speaks ZMTP 1.0, or is no ZeroMQ peer"


cdef int _answer_version(Session* session, Pool* pool) noexcept nogil:
    """Go on as the peer's version wants it."""
    cdef uint8_t rest[GREETING - WITH_VERSION]
    cdef size_t size = sizeof(rest)
    session.major = session.greeting[10]
    if session.major == 0:
        return _end(session, REFUSED, b"it speaks ZMTP 1.0")
    memset(rest, 0, sizeof(rest))
    if session.major < 3:
        # ZMTP 2.0: the socket type, then an empty identity as a frame.
        session.major = 2
        rest[0] = <uint8_t> session.own_type
        size = 3
    else:
        session.major = 3
        rest[0] = 1
        memcpy(rest + 1, b"NULL", 4)
    if not outgoing_copy(pool, &session.out, rest, size):
        return _end(session, REFUSED, b"there is no memory for another connection")
    return NOTHING


cdef int _check_mechanism(Session* session, Pool* pool) noexcept nogil:
    cdef const uint8_t* mechanism = session.greeting + MECHANISM
    cdef uint8_t null[MECHANISM_SIZE]
    memset(null, 0, MECHANISM_SIZE)
    memcpy(null, b"NULL", 4)
    if memcmp(mechanism, null, MECHANISM_SIZE) != 0:
        if memcmp(mechanism, b"CURVE", 5) == 0:
            return _end(session, REFUSED, b"it wants the mechanism CURVE; here it is NULL")
        if memcmp(mechanism, b"PLAIN", 5) == 0:
            return _end(session, REFUSED, b"it wants the mechanism PLAIN; here it is NULL")
        return _end(session, REFUSED, b"it wants a mechanism that is unknown here")
    session.stage = AWAITS_READY
    session.owes_ready = True
    # With that a libzmq client writes what it has to ask, and it would be lost if the client is
    # refused: it is written once its own READY is judged.
    if session.own_type != ROUTER and not session_ready(session, pool):
        return _end(session, REFUSED, b"there is no memory for another connection")
    return NOTHING


cdef bint session_ready(Session* session, Pool* pool) noexcept nogil:
    """Say READY, if that is owed; False if there is no memory for it."""
    cdef uint8_t ready[128]
    cdef size_t size
    if session.owes_ready:
        size = write_ready(ready, session.own_type, session.broker_id)
        if not outgoing_copy(pool, &session.out, ready, size):
            return False
        session.owes_ready = False
    return True


# -- handshake -----------------------------------------------------------------------------------


cdef bint greeting_fits(const Session* session) noexcept nogil:
    """Whether stage, version and socket type go with what has come of the greeting, as far as it was
    read by another process."""
    cdef int whole = GREETING if session.major == 3 else GREETING_2_0
    if session.stage == TALKS:
        return session.major >= 2 and session.greeted == whole and _type_fits(session)
    if session.stage == AWAITS_READY:
        return session.major >= 2 and session.greeted == whole and (
            _type_fits(session) if session.major == 2 else session.peer_type == OTHER_TYPE
        )
    if session.stage != AWAITS_GREETING or session.peer_type != OTHER_TYPE:
        return False
    if session.greeted < WITH_VERSION:
        return session.major == 0
    return session.greeted < whole and session.major == (3 if session.greeting[10] >= 3 else 2)


cdef inline bint _type_fits(const Session* session) noexcept nogil:
    if session.own_type == ROUTER:
        return session.peer_type in (REQ, DEALER, ROUTER)
    return session.peer_type in (REP, DEALER, ROUTER)


cdef int _check_type(Session* session, Pool* pool) noexcept nogil:
    if _type_fits(session):
        return NOTHING
    if session.own_type == ROUTER:
        if session.peer_type == REP:
            session_refuse(session, pool, b"it is a REP: a worker that connects to the clients' port")
        else:
            session_refuse(session, pool, b"a client is a REQ, a DEALER or a ROUTER")
    else:
        if session.peer_type == REQ:
            session_refuse(session, pool, b"it is a REQ: a client that connects to the workers' port")
        else:
            session_refuse(session, pool, b"a worker is a REP, a DEALER or a ROUTER")
    return REFUSED


cdef int _identity_2_0(Session* session, Piece* piece) noexcept nogil:
    """The first frame of a ZMTP 2.0 peer is its identity."""
    if session.major >= 3 or piece.scan.frames != 1 or piece.scan.payload > LONGEST_ID:
        if piece.owner != NULL:
            session.intake.partial = piece.owner
            session.intake.have = 0
        if session.major < 3 and piece.scan.frames == 1:
            return _end(session, REFUSED, _TOO_LONG)
        return _end(session, REFUSED, b"it sent a message before its handshake was done")
    piece.data += piece.scan.first_body
    piece.size = piece.scan.payload
    if piece.owner != NULL:
        # Short, and read before the next call: it may stay where it is.
        session.intake.partial = piece.owner
        session.intake.have = 0
        piece.owner = NULL
    session.stage = TALKS
    return ARRIVED


cdef int _command(Session* session, Pool* pool, Piece* piece) noexcept nogil:
    if session.major < 3:
        return _end(session, BROKE_PROTOCOL, b"ZMTP 2.0 has no commands")
    if session.stage == AWAITS_READY:
        return _introduction(session, pool, piece)
    if is_command(piece.data, piece.size, b"PING"):
        return _pong(session, pool, piece)
    if is_command(piece.data, piece.size, b"PONG"):
        session.awaits_pong = False
    elif is_command(piece.data, piece.size, b"ERROR"):
        return _end(session, BROKE_PROTOCOL, b"it sent ERROR")
    elif not piece.size or piece.size < 1 + <size_t> piece.data[0]:
        return _end(session, BROKE_PROTOCOL, b"it sent a command without a name")
    return NOTHING


cdef int _introduction(Session* session, Pool* pool, Piece* piece) noexcept nogil:
    cdef Introduction said
    cdef int found
    if is_command(piece.data, piece.size, b"ERROR"):
        return _end(session, REFUSED, b"it refused us with ERROR")
    if not (piece.size >= 6 and piece.data[0] == 5 and memcmp(piece.data + 1, b"READY", 5) == 0):
        return _end(session, REFUSED, b"its handshake began with something else than READY")
    if not read_ready(piece.data, piece.size, &said):
        session_refuse(session, pool, b"its READY is malformed")
        return REFUSED
    if said.identity_size > LONGEST_ID:
        session_refuse(session, pool, _TOO_LONG)
        return REFUSED
    session.peer_type = said.socket_type
    memcpy(session.peer_broker_id, said.broker_id, said.broker_id_size)
    found = _check_type(session, pool)
    if found != NOTHING:
        return found
    session.stage = TALKS
    piece.data, piece.size = said.identity, said.identity_size
    return ARRIVED


# -- heartbeats ----------------------------------------------------------------------------------


cdef int _pong(Session* session, Pool* pool, Piece* piece) noexcept nogil:
    cdef uint8_t frame[64]
    cdef size_t size = piece.size
    if size < 7 or size - 7 > LONGEST_CONTEXT:
        return _end(session, BROKE_PROTOCOL, b"its PING is malformed")
    session.ttl = ((<int64_t> piece.data[5] << 8) | piece.data[6]) * TENTH
    # To one that does not read, what it has yet to read is sign of life enough.
    if session.out.size < PONGS_UNSENT:
        outgoing_copy(pool, &session.out, frame, write_pong(frame, piece.data + 7, size - 7))
    return NOTHING


cdef int64_t session_pulse(
    Session* session, Pool* pool, const Heartbeat* heartbeat, int64_t handshake, int64_t now
) noexcept nogil:
    """Do what is due at ``now``: ping, or end the session if it has been silent for too long.

    Returns when to call again, 0 if there is nothing to wait for. ``handshake`` is how long a
    handshake may take, 0 for ever. Bytes that the peer takes are signs of life as well as those that
    it sends: a PING may stand behind much that it has to read first. Before a call tell
    :c:func:`session_moved` of them if :c:func:`session_wants_look` says so. A peer of ZMTP 3.0 is not pinged: it would break a session of
    libzmq before 4.3 (libzmq#3060).
    """
    cdef uint8_t frame[16]
    cdef int64_t due = 0, next_ping, silent_since
    if session.stage == ENDED:
        return 0
    if session.stage != TALKS:
        if handshake and now >= session.opened_at + handshake:
            _end(session, REFUSED, b"its handshake took longer than handshake_timeout")
            return 0
        if session.stage == AWAITS_READY and session.owes_ready:
            # One that waits for ours, as none is known to, need not wait for ever.
            due = session.heard_at + READY_WAIT
            if now >= due:
                if not session_ready(session, pool):
                    _end(session, REFUSED, b"there is no memory for another connection")
                due = 0
        return earlier(due, session.opened_at + handshake if handshake else 0)
    if session.ttl:
        due = max(session.heard_at, session.moved_at) + session.ttl
        if now >= due:
            _end(session, BROKE_PROTOCOL, b"it was silent for longer than the TTL of its PING")
            return 0
        if now < due - session.ttl // 2:
            # To see then what moves from there on.
            due -= session.ttl // 2
    if heartbeat.interval and session.major == 3 and session.minor >= 1:
        if session.awaits_pong and session.heard_at > session.pinged_at:
            session.awaits_pong = False
        silent_since = max(session.pinged_at, session.moved_at)
        if heartbeat.timeout and session.awaits_pong and now >= silent_since + heartbeat.timeout:
            _end(session, BROKE_PROTOCOL, b"its heartbeat stopped")
            return 0
        if not session.awaits_pong and now >= _last_ping(session) + heartbeat.interval:
            if not outgoing_copy(pool, &session.out, frame, write_ping(frame, 0)):
                # Not to be tried again at once, and for ever.
                _end(session, BROKE_PROTOCOL, b"there is no memory to ping it")
                return 0
            session.pinged_at = silent_since = now
            session.awaits_pong = True
            session.behind = session.unsent > 0
        if session.awaits_pong and heartbeat.timeout:
            due = earlier(due, silent_since + heartbeat.timeout)
            if session.behind:
                due = earlier(due, now + max(heartbeat.timeout // 4, <int64_t> LOOK_AGAIN))
        # While a PONG is awaited no other PING goes; look again an interval later.
        next_ping = _last_ping(session) + heartbeat.interval
        due = earlier(due, next_ping if next_ping > now else now + heartbeat.interval)
    return due


cdef bint session_wants_look(
    Session* session, const Heartbeat* heartbeat, int64_t now
) noexcept nogil:
    """Whether :c:func:`session_pulse` is to be told of what moved: it pings, or might end the session."""
    if session.stage != TALKS:
        return False
    if session.ttl and now >= max(session.heard_at, session.moved_at) + session.ttl // 2:
        return True
    return heartbeat.interval and (
        (session.awaits_pong and session.heard_at <= session.pinged_at)
        or now >= _last_ping(session) + heartbeat.interval
    )


cdef void session_moved(
    Session* session, int64_t delivered, uint64_t unsent, uint64_t edge, int64_t now
) noexcept nogil:
    """What the kernel says of what was sent.

    The peer's has taken ``delivered`` bytes, a number of which only the difference counts; ``unsent``
    bytes are on their way yet. ``edge`` is up to where the peer has room for more, 0 if that is not
    known: it moves when the peer's process reads.
    """
    if session.looked_at and (
        (delivered > session.delivered and (unsent or session.unsent))
        or edge >= session.edge + READ_AT_LEAST
    ):
        session.moved_at = now
    session.looked_at = True
    session.delivered, session.unsent, session.edge = delivered, unsent, edge
    if unsent and session.awaits_pong:
        session.behind = True


cdef bint session_ask(Session* session, Pool* pool, int64_t now) noexcept nogil:
    """Ask it for a sign of life; False if it cannot be asked, or has much to read before that."""
    cdef uint8_t frame[16]
    if session.major < 3 or session.minor < 1 or session.out.size >= PONGS_UNSENT:
        return False
    if not outgoing_copy(pool, &session.out, frame, write_ping(frame, 0)):
        return False
    if not session.awaits_pong:
        session.pinged_at = now
        session.awaits_pong = True
        session.behind = session.out.size > 0
    return True


cdef inline int64_t _last_ping(Session* session) noexcept nogil:
    return max(session.pinged_at, session.opened_at)
