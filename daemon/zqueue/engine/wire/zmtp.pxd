"""ZMTP's bytes: frames, messages, commands, greetings (RFC 23/ZMTP, 37/ZMTP 3.1). No sockets."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp
from zqueue.engine.wire.keyed_hash cimport Secret
from zqueue.engine.wire.memory cimport Body, Pool, body_bytes, body_drop, body_grown, body_new, pool_clear, pool_open

cdef enum:
    MORE = 1
    LONG = 2
    COMMAND_FLAG = 4
    LONGEST_COMMAND = 65536
    READ_DIRECTLY = 4096
    # Up to so much larger than what is in it any block may be.
    SMALLEST_BLOCK = 16
    GREETING = 64
    LONGEST_ID = 255
    LONGEST_ENVELOPE = 1 << 20
    DEEPEST_ENVELOPE = 10_000
    LONGEST_BROKER_ID = 32
    LONGEST_HEAD = 9
    # Room for a routing id as a frame, however its length is written.
    ID_FRAME = LONGEST_HEAD + LONGEST_ID

# The socket types by the numbers that ZMTP 2.0 gives them.
cdef enum SocketType:
    REQ = 3
    REP = 4
    DEALER = 5
    ROUTER = 6
    OTHER_TYPE = 255

cdef enum Found:
    NOTHING
    MESSAGE
    COMMAND
    BROKEN
    TOO_LARGE
    TOO_MANY_FRAMES
    NO_MEMORY

# What a message may have at most; of its bytes the frames' headers count as well.
cdef struct Limits:
    uint64_t message_bytes
    uint32_t frames

# How far a message has been looked at. ``at`` is where its next frame begins, ``needed`` how many
# bytes of it must be there to go on, ``envelope`` where the frame behind the delimiter begins (0:
# there was none yet) and ``depth`` how many frames come before that, ``first`` where its second frame begins.
cdef struct Scan:
    size_t at
    size_t needed
    size_t envelope
    uint32_t depth
    size_t first
    size_t first_body
    uint64_t payload
    uint32_t frames
    size_t command_begin
    size_t command_end

# The message that is being received: what came of it in earlier reads.
cdef struct Intake:
    Body* partial
    size_t have
    Scan scan

# A whole message, or a command's body. The bytes are in ``owner``, which then is the caller's, or
# are good until the next call if it is NULL.
cdef struct Piece:
    const uint8_t* data
    size_t size
    Body* owner
    Scan scan

# What a READY command says of its sender.
cdef struct Introduction:
    int socket_type
    const uint8_t* identity
    size_t identity_size
    const uint8_t* broker_id
    size_t broker_id_size

cdef inline uint64_t big_endian(const uint8_t* data, int size) noexcept nogil:
    cdef uint64_t value = 0
    cdef int place
    for place in range(size):
        value = (value << 8) | data[place]
    return value

cdef inline void put_big_endian(uint8_t* out, uint64_t value, int size) noexcept nogil:
    cdef int place
    for place in range(size):
        out[place] = <uint8_t> (value >> (8 * (size - 1 - place)))

cdef inline size_t frame_head(uint8_t* out, uint8_t flags, size_t size) noexcept nogil:
    if size < 256:
        out[0] = flags
        out[1] = <uint8_t> size
        return 2
    out[0] = flags | LONG
    put_big_endian(out + 1, size, 8)
    return 9

cdef inline bint head_at(
    const uint8_t* data, size_t size, size_t at, size_t* body, uint64_t* length
) noexcept nogil:
    """Whether the head of a frame lies at ``at`` within ``size`` bytes; where its ``body`` begins, and
    the ``length`` that it says, of which less may be there."""
    cdef size_t head
    if at >= size:
        return False
    head = LONGEST_HEAD if data[at] & LONG else 2
    if head > size - at:
        return False
    length[0] = big_endian(data + at + 1, <int> head - 1)
    body[0] = at + head
    return True

cdef inline bint frame_at(
    const uint8_t* data, size_t size, size_t at, size_t* body, uint64_t* length
) noexcept nogil:
    """Whether a whole frame lies at ``at`` within ``size`` bytes; where its ``body`` is."""
    return head_at(data, size, at, body, length) and length[0] <= size - body[0]

cdef size_t unit_size(const uint8_t* data, size_t room, bint* is_message) noexcept nogil
cdef int intake_next(
    Intake* intake,
    Pool* pool,
    const Limits* limits,
    const uint8_t* data,
    size_t size,
    size_t* used,
    Piece* piece,
) noexcept nogil
cdef size_t intake_room(Intake* intake, Pool* pool, uint8_t** room) noexcept nogil
cdef void intake_read(Intake* intake, size_t size) noexcept nogil
cdef void intake_clear(Intake* intake, Pool* pool) noexcept nogil
cdef int scan_whole(Scan* scan, const uint8_t* data, size_t size) noexcept nogil
cdef bint frames_are_same(
    const uint8_t* one, size_t one_size, const uint8_t* other, size_t other_size
) noexcept nogil

cdef inline bint same_frames(
    const uint8_t* one, size_t one_size, const uint8_t* other, size_t other_size
) noexcept nogil:
    """Whether two rows of whole frames are the same, however their lengths are written."""
    # Of nothing there need not even be a place.
    if one_size == other_size and (not one_size or memcmp(one, other, one_size) == 0):
        return True
    return frames_are_same(one, one_size, other, other_size)

cdef uint64_t hash_frames(
    const Secret* secret, uint64_t before, const uint8_t* data, size_t size
) noexcept nogil
cdef int may_be_submitted(bytes id, list frames) except -1
cdef size_t envelope_of(list frames) except? 0
cdef bytes frames_joined(list frames)
cdef tuple frames_begun(const uint8_t* data, size_t size)
cdef list frames_of(const uint8_t* data, size_t size)
cdef bint is_broker_id(const uint8_t* value, size_t size) noexcept nogil
cdef bint is_command(const uint8_t* data, size_t size, const char* name) noexcept nogil
cdef bint read_ready(const uint8_t* data, size_t size, Introduction* said) noexcept nogil
cdef int type_named(const uint8_t* name, size_t size) noexcept nogil
cdef const char* type_name(int socket_type) noexcept nogil
cdef size_t write_ready(uint8_t* out, int socket_type, const char* broker_id) noexcept nogil
cdef size_t write_error(uint8_t* out, const char* reason) noexcept nogil
cdef size_t write_ping(uint8_t* out, uint16_t ttl) noexcept nogil
cdef size_t write_pong(uint8_t* out, const uint8_t* context, size_t size) noexcept nogil
