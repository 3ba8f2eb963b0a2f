"""See zmtp.pxd. :class:`Decoder` shows the same code to Python."""

from libc.string cimport memcmp, memcpy, memset, strlen
from zqueue.engine.wire.keyed_hash cimport hash_keyed
from zqueue.engine.wire.linux cimport zq_check

cdef const char* BROKER_PROPERTY = b"X-Zqueued"


cdef int _scan_on(
    Scan* scan, const Limits* limits, const uint8_t* data, size_t size
) noexcept nogil:
    """Look at the frames from ``scan.at`` on, until the message ends, a command comes, or the bytes
    do not suffice (NOTHING, and ``scan.needed`` says how many would)."""
    cdef uint8_t flags
    cdef uint64_t length
    cdef size_t head
    while True:
        if size < scan.at + 2:
            scan.needed = scan.at + 2
            return NOTHING
        flags = data[scan.at]
        if flags & 0xF8 or (flags & COMMAND_FLAG and flags & MORE):
            return BROKEN
        if flags & LONG:
            if size < scan.at + LONGEST_HEAD:
                scan.needed = scan.at + LONGEST_HEAD
                return NOTHING
            length = big_endian(data + scan.at + 1, 8)
            head = LONGEST_HEAD
        else:
            length = data[scan.at + 1]
            head = 2
        if flags & COMMAND_FLAG:
            if length > LONGEST_COMMAND:
                return BROKEN
        elif length > limits.message_bytes or scan.at + head > limits.message_bytes - length:
            return TOO_LARGE
        scan.needed = scan.at + head + length
        if size < scan.needed:
            return NOTHING
        if flags & COMMAND_FLAG:
            scan.command_begin = scan.at + head
            scan.command_end = scan.needed
            return COMMAND
        scan.frames += 1
        if scan.frames > limits.frames:
            return TOO_MANY_FRAMES
        scan.payload += length
        if scan.frames == 1:
            scan.first_body = scan.at + head
            scan.first = scan.needed
        if not length and flags & MORE and not scan.envelope:
            scan.envelope, scan.depth = scan.needed, scan.frames
        scan.at = scan.needed
        if not flags & MORE:
            return MESSAGE


cdef int scan_whole(Scan* scan, const uint8_t* data, size_t size) noexcept nogil:
    """What is at the beginning of ``data``, whatever its size: MESSAGE, COMMAND, NOTHING for one that
    has begun, or BROKEN."""
    cdef Limits none
    none.message_bytes, none.frames = <uint64_t> 0xFFFFFFFFFFFFFFFF, <uint32_t> 0xFFFFFFFF
    memset(scan, 0, sizeof(Scan))
    return _scan_on(scan, &none, data, size)


cdef int intake_next(
    Intake* intake,
    Pool* pool,
    const Limits* limits,
    const uint8_t* data,
    size_t size,
    size_t* used,
    Piece* piece,
) noexcept nogil:
    """Take the next message or command out of ``data``; ``used`` is how much of it was taken.

    NOTHING: all of it was, and more is needed. Any of the errors: the stream is of no use any more.
    """
    cdef int found
    cdef size_t take
    cdef Body* grown
    used[0] = 0
    if not intake.have:
        if intake.partial != NULL:
            body_drop(pool, intake.partial)
            intake.partial = NULL
        memset(&intake.scan, 0, sizeof(Scan))
        found = _scan_on(&intake.scan, limits, data, size)
        if found == MESSAGE:
            piece.data, piece.size, piece.owner = data, intake.scan.at, NULL
            piece.scan = intake.scan
            used[0] = intake.scan.at
            return MESSAGE
        if found == COMMAND and not intake.scan.at:
            piece.data = data + intake.scan.command_begin
            piece.size = intake.scan.command_end - intake.scan.command_begin
            piece.owner = NULL
            used[0] = intake.scan.command_end
            return COMMAND
        if found != NOTHING and found != COMMAND:
            return found
        # Keep the message's beginning. A command in the midst of it is cut out below.
        take = size if found == NOTHING else intake.scan.at
        if not take:
            return NOTHING
        intake.partial = body_new(pool, max(take, intake.scan.needed))
        if intake.partial == NULL:
            return NO_MEMORY
        memcpy(body_bytes(intake.partial), data, take)
        intake.have = used[0] = take
    while True:
        found = _scan_on(&intake.scan, limits, body_bytes(intake.partial), intake.have)
        if found == MESSAGE:
            piece.data, piece.size, piece.owner = body_bytes(intake.partial), intake.scan.at, NULL
            piece.scan = intake.scan
            intake.have = 0
            # One that is much too large, as a command may have made it, is not kept for the message.
            if intake.partial.capacity <= piece.size + max(piece.size // 2, SMALLEST_BLOCK):
                piece.owner, intake.partial = intake.partial, NULL
            return MESSAGE
        if found == COMMAND:
            piece.data = body_bytes(intake.partial) + intake.scan.command_begin
            piece.size = intake.scan.command_end - intake.scan.command_begin
            piece.owner = NULL
            intake.have = intake.scan.needed = intake.scan.at
            return COMMAND
        if found != NOTHING:
            return found
        if used[0] == size:
            return NOTHING
        if intake.partial.capacity < intake.scan.needed:
            grown = body_grown(pool, intake.partial, intake.have, intake.scan.needed)
            if grown == NULL:
                return NO_MEMORY
            intake.partial = grown
        take = min(intake.scan.needed - intake.have, size - used[0])
        memcpy(body_bytes(intake.partial) + intake.have, data + used[0], take)
        intake.have += take
        used[0] += take


cdef size_t intake_room(Intake* intake, Pool* pool, uint8_t** room) noexcept nogil:
    """Where the rest of a large frame may be read to directly, and how much of it is missing; 0 if
    none is under way. Say with :c:func:`intake_read` how much was."""
    cdef size_t missing
    cdef Body* grown
    if intake.have == 0 or intake.scan.needed <= intake.have:
        return 0
    missing = intake.scan.needed - intake.have
    if missing < READ_DIRECTLY:
        return 0
    if intake.partial.capacity < intake.scan.needed:
        grown = body_grown(pool, intake.partial, intake.have, intake.scan.needed)
        if grown == NULL:
            return 0
        intake.partial = grown
    room[0] = body_bytes(intake.partial) + intake.have
    return missing


cdef void intake_read(Intake* intake, size_t size) noexcept nogil:
    intake.have += size
    zq_check(intake.have <= intake.partial.capacity and intake.have <= intake.scan.needed)


cdef void intake_clear(Intake* intake, Pool* pool) noexcept nogil:
    """Forget the message under way."""
    if intake.partial != NULL:
        body_drop(pool, intake.partial)
    intake.partial = NULL
    intake.have = 0


cdef bint frames_are_same(
    const uint8_t* one, size_t one_size, const uint8_t* other, size_t other_size
) noexcept nogil:
    """See :c:func:`same_frames`."""
    cdef size_t here = 0, there = 0, body_here = 0, body_there = 0
    cdef uint64_t length_here = 0, length_there = 0
    while frame_at(one, one_size, here, &body_here, &length_here) and frame_at(
        other, other_size, there, &body_there, &length_there
    ):
        if length_here != length_there or (one[here] ^ other[there]) & MORE:
            return False
        if memcmp(one + body_here, other + body_there, length_here) != 0:
            return False
        here = body_here + length_here
        there = body_there + length_there
    return here == one_size and there == other_size


cdef uint64_t hash_frames(
    const Secret* secret, uint64_t before, const uint8_t* data, size_t size
) noexcept nogil:
    """Of whole frames, behind what has the hash ``before``; the same for the same frames, however their
    lengths are written."""
    cdef size_t at = 0, body = 0
    cdef uint64_t length = 0, hash = before
    while frame_at(data, size, at, &body, &length):
        # Of how many frames they are is in it, and how long each is.
        hash = hash_keyed(secret, hash + 1, data + body, length)
        at = body + length
    return hash




# -- commands ------------------------------------------------------------------------------------


cdef bint is_command(const uint8_t* data, size_t size, const char* name) noexcept nogil:
    """Whether a command's body begins with this name."""
    cdef size_t length = strlen(name)
    return size > length and data[0] == length and memcmp(data + 1, name, length) == 0


cdef bint _same_name(const uint8_t* data, size_t size, const char* name) noexcept nogil:
    cdef size_t place
    if size != strlen(name):
        return False
    for place in range(size):
        if (data[place] | 0x20) != (<uint8_t> name[place] | 0x20):
            return False
    return True


cdef size_t unit_size(const uint8_t* data, size_t room, bint* is_message) noexcept nogil:
    """The size of the whole message, or the command, that ``data`` begins with; ``room`` if it is not
    whole there."""
    cdef size_t at = 0, size
    cdef uint8_t flags
    is_message[0] = not data[0] & COMMAND_FLAG
    while True:
        if room - at < 2:
            return room
        flags = data[at]
        if not flags & LONG:
            size, at = data[at + 1], at + 2
        else:
            if room - at < 9:
                return room
            size, at = <size_t> big_endian(data + at + 1, 8), at + 9
        if size > room - at:
            return room
        at += size
        if not flags & MORE or flags & COMMAND_FLAG:
            return at


cdef bint read_ready(const uint8_t* data, size_t size, Introduction* said) noexcept nogil:
    """Read the body of a READY command; False if it is not well-formed. Properties that mean
    nothing to us are passed over. An identity may be longer than one may be."""
    cdef size_t at = 6, name_size, value_size
    cdef const uint8_t* name
    said.socket_type = OTHER_TYPE
    said.identity = NULL
    said.identity_size = 0
    said.broker_id = data
    said.broker_id_size = 0
    while at < size:
        name_size = data[at]
        if not name_size or size - at < 1 + name_size + 4:
            return False
        name = data + at + 1
        at += 1 + name_size
        value_size = <size_t> big_endian(data + at, 4)
        at += 4
        if value_size > size - at:
            return False
        if _same_name(name, name_size, b"Socket-Type"):
            said.socket_type = type_named(data + at, value_size)
        elif _same_name(name, name_size, b"Identity"):
            said.identity, said.identity_size = data + at, value_size
        elif _same_name(name, name_size, BROKER_PROPERTY) and is_broker_id(data + at, value_size):
            said.broker_id, said.broker_id_size = data + at, value_size
        at += value_size
    return True


cdef bint is_broker_id(const uint8_t* value, size_t size) noexcept nogil:
    """Operators read it: it is letters and digits."""
    cdef size_t place
    if not 0 < size <= LONGEST_BROKER_ID:
        return False
    for place in range(size):
        if not (
            c"0" <= value[place] <= c"9" or c"A" <= value[place] <= c"Z"
            or c"a" <= value[place] <= c"z"
        ):
            return False
    return True


cdef int type_named(const uint8_t* name, size_t size) noexcept nogil:
    if size == 3 and memcmp(name, b"REQ", 3) == 0:
        return REQ
    if size == 3 and memcmp(name, b"REP", 3) == 0:
        return REP
    if size == 6 and memcmp(name, b"DEALER", 6) == 0:
        return DEALER
    if size == 6 and memcmp(name, b"ROUTER", 6) == 0:
        return ROUTER
    return OTHER_TYPE


cdef const char* type_name(int socket_type) noexcept nogil:
    if socket_type == REQ:
        return b"REQ"
    if socket_type == REP:
        return b"REP"
    if socket_type == DEALER:
        return b"DEALER"
    if socket_type == ROUTER:
        return b"ROUTER"
    return b"another type"


cdef size_t _property(uint8_t* out, const char* name, const char* value) noexcept nogil:
    cdef size_t name_size = strlen(name), value_size = strlen(value)
    out[0] = <uint8_t> name_size
    memcpy(out + 1, name, name_size)
    out += 1 + name_size
    memset(out, 0, 3)
    out[3] = <uint8_t> value_size
    memcpy(out + 4, value, value_size)
    return 1 + name_size + 4 + value_size


cdef size_t _command(uint8_t* out, const char* name, size_t size) noexcept nogil:
    """The head of a command frame whose body is the name and ``size`` bytes; short ones only."""
    cdef size_t length = strlen(name)
    out[0] = COMMAND_FLAG
    out[1] = <uint8_t> (1 + length + size)
    out[2] = <uint8_t> length
    memcpy(out + 3, name, length)
    return 3 + length


cdef size_t write_ready(uint8_t* out, int socket_type, const char* broker_id) noexcept nogil:
    """A READY command frame, with an empty Identity as libzmq sends it. At most 128 bytes.

    Another zqueued knows by ``broker_id`` that we are one; peers pass over what begins with X-."""
    cdef size_t at = _command(out, b"READY", 0)
    at += _property(out + at, b"Socket-Type", type_name(socket_type))
    at += _property(out + at, b"Identity", b"")
    if broker_id != NULL and broker_id[0]:
        at += _property(out + at, BROKER_PROPERTY, broker_id)
    out[1] = <uint8_t> (at - 2)
    return at


cdef size_t write_error(uint8_t* out, const char* reason) noexcept nogil:
    """An ERROR command frame. At most 256 bytes."""
    cdef size_t size = min(strlen(reason), <size_t> 200)
    cdef size_t at = _command(out, b"ERROR", 1 + size)
    out[at] = <uint8_t> size
    memcpy(out + at + 1, reason, size)
    return at + 1 + size


cdef size_t write_ping(uint8_t* out, uint16_t ttl) noexcept nogil:
    """A PING command frame; ``ttl`` is tenths of a second. 9 bytes."""
    cdef size_t at = _command(out, b"PING", 2)
    out[at] = <uint8_t> (ttl >> 8)
    out[at + 1] = <uint8_t> ttl
    return at + 2


cdef size_t write_pong(uint8_t* out, const uint8_t* context, size_t size) noexcept nogil:
    """A PONG command frame with the PING's context, of at most 16 bytes."""
    cdef size_t at = _command(out, b"PONG", size)
    memcpy(out + at, context, size)
    return at + size


# -- for Python ----------------------------------------------------------------------------------


class ProtocolError(Exception):
    """The bytes are no ZMTP, or more than the limits allow."""


cdef class Decoder:
    """Takes ZMTP's bytes as they come, however they are split, and gives whole messages.

    Bytes come after the greeting. ``message_bytes`` and ``frames`` are the limits of a message.
    """

    cdef Pool _pool
    cdef Intake _intake
    cdef Limits _limits

    def __cinit__(self, uint64_t message_bytes=1 << 62, uint32_t frames=1 << 30) -> None:
        memset(&self._pool, 0, sizeof(Pool))
        pool_open(&self._pool)
        memset(&self._intake, 0, sizeof(Intake))
        self._limits.message_bytes = message_bytes
        self._limits.frames = frames

    def __dealloc__(self) -> None:
        intake_clear(&self._intake, &self._pool)
        pool_clear(&self._pool)

    def feed(self, const uint8_t[::1] data not None) -> list:
        """What became whole: ``("message", [frame, …], envelope frames)``, the delimiter among
        them and 0 if there was none, or ``("command", body)``.

        Raises:
            ProtocolError: nothing more can be read from this stream.
        """
        cdef size_t at = 0, used = 0, size = data.shape[0]
        cdef Piece piece
        cdef int found
        cdef const uint8_t* start = &data[0] if size else NULL
        got = []
        while at < size:
            found = intake_next(
                &self._intake, &self._pool, &self._limits, start + at, size - at, &used, &piece
            )
            at += used
            if found == MESSAGE:
                envelope = len(frames_of(piece.data, piece.scan.envelope))
                got.append(("message", frames_of(piece.data, piece.size), envelope))
                if piece.owner != NULL:
                    body_drop(&self._pool, piece.owner)
            elif found == COMMAND:
                got.append(("command", (<char*> piece.data)[:piece.size]))
            elif found != NOTHING:
                raise ProtocolError(
                    {
                        BROKEN: "not a frame",
                        TOO_LARGE: "too large",
                        TOO_MANY_FRAMES: "too many frames",
                        NO_MEMORY: "no memory",
                    }[found]
                )
        return got

    @property
    def bodies_out(self) -> int:
        """How many blocks of memory are held."""
        return self._pool.bodies_out


cdef list frames_of(const uint8_t* data, size_t size):
    """The bodies of whole frames."""
    cdef size_t at = 0, body = 0
    cdef uint64_t length = 0
    frames = []
    while frame_at(data, size, at, &body, &length):
        frames.append((<char*> data + body)[:length])
        at = body + length
    return frames


cdef tuple frames_begun(const uint8_t* data, size_t size):
    """The sizes of frames of which the first ``size`` bytes are there, and their bodies as far as
    they are."""
    cdef size_t at = 0, body = 0
    cdef uint64_t length = 0
    sizes, bodies = [], []
    while head_at(data, size, at, &body, &length):
        sizes.append(length)
        bodies.append((<char*> data + body)[:min(length, size - body)])
        if length > size - body:
            break
        at = body + length
    return sizes, bodies


cdef bytes frames_joined(list frames):
    """The bytes of one message with these bodies."""
    cdef uint8_t head[LONGEST_HEAD]
    joined = bytearray()
    for place, frame in enumerate(frames):
        joined += (<char*> head)[:frame_head(head, MORE if place + 1 < len(frames) else 0, len(frame))]
        joined += frame
    return bytes(joined)


cdef size_t envelope_of(list frames) except? 0:
    """How many bytes of that message are its envelope, the delimiter with it; 0 if it has none."""
    if b"" not in frames[: len(frames) - 1]:
        return 0
    return sum(len(frame) + (2 if len(frame) < 256 else 9) for frame in frames[: frames.index(b"") + 1])


cdef int may_be_submitted(bytes id, list frames) except -1:
    """Refuse what no client can have sent, such as a file may have it.

    Raises:
        ValueError: why it is that.
    """
    if not 0 < len(id) <= LONGEST_ID:
        raise ValueError(f"a routing id has 1 to {LONGEST_ID} bytes, and this one has {len(id)}")
    if not frames:
        raise ValueError("a message has at least one frame")
    if b"" in frames[: len(frames) - 1] and (
        frames.index(b"") >= DEEPEST_ENVELOPE or envelope_of(frames) > LONGEST_ENVELOPE
    ):
        raise ValueError("its envelope is larger than 1 MiB or has more than 10,000 frames")
    return 0
