# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The thread of one queue on the wire engine: sockets, one epoll, no GIL.

A turn reads what is there, lets the dispatcher give out what it can, and writes once a connection.
Descriptors are watched edge-triggered: one that may still be read is in the dispatcher's list
``ready``, one that is held back is in none and costs nothing.
"""

from libc.errno cimport EADDRNOTAVAIL, EAGAIN, EINPROGRESS, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset, strerror, strlen, strncpy
from posix.fcntl cimport F_DUPFD_CLOEXEC, fcntl
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, itimerspec, timespec
from posix.unistd cimport close, read, write

from zqueue.engine.wire.dispatcher cimport (
    BACKEND,
    BUCKETS,
    DRAIN,
    FLOWS,
    FORWARD,
    FRONTEND,
    HOLD,
    Counters,
    Dispatcher,
    Histogram,
    Peer,
    Settings,
    dispatcher_can_give,
    dispatcher_close,
    dispatcher_mode,
    dispatcher_open,
    dispatcher_pulse,
    dispatcher_turn,
    peer_close,
    peer_end,
    peer_is_ready,
    peer_numbered,
    peer_open,
    peer_reads,
    peer_room,
    peer_sent,
    peer_take,
    worker_drain,
)
from zqueue.engine.wire.memory cimport Segment, body_bytes, outgoing_clear
from zqueue.engine.wire.notices cimport (
    ACCEPT_FAILED,
    CONNECT_RETRIED,
    GATE_CLOSED,
    GATE_OPENED,
    NAME,
    REJECTED,
    Notice,
    Notices,
    next_notice,
    notice,
)

from zqueue.engine.wire.tap cimport Tap, tap_close, tap_next, tap_open, tap_switch, tap_take
from zqueue.engine.wire.zmtp cimport frames_of, type_name

cdef extern from "<sys/epoll.h>" nogil:
    cdef enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
    cdef uint32_t EPOLLIN
    cdef uint32_t EPOLLOUT
    cdef uint32_t EPOLLERR
    cdef uint32_t EPOLLHUP
    cdef uint32_t EPOLLRDHUP
    cdef uint32_t EPOLLET
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int most, int timeout)

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_NONBLOCK
    int EFD_CLOEXEC
    int eventfd(unsigned int value, int flags)

cdef extern from "<sys/timerfd.h>" nogil:
    int TFD_NONBLOCK
    int TFD_CLOEXEC
    int TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* new, itimerspec* old)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t readv(int fd, const iovec* parts, int count)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    int AF_INET
    int AF_INET6
    int AF_UNIX
    int SOCK_STREAM
    int SOCK_NONBLOCK
    int SOCK_CLOEXEC
    int SOL_SOCKET
    int SO_ERROR
    int SO_KEEPALIVE
    int SO_PEERCRED
    int SO_RCVBUF
    int SO_SNDBUF
    int MSG_NOSIGNAL
    int MSG_DONTWAIT
    int accept4(int fd, sockaddr* address, socklen_t* size, int flags)
    int socket(int family, int kind, int protocol)
    int connect(int fd, const sockaddr* address, socklen_t size)
    int getsockopt(int fd, int level, int option, void* value, socklen_t* size)
    int setsockopt(int fd, int level, int option, const void* value, socklen_t size)
    ssize_t recv(int fd, void* into, size_t size, int flags)
    ssize_t send(int fd, const void* data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_port
        in6_addr sin6_addr
    int IPPROTO_TCP
    unsigned short ntohs(unsigned short value)

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_KEEPIDLE
    int TCP_NODELAY

cdef extern from "<arpa/inet.h>" nogil:
    const char* inet_ntop(int family, const void* source, char* into, socklen_t size)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* mutex, void* attributes)
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)

cdef extern from *:
    """
    #define zq_get(place) __atomic_load_n((place), __ATOMIC_ACQUIRE)
    #define zq_set(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)
    #define zq_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    """
    uint64_t zq_get(uint64_t* place) nogil
    void zq_set(uint64_t* place, uint64_t value) nogil
    void zq_fence() nogil

cdef enum:
    BUFFER = 65536
    EVENTS = 256
    PARTS = 64
    ACCEPTED_A_TURN = 64
    SECOND = 1_000_000_000
    GATE_PAUSE = 500_000_000
    ORDERS = 64
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
    LIST_WORKERS

cdef struct Ordered:
    int what
    int64_t argument

# What there is to know of a worker. Times are nanoseconds.
cdef struct Row:
    int64_t number
    int64_t connected_for
    uint64_t in_flight
    uint64_t answered
    uint64_t ahead
    int64_t service
    int type
    bint draining
    char name[NAME]

cdef struct Listening:
    int fd
    int side
    bint shut
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
    int descriptors
    uint64_t connections
    uint64_t connections_an_address
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
    Row* rows
    int row_count
    const char* failure


cdef inline int64_t _clock() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t> now.tv_sec * SECOND + now.tv_nsec


# -- the turn ------------------------------------------------------------------------------------


cdef void _run(Loop* loop) noexcept nogil:
    cdef epoll_event events[EVENTS]
    cdef int count, place
    cdef Dispatcher* it = &loop.dispatcher
    cdef Peer* carried_over
    it.now = _clock()
    _set_timer(loop)
    while True:
        count = epoll_wait(loop.epoll, events, EVENTS, 0 if it.ready != NULL else -1)
        it.now = _clock()
        if count < 0:
            if errno == EINTR:
                continue
            loop.failure = strerror(errno)
            return
        carried_over = it.ready
        it.ready = NULL
        for place in range(count):
            _happened(loop, &events[place])
        _read_again(loop, carried_over)
        _settle(loop)
        _set_timer(loop)
        _publish(loop)
        if loop.closing and _has_flushed(loop):
            return


cdef void _happened(Loop* loop, epoll_event* event) noexcept nogil:
    cdef int tag = <int> (event.data.u64 & TAGS)
    cdef void* what = <void*> <uintptr_t> (event.data.u64 & ~<uint64_t> TAGS)
    cdef Peer* peer
    if tag == IS_PEER:
        peer = <Peer*> what
        if event.events & EPOLLOUT and peer.waits_to_write:
            _flush(loop, peer)
        if event.events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP):
            peer.hung_up = True
        if event.events & ~EPOLLOUT:
            peer.readable = True
            if not peer.ready:
                _read(loop, peer)
    elif tag == IS_LISTENER:
        _accept(loop, <Listening*> what)
    elif tag == IS_CONNECTOR:
        _connected(loop, <Connecting*> what)
    else:
        _woken(loop)


cdef void _settle(Loop* loop) noexcept nogil:
    """Until nothing more can be done without news from outside."""
    cdef Dispatcher* it = &loop.dispatcher
    cdef Peer* peer
    while True:
        dispatcher_turn(it)
        while it.dirty != NULL:
            peer = it.dirty
            it.dirty = peer.dirty_next
            peer.dirty = False
            if not peer.waits_to_write:
                _flush(loop, peer)
        if it.ended != NULL:
            _close_ended(loop)
        elif it.dirty == NULL and not dispatcher_can_give(it):
            return


# -- reading and writing -------------------------------------------------------------------------


cdef void _read(Loop* loop, Peer* peer) noexcept nogil:
    """Read once. What is left is read in the next turn, after the others."""
    cdef Dispatcher* it = &loop.dispatcher
    cdef uint8_t* room = NULL
    cdef size_t missing, asked
    cdef ssize_t got
    cdef iovec parts[2]
    if loop.closing or peer.ended:
        return
    if not peer_reads(it, peer):
        if peer.hung_up:
            peer_end(it, peer, NULL)
        return
    missing = peer_room(it, peer, &room)
    if missing:
        parts[0].iov_base, parts[0].iov_len = room, missing
        parts[1].iov_base, parts[1].iov_len = loop.buffer, BUFFER
        asked = missing + BUFFER
        got = readv(peer.fd, parts, 2)
    else:
        asked = BUFFER
        got = recv(peer.fd, loop.buffer, BUFFER, 0)
    if got > 0:
        if missing:
            peer_take(it, peer, room, min(missing, <size_t> got))
            if <size_t> got > missing:
                peer_take(it, peer, loop.buffer, <size_t> got - missing)
        else:
            peer_take(it, peer, loop.buffer, <size_t> got)
        # A short read has emptied the socket; whatever comes later is a new edge.
        peer.readable = <size_t> got == asked or peer.hung_up
        if peer.readable:
            peer_is_ready(it, peer)
    elif got == 0:
        peer_end(it, peer, NULL)
    elif errno == EAGAIN:
        peer.readable = False
    elif errno == EINTR:
        peer_is_ready(it, peer)
    else:
        peer_end(it, peer, strerror(errno))


cdef void _read_again(Loop* loop, Peer* peer) noexcept nogil:
    """Those that had more than one read's worth, or were held back and are no more."""
    cdef Peer* after
    while peer != NULL:
        after = peer.ready_next
        peer.ready = False
        if peer.readable:
            _read(loop, peer)
        peer = after


cdef void _flush(Loop* loop, Peer* peer) noexcept nogil:
    """Write as much as the socket takes."""
    cdef Dispatcher* it = &loop.dispatcher
    cdef size_t size = 0
    cdef ssize_t sent
    while peer.session.out.first != NULL and not peer.deaf:
        sent = _send(peer, &size)
        if sent < 0 and errno == EINTR:
            continue
        if sent < 0 and errno != EAGAIN and errno != ENOBUFS:
            _deafen(loop, peer)
            return
        if sent > 0:
            peer_sent(it, peer, <size_t> sent)
        if sent < 0 or <size_t> sent < size:
            _watch_writing(loop, peer, True)
            return
    if peer.deaf:
        outgoing_clear(&it.pool, &peer.session.out)
    elif peer.waits_to_write:
        _watch_writing(loop, peer, False)


cdef ssize_t _send(Peer* peer, size_t* size) noexcept nogil:
    """One system call; ``size`` is how much it was asked to send."""
    cdef iovec parts[PARTS]
    cdef msghdr message
    cdef Segment* segment = peer.session.out.first
    if segment.next == NULL:
        size[0] = segment.end - segment.begin
        return send(peer.fd, body_bytes(segment.body) + segment.begin, size[0], MSG_NOSIGNAL)
    memset(&message, 0, sizeof(message))
    message.msg_iov = parts
    size[0] = 0
    while segment != NULL and message.msg_iovlen < PARTS:
        parts[message.msg_iovlen].iov_base = body_bytes(segment.body) + segment.begin
        parts[message.msg_iovlen].iov_len = segment.end - segment.begin
        size[0] += segment.end - segment.begin
        message.msg_iovlen += 1
        segment = segment.next
    return sendmsg(peer.fd, &message, MSG_NOSIGNAL)


cdef void _deafen(Loop* loop, Peer* peer) noexcept nogil:
    """It cannot be written to any more. What it sent before may still be read."""
    outgoing_clear(&loop.dispatcher.pool, &peer.session.out)
    peer.deaf = peer.hung_up = peer.readable = True
    peer_is_ready(&loop.dispatcher, peer)


cdef void _watch_writing(Loop* loop, Peer* peer, bint watch) noexcept nogil:
    cdef epoll_event event
    if peer.waits_to_write == watch:
        return
    peer.waits_to_write = watch
    event.events = EPOLLIN | EPOLLRDHUP | EPOLLET | (EPOLLOUT if watch else 0)
    event.data.u64 = <uint64_t> <uintptr_t> peer | IS_PEER
    epoll_ctl(loop.epoll, EPOLL_CTL_MOD, peer.fd, &event)


cdef void _close_ended(Loop* loop) noexcept nogil:
    """Close what has ended; an ERROR that says why may still get out."""
    cdef Dispatcher* it = &loop.dispatcher
    cdef Peer* peer
    _leave_ready(it)
    while it.ended != NULL:
        peer = it.ended
        it.ended = peer.ended_next
        if peer.session.out.first != NULL and not peer.waits_to_write:
            _flush(loop, peer)
        _close_peer(loop, peer)


cdef void _leave_ready(Dispatcher* it) noexcept nogil:
    """Take those that have ended out of the list ``ready``."""
    cdef Peer** place = &it.ready
    while place[0] != NULL:
        if place[0].ended:
            place[0].ready = False
            place[0] = place[0].ready_next
        else:
            place = &place[0].ready_next


cdef void _close_peer(Loop* loop, Peer* peer) noexcept nogil:
    cdef Dispatcher* it = &loop.dispatcher
    cdef Connecting* connector
    if peer.ready:
        # Flushing has put it there again.
        _leave_ready(it)
    if peer.connector >= 0 and not loop.closing:
        connector = &loop.connecting[peer.connector]
        connector.up = False
        if peer.client != NULL or peer.worker != NULL:
            connector.pause = loop.options[connector.side].reconnect
        _retry_later(loop, connector)
    close(peer.fd)
    peer_close(it, peer)


# -- connections ---------------------------------------------------------------------------------


cdef Peer* _new_peer(
    Loop* loop, int fd, int side, const sockaddr_storage* address, const char* name
) noexcept nogil:
    """Take a connected socket; NULL, and it is closed, if that cannot be."""
    cdef epoll_event event
    cdef Peer* peer
    cdef SocketOptions* options = &loop.options[side]
    cdef int on = 1, off = 0
    if address.ss_family != AF_UNIX:
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
        if options.keepalive < 0:
            setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &off, sizeof(off))
        elif options.keepalive:
            setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on))
            setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &options.keepalive, sizeof(int))
    if options.send_buffer:
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &options.send_buffer, sizeof(int))
    if options.receive_buffer:
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &options.receive_buffer, sizeof(int))
    peer = peer_open(&loop.dispatcher, side, name)
    if peer == NULL:
        close(fd)
        return NULL
    peer.fd = fd
    peer.connector = -1
    _host_of(address, peer.address)
    event.events = EPOLLIN | EPOLLRDHUP | EPOLLET
    event.data.u64 = <uint64_t> <uintptr_t> peer | IS_PEER
    if epoll_ctl(loop.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
        peer_end(&loop.dispatcher, peer, strerror(errno))
    return peer


cdef void _host_of(const sockaddr_storage* address, uint8_t* host) noexcept nogil:
    """The host's address in 16 bytes, zeros for a socket of this machine."""
    memset(host, 0, 16)
    if address.ss_family == AF_INET:
        host[10] = host[11] = 0xFF
        memcpy(host + 12, &(<const sockaddr_in*> address).sin_addr, 4)
    elif address.ss_family == AF_INET6:
        memcpy(host, &(<const sockaddr_in6*> address).sin6_addr, 16)


cdef void _name_of(int fd, const sockaddr_storage* address, char* name) noexcept nogil:
    """``tcp://host:port`` or ``ipc:pid=…,uid=…`` of whoever is at the other end."""
    cdef char host[48]
    cdef int credentials[3]
    cdef socklen_t size = sizeof(credentials)
    if address.ss_family == AF_INET:
        inet_ntop(AF_INET, &(<const sockaddr_in*> address).sin_addr, host, sizeof(host))
        snprintf(name, NAME, b"tcp://%s:%d", host, <int> ntohs((<const sockaddr_in*> address).sin_port))
    elif address.ss_family == AF_INET6:
        inet_ntop(AF_INET6, &(<const sockaddr_in6*> address).sin6_addr, host, sizeof(host))
        snprintf(
            name, NAME, b"tcp://[%s]:%d", host, <int> ntohs((<const sockaddr_in6*> address).sin6_port)
        )
    elif getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, &size) == 0:
        snprintf(name, NAME, b"ipc:pid=%d,uid=%d", credentials[0], credentials[1])
    else:
        snprintf(name, NAME, b"ipc:unknown")


cdef void _accept(Loop* loop, Listening* listener) noexcept nogil:
    cdef sockaddr_storage address
    cdef socklen_t size
    cdef char name[NAME]
    cdef int fd, turn
    if listener.shut or loop.closing:
        return
    for turn in range(ACCEPTED_A_TURN):
        if loop.connections and <uint64_t> loop.dispatcher.peers_out >= loop.connections:
            _shut_gates(loop, b"max_connections", loop.connections)
            return
        size = sizeof(address)
        fd = accept4(listener.fd, <sockaddr*> &address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            if errno in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
                notice(
                    &loop.notices, loop.dispatcher.now, ACCEPT_FAILED, listener.side, 0,
                    listener.name, strerror(errno), 0, 0,
                )
                _shut_gates(loop, b"descriptors", loop.descriptors)
            return
        _name_of(fd, &address, name)
        if loop.connections_an_address and _too_many_there(loop, &address):
            close(fd)
            loop.dispatcher.counters.rejected[listener.side] += 1
            notice(
                &loop.notices, loop.dispatcher.now, REJECTED, listener.side, 0, name,
                b"there are max_connections_per_address connections from its address", 0, 0,
            )
            continue
        _new_peer(loop, fd, listener.side, &address, name)
        if fd >= loop.descriptors:
            _shut_gates(loop, b"descriptors", loop.descriptors)
            return


cdef bint _too_many_there(Loop* loop, const sockaddr_storage* address) noexcept nogil:
    cdef uint8_t host[16]
    cdef uint8_t nobody[16]
    cdef uint64_t count = 0
    cdef Peer* peer = loop.dispatcher.peers
    _host_of(address, host)
    memset(nobody, 0, 16)
    if memcmp(host, nobody, 16) == 0:
        return False
    while peer != NULL:
        if memcmp(peer.address, host, 16) == 0:
            count += 1
        peer = peer.next
    return count >= loop.connections_an_address


cdef void _shut_gates(Loop* loop, const char* what, int64_t limit) noexcept nogil:
    """Take no new connections for a while: they wait in the kernel, and nothing spins."""
    cdef int place
    for place in range(loop.listening_count):
        if not loop.listening[place].shut:
            loop.listening[place].shut = True
            epoll_ctl(loop.epoll, EPOLL_CTL_DEL, loop.listening[place].fd, NULL)
            notice(
                &loop.notices, loop.dispatcher.now, GATE_CLOSED, loop.listening[place].side, 0,
                loop.listening[place].name, what, loop.dispatcher.peers_out, limit,
            )
    loop.gates_at = loop.dispatcher.now + GATE_PAUSE


cdef void _open_gates(Loop* loop) noexcept nogil:
    """Take new connections again, if there is room for some."""
    cdef int place
    cdef int probe = fcntl(loop.wake, F_DUPFD_CLOEXEC, 3)
    cdef uint64_t room = loop.connections - loop.connections // 16
    if probe >= 0:
        close(probe)
    if probe < 0 or probe >= loop.descriptors - loop.descriptors // 16 or (
        loop.connections and <uint64_t> loop.dispatcher.peers_out >= room
    ):
        loop.gates_at = loop.dispatcher.now + GATE_PAUSE
        return
    loop.gates_at = 0
    for place in range(loop.listening_count):
        if loop.listening[place].shut:
            loop.listening[place].shut = False
            _watch_listener(loop, &loop.listening[place])
            notice(
                &loop.notices, loop.dispatcher.now, GATE_OPENED, loop.listening[place].side, 0,
                loop.listening[place].name, b"", 0, 0,
            )


cdef bint _watch_listener(Loop* loop, Listening* listener) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.u64 = <uint64_t> <uintptr_t> listener | IS_LISTENER
    return epoll_ctl(loop.epoll, EPOLL_CTL_ADD, listener.fd, &event) == 0


cdef void _unwatch_listeners(Loop* loop) noexcept nogil:
    cdef int place
    for place in range(loop.listening_count):
        if not loop.listening[place].shut:
            loop.listening[place].shut = True
            epoll_ctl(loop.epoll, EPOLL_CTL_DEL, loop.listening[place].fd, NULL)


cdef void _connect(Loop* loop, Connecting* connector) noexcept nogil:
    cdef epoll_event event
    cdef uint8_t address[LONGEST_ADDRESS]
    cdef uint32_t size
    cdef int done
    connector.next_at = 0
    pthread_mutex_lock(&loop.lock)
    size = connector.address_size
    memcpy(address, connector.address, size)
    pthread_mutex_unlock(&loop.lock)
    if not size:
        _connect_failed(loop, connector, EADDRNOTAVAIL)
        return
    connector.fd = socket(
        (<sockaddr*> address).sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0
    )
    if connector.fd < 0:
        _connect_failed(loop, connector, errno)
        return
    done = connect(connector.fd, <sockaddr*> address, size)
    if done < 0 and errno != EINPROGRESS:
        # Of a unix socket with a full backlog it is EAGAIN.
        _connect_failed(loop, connector, errno)
        return
    event.events = EPOLLOUT
    event.data.u64 = <uint64_t> <uintptr_t> connector | IS_CONNECTOR
    if epoll_ctl(loop.epoll, EPOLL_CTL_ADD, connector.fd, &event) < 0:
        _connect_failed(loop, connector, errno)


cdef void _connected(Loop* loop, Connecting* connector) noexcept nogil:
    """The connect has come to an end, good or bad."""
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    cdef int fd = connector.fd
    cdef Peer* peer
    cdef sockaddr_storage address
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size)
    epoll_ctl(loop.epoll, EPOLL_CTL_DEL, fd, NULL)
    if error:
        _connect_failed(loop, connector, error)
        return
    memset(&address, 0, sizeof(address))
    memcpy(&address, connector.address, min(<size_t> connector.address_size, sizeof(address)))
    connector.fd = -1
    peer = _new_peer(loop, fd, connector.side, &address, connector.name)
    if peer == NULL:
        _retry_later(loop, connector)
        return
    peer.connector = <int> (connector - loop.connecting)
    connector.up = True


cdef void _connect_failed(Loop* loop, Connecting* connector, int error) noexcept nogil:
    if connector.fd >= 0:
        close(connector.fd)
    connector.fd = -1
    notice(
        &loop.notices, loop.dispatcher.now, CONNECT_RETRIED, connector.side,
        connector - loop.connecting, connector.name, strerror(error), connector.pause, 0,
    )
    _retry_later(loop, connector)


cdef void _retry_later(Loop* loop, Connecting* connector) noexcept nogil:
    """Try again after a pause that grows."""
    cdef SocketOptions* options = &loop.options[connector.side]
    connector.next_at = loop.dispatcher.now + connector.pause
    connector.pause = min(2 * connector.pause, max(options.reconnect_max, options.reconnect))


# -- time and orders -----------------------------------------------------------------------------


cdef void _set_timer(Loop* loop) noexcept nogil:
    """Do what is due, and have the timer wake us for what is due next."""
    cdef Dispatcher* it = &loop.dispatcher
    cdef int64_t due = dispatcher_pulse(it)
    cdef int place
    cdef itimerspec at
    if loop.gates_at and loop.gates_at <= it.now:
        _open_gates(loop)
    due = _earlier(due, loop.gates_at)
    for place in range(loop.connecting_count):
        if loop.closing:
            break
        if loop.connecting[place].next_at and loop.connecting[place].next_at <= it.now:
            _connect(loop, &loop.connecting[place])
        due = _earlier(due, loop.connecting[place].next_at)
    if loop.closing:
        due = _earlier(due, loop.close_by)
    if it.dirty != NULL or it.ended != NULL:
        _settle(loop)
    if due == loop.armed:
        return
    loop.armed = due
    memset(&at, 0, sizeof(at))
    at.it_value.tv_sec = due // SECOND
    at.it_value.tv_nsec = due % SECOND
    timerfd_settime(loop.timer, TFD_TIMER_ABSTIME, &at, NULL)


cdef inline int64_t _earlier(int64_t one, int64_t other) noexcept nogil:
    if not one or not other:
        return one + other
    return min(one, other)


cdef void _woken(Loop* loop) noexcept nogil:
    """An order, or the time."""
    cdef uint64_t value
    cdef Ordered orders[ORDERS]
    cdef int count, place
    if read(loop.timer, &value, sizeof(value)) > 0:
        loop.armed = 0
    if read(loop.wake, &value, sizeof(value)) <= 0:
        return
    pthread_mutex_lock(&loop.lock)
    count = loop.ordered
    memcpy(orders, loop.orders, count * sizeof(Ordered))
    loop.ordered = 0
    pthread_mutex_unlock(&loop.lock)
    for place in range(count):
        _obey(loop, &orders[place])
    zq_set(&loop.orders_done, loop.orders_done + count)


cdef void _obey(Loop* loop, Ordered* order) noexcept nogil:
    cdef Dispatcher* it = &loop.dispatcher
    cdef Peer* peer
    if order.what == SET_MODE:
        dispatcher_mode(it, <int> order.argument)
        zq_set(&loop.mode_done, <uint64_t> order.argument)
    elif order.what == DRAIN_WORKER:
        worker_drain(it, peer_numbered(it, order.argument))
    elif order.what == END_PEER:
        peer = peer_numbered(it, order.argument)
        if peer != NULL:
            peer_end(it, peer, b"an operator sent it away")
    elif order.what == LIST_WORKERS:
        _list_workers(loop)
    elif order.what == CLOSE:
        dispatcher_mode(it, HOLD)
        _unwatch_listeners(loop)
        loop.closing = True
        loop.close_by = it.now + order.argument


cdef void _list_workers(Loop* loop) noexcept nogil:
    """Write down what there is to know of each worker, for the other thread to read."""
    cdef Dispatcher* it = &loop.dispatcher
    cdef Peer* peer = it.peers
    cdef Row* row
    loop.row_count = 0
    free(loop.rows)
    loop.rows = <Row*> malloc(sizeof(Row) * (it.strict.connected + it.loose.connected + 1))
    while peer != NULL and loop.rows != NULL:
        if peer.worker != NULL:
            row = &loop.rows[loop.row_count]
            loop.row_count += 1
            row.number, row.type = peer.number, peer.session.peer_type
            row.connected_for = it.now - peer.opened_at
            row.in_flight = peer.worker.count + peer.worker.odd
            row.answered = peer.worker.answered
            row.ahead, row.service = peer.worker.credit, <int64_t> peer.worker.service
            row.draining = peer.worker.draining
            memcpy(row.name, peer.name, NAME)
        peer = peer.next


cdef bint _has_flushed(Loop* loop) noexcept nogil:
    """Whether nothing more is on its way out, or there was time enough for it."""
    cdef Peer* peer = loop.dispatcher.peers
    if loop.dispatcher.now >= loop.close_by:
        return True
    while peer != NULL:
        if peer.session.out.size and not peer.ended:
            return False
        peer = peer.next
    return True


cdef void _publish(Loop* loop) noexcept nogil:
    """Let readers see counters that add up, and wake whoever is to hear the notices."""
    cdef uint64_t one = 1
    zq_set(&loop.version, loop.version + 1)
    zq_fence()
    loop.published = loop.dispatcher.counters
    zq_fence()
    zq_set(&loop.version, loop.version + 1)
    if loop.notices.written != loop.told_upto or loop.tap.written != loop.tapped_upto:
        loop.told_upto = loop.notices.written
        loop.tapped_upto = loop.tap.written
        write(loop.told, &one, sizeof(one))


cdef void _close_all(Loop* loop) noexcept nogil:
    """Close every connection and listening socket. The last published counters stay as they are:
    they tell what was left."""
    cdef int place
    loop.closing = True
    loop.dispatcher.dirty = loop.dispatcher.ended = loop.dispatcher.ready = NULL
    while loop.dispatcher.peers != NULL:
        loop.dispatcher.peers.ready = False
        _close_peer(loop, loop.dispatcher.peers)
    for place in range(loop.listening_count):
        close(loop.listening[place].fd)
    loop.listening_count = 0
    for place in range(loop.connecting_count):
        if loop.connecting[place].fd >= 0:
            close(loop.connecting[place].fd)
    loop.connecting_count = 0


# -- for Python ----------------------------------------------------------------------------------


cdef class DataPath:
    """The sockets of one queue and the loop that works on them.

    Everything but :meth:`run` is for one other thread, which polls :meth:`fileno` and then reads
    :meth:`notices`. Durations are seconds, sizes bytes; 0 is no limit.
    """

    cdef Loop* _loop
    cdef readonly bint ended
    cdef readonly dict left_behind

    def __cinit__(
        self,
        *,
        uint64_t max_waiting,
        uint64_t max_waiting_bytes,
        uint64_t client_waiting,
        uint64_t client_unsent,
        uint32_t prefetch,
        uint32_t worker_ahead,
        uint32_t max_attempts,
        bint handover,
        uint64_t max_message_size,
        uint64_t max_reply_size,
        uint32_t max_frames,
        uint64_t max_connections,
        uint64_t max_connections_per_address,
        int descriptors,
        uint32_t first_id,
    ) -> None:
        cdef Settings settings
        cdef Loop* loop = <Loop*> calloc(1, sizeof(Loop))
        if loop == NULL:
            raise MemoryError
        self._loop = loop
        loop.epoll = loop.wake = loop.timer = loop.told = -1
        pthread_mutex_init(&loop.lock, NULL)
        memset(&settings, 0, sizeof(Settings))
        settings.limits[FRONTEND].message_bytes = max_message_size or <uint64_t> 1 << 60
        settings.limits[BACKEND].message_bytes = max_reply_size or <uint64_t> 1 << 60
        settings.limits[FRONTEND].frames = settings.limits[BACKEND].frames = (
            max_frames or 0xFFFFFFFF
        )
        settings.max_waiting = max_waiting or <uint64_t> 1 << 60
        settings.max_waiting_bytes = max_waiting_bytes or <uint64_t> 1 << 60
        settings.client_waiting = client_waiting
        settings.client_waiting_bytes = settings.max_waiting_bytes
        settings.client_unsent = client_unsent or <uint64_t> 1 << 60
        settings.prefetch = prefetch
        settings.worker_ahead = worker_ahead
        settings.max_attempts = max_attempts
        settings.handover = handover
        loop.connections = max_connections
        loop.connections_an_address = max_connections_per_address
        loop.descriptors = descriptors
        if not dispatcher_open(&loop.dispatcher, &settings, &loop.notices, first_id):
            raise MemoryError
        loop.buffer = <uint8_t*> malloc(BUFFER)
        if loop.buffer == NULL:
            raise MemoryError
        loop.epoll = epoll_create1(EPOLL_CLOEXEC)
        loop.wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        loop.told = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        loop.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if min(loop.epoll, loop.wake, loop.told, loop.timer) < 0:
            raise OSError(errno, "no descriptors for a queue")
        self._watch_own(loop.wake)
        self._watch_own(loop.timer)
        self.left_behind = {}

    cdef int _watch_own(self, int fd) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = IS_OWN
        if epoll_ctl(self._loop.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, "a descriptor cannot be watched")
        return 0

    def __dealloc__(self) -> None:
        if self._loop == NULL:
            return
        _close_all(self._loop)
        dispatcher_close(&self._loop.dispatcher)
        free(self._loop.listening)
        free(self._loop.connecting)
        free(self._loop.buffer)
        free(self._loop.rows)
        tap_close(&self._loop.tap)
        for fd in (self._loop.epoll, self._loop.wake, self._loop.told, self._loop.timer):
            if fd >= 0:
                close(fd)
        free(self._loop)

    def side(
        self,
        int side,
        *,
        double handshake_timeout,
        double heartbeat,
        double heartbeat_timeout,
        int keepalive,
        int send_buffer,
        int receive_buffer,
        double reconnect,
        double reconnect_max,
    ) -> None:
        """How connections of a side (0 frontend, 1 backend) are made. ``keepalive``: seconds, 0 as
        the kernel does, -1 never."""
        cdef Settings* settings = &self._loop.dispatcher.settings
        cdef SocketOptions* options = &self._loop.options[side]
        settings.handshake[side] = <int64_t> (handshake_timeout * SECOND)
        settings.heartbeat[side].interval = <int64_t> (heartbeat * SECOND)
        settings.heartbeat[side].timeout = <int64_t> (heartbeat_timeout * SECOND)
        options.keepalive = keepalive
        options.send_buffer, options.receive_buffer = send_buffer, receive_buffer
        options.reconnect = <int64_t> (reconnect * SECOND)
        options.reconnect_max = <int64_t> (reconnect_max * SECOND)

    def sockets(
        self,
        listening: list[tuple[int, int, str]],
        connecting: list[tuple[int, str]],
    ) -> None:
        """Where to accept, ``(side, descriptor, name)``, and where to connect, ``(side, name)``,
        once :meth:`connect_to` has told an address. The descriptors are this object's from now on;
        it is called once.

        Raises:
            OSError: one cannot be watched.
        """
        cdef Loop* loop = self._loop
        cdef Listening* listener
        cdef Connecting* connector
        loop.listening = <Listening*> calloc(len(listening) + 1, sizeof(Listening))
        loop.connecting = <Connecting*> calloc(len(connecting) + 1, sizeof(Connecting))
        if loop.listening == NULL or loop.connecting == NULL:
            raise MemoryError
        for side, fd, name in listening:
            listener = &loop.listening[loop.listening_count]
            loop.listening_count += 1
            listener.side, listener.fd = side, fd
            encoded = name.encode()
            strncpy(listener.name, encoded, NAME - 1)
        for place in range(loop.listening_count):
            if not _watch_listener(loop, &loop.listening[place]):
                raise OSError(errno, "a listening socket cannot be watched")
        for side, name in connecting:
            connector = &loop.connecting[loop.connecting_count]
            loop.connecting_count += 1
            connector.side, connector.fd = side, -1
            connector.pause = loop.options[<int> side].reconnect
            connector.next_at = 1
            encoded = name.encode()
            strncpy(connector.name, encoded, NAME - 1)

    def connect_to(self, int place, bytes address not None) -> None:
        """The address of a connect endpoint, a ``struct sockaddr``; heeded at the next attempt."""
        cdef Connecting* connector = &self._loop.connecting[place]
        if len(address) > LONGEST_ADDRESS or place >= self._loop.connecting_count:
            raise ValueError("no such address")
        pthread_mutex_lock(&self._loop.lock)
        connector.address_size = len(address)
        memcpy(connector.address, <char*> address, len(address))
        pthread_mutex_unlock(&self._loop.lock)

    def run(self, int mode) -> str | None:
        """Move messages until :meth:`close`; why it ended if it did so by itself.

        ``mode`` is 0 to forward, 1 to hold requests, 2 to drain.
        """
        dispatcher_mode(&self._loop.dispatcher, mode)
        zq_set(&self._loop.mode_done, <uint64_t> mode)
        with nogil:
            _run(self._loop)
        failure = None if self._loop.failure == NULL else self._loop.failure.decode()
        _close_all(self._loop)
        self.left_behind = {
            "clients": self._loop.dispatcher.clients_out,
            "peers": self._loop.dispatcher.peers_out,
            "segments": self._loop.dispatcher.pool.segments_out,
        }
        self.ended = True
        return failure

    def fileno(self) -> int:
        """Readable when there are notices."""
        return self._loop.told

    cdef bint _order(self, int what, int64_t argument):
        cdef uint64_t one = 1
        cdef bint taken
        pthread_mutex_lock(&self._loop.lock)
        taken = self._loop.ordered < ORDERS
        if taken:
            self._loop.orders[self._loop.ordered].what = what
            self._loop.orders[self._loop.ordered].argument = argument
            self._loop.ordered += 1
            self._loop.orders_given += 1
        pthread_mutex_unlock(&self._loop.lock)
        write(self._loop.wake, &one, sizeof(one))
        return taken

    def forward(self) -> None:
        self._order(SET_MODE, FORWARD)

    def hold(self) -> None:
        self._order(SET_MODE, HOLD)

    def drain(self) -> None:
        self._order(SET_MODE, DRAIN)

    def drain_worker(self, int64_t number) -> None:
        """Give it nothing more."""
        self._order(DRAIN_WORKER, number)

    def ask_for_workers(self) -> None:
        """Have :meth:`workers` brought up to date; it is once :attr:`obeyed` says so."""
        self._order(LIST_WORKERS, 0)

    def workers(self) -> list[dict]:
        """Every worker as it was when :meth:`ask_for_workers` was obeyed."""
        cdef int place
        gathered = []
        for place in range(self._loop.row_count):
            row: dict = self._loop.rows[place]
            row["name"] = self._loop.rows[place].name.decode(errors="replace")
            row["type"] = type_name(self._loop.rows[place].type).decode()
            gathered.append(row)
        return gathered

    def end_peer(self, int64_t number) -> None:
        """Close its connection."""
        self._order(END_PEER, number)

    def close(self, double flush) -> None:
        """End :meth:`run`, once what is on its way out is out or ``flush`` seconds are up."""
        self._order(CLOSE, <int64_t> (flush * SECOND))

    def nudge(self) -> None:
        """An order that only shows, by :attr:`obeyed`, that the loop still comes round."""
        self._order(NUDGE, 0)

    @property
    def obeyed(self) -> bool:
        """Whether every order has been carried out."""
        return zq_get(&self._loop.orders_done) >= self._loop.orders_given

    @property
    def mode(self) -> int:
        """The mode that is in force: 0 forward, 1 hold, 2 drain."""
        return <int> zq_get(&self._loop.mode_done)

    @property
    def counters(self) -> dict:
        """Counters that add up, as they were at the end of the last turn."""
        cdef Counters counters
        cdef uint64_t before
        while True:
            before = zq_get(&self._loop.version)
            if not before & 1:
                counters = self._loop.published
                zq_fence()
                if zq_get(&self._loop.version) == before:
                    return counters

    @property
    def queueing(self) -> list[int]:
        """How many requests waited how long, by bucket; see ``bucket_bounds`` of the dispatcher."""
        return [self._loop.dispatcher.queueing.buckets[place] for place in range(BUCKETS)]

    @property
    def service(self) -> list[int]:
        """How many requests took a worker how long, by bucket."""
        return [self._loop.dispatcher.service.buckets[place] for place in range(BUCKETS)]

    def notices(self) -> list[dict]:
        """What there was to tell since the last call, with names and details as text."""
        cdef Notice told
        cdef uint64_t value
        gathered = []
        read(self._loop.told, &value, sizeof(value))
        while next_notice(&self._loop.notices, &told):
            shown: dict = told
            shown["name"] = told.name.decode(errors="replace")
            shown["detail"] = told.detail.decode(errors="replace")
            gathered.append(shown)
        return gathered

    def tap(self, bint on) -> None:
        """Begin or end to copy what passes.

        Raises:
            MemoryError: there is none for it.
        """
        if on and self._loop.tap.ring == NULL:
            if not tap_open(&self._loop.tap):
                raise MemoryError
            self._loop.dispatcher.tap = &self._loop.tap
        tap_switch(&self._loop.tap, on)

    def tapped(self, int most) -> list[tuple[int, list[bytes]]]:
        """Up to ``most`` messages that were copied: 0 for a request, 1 for a reply, and the frames,
        the client's routing id first."""
        cdef uint32_t size = 0, way = 0
        gathered = []
        if self._loop.tap.ring == NULL:
            return gathered
        while len(gathered) < most and tap_next(&self._loop.tap, &size, &way):
            copied = bytearray(size)
            tap_take(&self._loop.tap, copied, size)
            gathered.append((way, frames_of(copied, size)))
        return gathered

    @property
    def tap_missed(self) -> int:
        """How many messages were not copied, because the reader was too slow."""
        return self._loop.tap.missed

    @property
    def notices_lost(self) -> int:
        """How many notices there was no room for."""
        return self._loop.notices.lost
