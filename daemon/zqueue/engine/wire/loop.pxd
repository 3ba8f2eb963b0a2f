"""The loop of one queue, and what it works with."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from zqueue.engine.wire.entities cimport Counters, Death, Dispatcher, Peer
from zqueue.engine.wire.hosts cimport Hosts
from zqueue.engine.wire.linux cimport pthread_mutex_t
from zqueue.engine.wire.listing cimport Listing
from zqueue.engine.wire.notices cimport NAME, Notices
from zqueue.engine.wire.tap cimport Tap

cdef enum:
    BUFFER = 65536
    SECOND = 1_000_000_000
    ORDERS = 64
    KEPT_FREE = 8
    LONGEST_ADDRESS = 128

# What a descriptor in the epoll is; in the low bits of the pointer that comes with it.
cdef enum Tag:
    IS_PEER
    IS_LISTENER
    IS_CONNECTOR
    IS_OWN
    TAGS = 3

cdef enum Order:
    SET_MODE
    DRAIN_WORKER
    END_PEER
    CLOSE
    NUDGE
    LIST_CONNECTIONS
    LIST_REQUESTS
    SUBMIT
    FREEZE

cdef struct Ordered:
    int what
    int64_t argument

# A request that is asked again; its bytes lie just behind this.
cdef struct Submission:
    size_t size
    size_t envelope
    uint64_t frames
    uint64_t payload
    uint8_t id_size
    uint8_t id[255]

cdef struct Listening:
    int fd
    int side
    bint shut
    bint told
    char name[NAME]

cdef struct Connecting:
    int fd
    int side
    bint up
    int64_t pause
    int64_t next_at
    uint32_t address_size
    uint8_t address[LONGEST_ADDRESS]
    char name[NAME]

# How the sockets of one side are made. 0 leaves it to the kernel; ``keepalive`` of -1 is off.
cdef struct SocketOptions:
    int keepalive
    int keepalive_interval
    int keepalive_count
    int send_buffer
    int receive_buffer
    int64_t reconnect
    int64_t reconnect_max

cdef struct Loop:
    Dispatcher dispatcher
    Notices notices
    Tap tap
    SocketOptions options[2]
    int epoll
    int wake
    int timer
    int told
    uint64_t told_upto
    uint64_t tapped_upto
    Listening* listening
    int listening_count
    Connecting* connecting
    int connecting_count
    uint8_t* buffer
    int64_t armed
    int64_t gates_at
    # When the first of ``connecting`` is to be tried, at the earliest.
    int64_t connect_at
    int64_t write_at
    # When the next part of what is not needed is given back to the kernel.
    int64_t unmap_at
    # From which number of a descriptor on a side gets no more connections; how many there may be, in
    # all and from one address to each side, 0 for any number, and how many of all are a side's own.
    int descriptors[2]
    uint64_t connections
    uint64_t reserved[2]
    uint64_t connections_an_address
    Hosts hosts[2]
    bint frozen
    bint closing
    int64_t close_by
    pthread_mutex_t lock
    Ordered orders[ORDERS]
    int ordered
    uint64_t orders_given
    uint64_t orders_done
    uint64_t mode_done
    uint64_t version
    Counters published
    Listing listing
    # For the other thread to read, and what it has read.
    Death* deaths
    Death* deaths_read
    const char* failure

cdef int64_t loop_clock() noexcept nogil
cdef bint loop_take_up(Loop* loop, Peer* peer, int fd) noexcept nogil
cdef void loop_run(Loop* loop) noexcept nogil
cdef void loop_deaths_read(Loop* loop, Death* first) noexcept nogil
cdef void loop_free_deaths(Loop* loop) noexcept nogil
cdef void loop_close(Loop* loop) noexcept nogil
