"""See connections.pxd."""

from libc.errno cimport EAGAIN, ECONNABORTED, EINPROGRESS, EINTR, EMFILE, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t, uintptr_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset, strerror
from posix.fcntl cimport F_DUPFD_CLOEXEC, fcntl
from posix.resource cimport RLIMIT_NOFILE, getrlimit, rlimit
from posix.unistd cimport close
from zqueue.engine.wire.dispatcher cimport peer_open
from zqueue.engine.wire.entities cimport BACKEND, FRONTEND, Peer
from zqueue.engine.wire.hosts cimport host_came, host_connections
from zqueue.engine.wire.instants cimport earlier
from zqueue.engine.wire.linux cimport (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    EPOLLET,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    IPPROTO_TCP,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    SO_ERROR,
    SO_KEEPALIVE,
    SO_PEERCRED,
    SO_RCVBUF,
    SO_SNDBUF,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_NODELAY,
    accept4,
    connect,
    epoll_ctl,
    epoll_event,
    getsockopt,
    inet_ntop,
    ntohs,
    pthread_mutex_lock,
    pthread_mutex_unlock,
    setsockopt,
    sockaddr,
    sockaddr_in,
    sockaddr_in6,
    sockaddr_storage,
    socket,
    socklen_t,
)
from zqueue.engine.wire.loop cimport (
    Connecting,
    IS_CONNECTOR,
    IS_LISTENER,
    IS_PEER,
    LONGEST_ADDRESS,
    Listening,
    Loop,
    SocketOptions,
)
from zqueue.engine.wire.notices cimport (
    ACCEPT_FAILED,
    CONNECT_RETRIED,
    GATE_CLOSED,
    GATE_OPENED,
    NAME,
    REJECTED,
    notice,
)
from zqueue.engine.wire.peers cimport peer_end

cdef enum:
    ACCEPTED_A_TURN = 64
    GATE_PAUSE = 500_000_000


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
            if options.keepalive_interval:
                setsockopt(
                    fd, IPPROTO_TCP, TCP_KEEPINTVL, &options.keepalive_interval, sizeof(int)
                )
            if options.keepalive_count:
                setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &options.keepalive_count, sizeof(int))
    if options.send_buffer:
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &options.send_buffer, sizeof(int))
    if options.receive_buffer:
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &options.receive_buffer, sizeof(int))
    peer = peer_open(&loop.dispatcher, side, name)
    if peer == NULL:
        _turn_away(loop, fd, side, name, b"there is no memory for another connection")
        return NULL
    peer.fd = fd
    peer.connector = -1
    _host_of(address, peer.address)
    host_came(&loop.hosts[side], peer.address)
    event.events = EPOLLIN | EPOLLRDHUP | EPOLLET
    event.data.u64 = <uint64_t> <uintptr_t> peer | IS_PEER
    if epoll_ctl(loop.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
        peer_end(&loop.dispatcher, peer, strerror(errno))
    return peer


cdef void _turn_away(
    Loop* loop, int fd, int side, const char* name, const char* reason
) noexcept nogil:
    close(fd)
    loop.dispatcher.counters.turned_away[side] += 1
    notice(&loop.notices, loop.dispatcher.now, REJECTED, side, 0, name, reason, 0, 0)


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


cdef void accept_on(Loop* loop, Listening* listener) noexcept nogil:
    cdef sockaddr_storage address
    cdef socklen_t size
    cdef char name[NAME]
    cdef int fd, side, turn
    if listener.shut or loop.closing:
        return
    for turn in range(ACCEPTED_A_TURN):
        if loop.connections and _spoken_for(loop, listener.side) >= loop.connections:
            # If nobody waits behind the last one, there is nothing to tell, and no gate to be opened.
            if not turn:
                _shut_full(loop)
            return
        size = sizeof(address)
        fd = accept4(listener.fd, <sockaddr*> &address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            if errno not in (EAGAIN, EINTR, ECONNABORTED):
                _cannot_accept(loop, listener)
            return
        _name_of(fd, &address, name)
        if loop.connections_an_address and _too_many_there(loop, listener.side, &address):
            _turn_away(
                loop, fd, listener.side, name,
                b"there are max_connections_per_address connections from its address",
            )
            continue
        _new_peer(loop, fd, listener.side, &address, name)
        if fd >= loop.descriptors[listener.side]:
            # The kernel gives the lowest free number: it tells how many are open in the process.
            for side in range(2):
                if fd >= loop.descriptors[side]:
                    _shut_gates(loop, side, b"descriptors", fd, loop.descriptors[side])
            return


cdef void _cannot_accept(Loop* loop, Listening* listener) noexcept nogil:
    """Whatever errno says, trying again at once would change nothing."""
    cdef int error = errno
    cdef int side
    cdef rlimit most
    notice(
        &loop.notices, loop.dispatcher.now, ACCEPT_FAILED, listener.side, 0, listener.name,
        strerror(error), 0, 0,
    )
    if error == EMFILE and getrlimit(RLIMIT_NOFILE, &most) == 0:
        for side in range(2):
            _shut_gates(
                loop, side, b"descriptors", <int64_t> most.rlim_cur, <int64_t> most.rlim_cur
            )
    else:
        for side in range(2):
            _shut_gates(loop, side, NULL, 0, 0)


cdef bint _too_many_there(
    Loop* loop, int side, const sockaddr_storage* address
) noexcept nogil:
    cdef uint8_t host[16]
    _host_of(address, host)
    return host_connections(&loop.hosts[side], host) >= loop.connections_an_address


cdef uint64_t _spoken_for(Loop* loop, int side) noexcept nogil:
    """How many connections a side cannot have: those that there are, and those that are the other
    side's own and not there yet. So neither keeps the other out."""
    cdef int other = FRONTEND if side == BACKEND else BACKEND
    cdef uint64_t there = <uint64_t> loop.dispatcher.peers_of[other]
    cdef uint64_t kept = loop.reserved[other] - min(there, loop.reserved[other])
    return <uint64_t> loop.dispatcher.peers_out + kept


cdef void _shut_full(Loop* loop) noexcept nogil:
    """Shut the gates of each side that can have no more of ``max_connections``."""
    cdef int side
    for side in range(2):
        if _spoken_for(loop, side) >= loop.connections:
            _shut_gates(
                loop, side, b"max_connections", loop.dispatcher.peers_out,
                <int64_t> loop.connections,
            )


cdef void _shut_gates(
    Loop* loop, int side, const char* what, int64_t taken, int64_t limit
) noexcept nogil:
    """Take no new connections of a side for a while: they wait in the kernel, and nothing spins.
    Unless ``what`` is NULL it is told of what so many are taken, and the limit."""
    cdef int place
    cdef Listening* listener
    for place in range(loop.listening_count):
        listener = &loop.listening[place]
        if listener.side != side:
            continue
        if not listener.shut:
            listener.shut = True
            epoll_ctl(loop.epoll, EPOLL_CTL_DEL, listener.fd, NULL)
        if what != NULL and not listener.told:
            listener.told = True
            notice(
                &loop.notices, loop.dispatcher.now, GATE_CLOSED, listener.side, 0, listener.name,
                what, taken, limit,
            )
    loop.gates_at = loop.dispatcher.now + GATE_PAUSE


cdef void open_gates(Loop* loop) noexcept nogil:
    """Take new connections again, if there is room for some."""
    cdef int place
    cdef Listening* listener
    cdef int probe = fcntl(loop.wake, F_DUPFD_CLOEXEC, 3)
    if probe >= 0:
        close(probe)
    loop.gates_at = 0
    for place in range(loop.listening_count):
        listener = &loop.listening[place]
        if not listener.shut:
            continue
        if probe < 0 or not _has_room_again(loop, listener.side, probe):
            loop.gates_at = loop.dispatcher.now + GATE_PAUSE
            continue
        if not watch_listener(loop, listener):
            _cannot_accept(loop, listener)
            return
        listener.shut = False
        if listener.told:
            listener.told = False
            notice(
                &loop.notices, loop.dispatcher.now, GATE_OPENED, listener.side, 0, listener.name,
                b"", 0, 0,
            )


cdef bint _has_room_again(Loop* loop, int side, int descriptor) noexcept nogil:
    """Whether a side whose gates were shut may have some more; the next has this descriptor. Clients
    may be many, and their gates are not to open and shut for each that leaves."""
    cdef uint64_t most = loop.connections
    cdef int highest = loop.descriptors[side]
    if side == FRONTEND:
        most -= most // 16
        highest -= highest // 16
    return descriptor < highest and (not loop.connections or _spoken_for(loop, side) < most)


cdef bint watch_listener(Loop* loop, Listening* listener) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.u64 = <uint64_t> <uintptr_t> listener | IS_LISTENER
    return epoll_ctl(loop.epoll, EPOLL_CTL_ADD, listener.fd, &event) == 0


cdef void unwatch_listeners(Loop* loop) noexcept nogil:
    cdef int place
    for place in range(loop.listening_count):
        if not loop.listening[place].shut:
            loop.listening[place].shut = True
            epoll_ctl(loop.epoll, EPOLL_CTL_DEL, loop.listening[place].fd, NULL)


cdef void connect_now(Loop* loop, Connecting* connector) noexcept nogil:
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
        _connect_failed(loop, connector, b"its name is not looked up yet, or not known")
        return
    connector.fd = socket(
        (<sockaddr*> address).sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0
    )
    if connector.fd < 0:
        _connect_failed(loop, connector, strerror(errno))
        return
    done = connect(connector.fd, <sockaddr*> address, size)
    if done < 0 and errno != EINPROGRESS:
        # Of a unix socket with a full backlog it is EAGAIN.
        _connect_failed(loop, connector, strerror(errno))
        return
    event.events = EPOLLOUT
    event.data.u64 = <uint64_t> <uintptr_t> connector | IS_CONNECTOR
    if epoll_ctl(loop.epoll, EPOLL_CTL_ADD, connector.fd, &event) < 0:
        _connect_failed(loop, connector, strerror(errno))


cdef void connected(Loop* loop, Connecting* connector) noexcept nogil:
    """The connect has come to an end, good or bad."""
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    cdef int fd = connector.fd
    cdef Peer* peer
    cdef sockaddr_storage address
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size)
    epoll_ctl(loop.epoll, EPOLL_CTL_DEL, fd, NULL)
    if error:
        _connect_failed(loop, connector, strerror(error))
        return
    memset(&address, 0, sizeof(address))
    memcpy(&address, connector.address, min(<size_t> connector.address_size, sizeof(address)))
    connector.fd = -1
    peer = _new_peer(loop, fd, connector.side, &address, connector.name)
    if peer == NULL:
        retry_later(loop, connector)
        return
    peer.connector = <int> (connector - loop.connecting)
    connector.up = True


cdef void _connect_failed(Loop* loop, Connecting* connector, const char* why) noexcept nogil:
    if connector.fd >= 0:
        close(connector.fd)
    connector.fd = -1
    notice(
        &loop.notices, loop.dispatcher.now, CONNECT_RETRIED, connector.side,
        connector - loop.connecting, connector.name, why, connector.pause, 0,
    )
    retry_later(loop, connector)


cdef void retry_later(Loop* loop, Connecting* connector) noexcept nogil:
    """Try again after a pause that grows."""
    cdef SocketOptions* options = &loop.options[connector.side]
    connector.next_at = loop.dispatcher.now + connector.pause
    loop.connect_at = earlier(loop.connect_at, connector.next_at)
    connector.pause = min(2 * connector.pause, max(options.reconnect_max, options.reconnect))
