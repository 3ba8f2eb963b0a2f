"""The thread of one queue on the wire engine: sockets, one epoll, no GIL.

A turn reads what is there, lets the dispatcher give out what it can, and writes once a connection.
Descriptors are watched edge-triggered: one that may still be read is in the dispatcher's list
``ready``, one that is held back is in none and costs nothing.
"""

from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t, uint64_t, uint8_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset, strerror
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, itimerspec, timespec
from posix.unistd cimport close, read, write
from zqueue.engine.wire.admission cimport has_room
from zqueue.engine.wire.connections cimport (
    accept_on,
    connect_now,
    connected,
    open_gates,
    retry_later,
    unwatch_listeners,
)
from zqueue.engine.wire.deaths cimport deaths_free, deaths_take
from zqueue.engine.wire.dispatcher cimport (
    dispatcher_due,
    dispatcher_mode,
    dispatcher_pulse,
    dispatcher_turn,
    peer_close,
    peer_deaf,
    peer_hung_up,
    peer_moved,
    peer_reads,
    peer_room,
    peer_sent,
    peer_take,
    peer_was_read,
)
from zqueue.engine.wire.entities cimport Death, Dispatcher, FLOWS, HOLD, Peer
from zqueue.engine.wire.giving cimport can_give
from zqueue.engine.wire.hosts cimport host_came, host_left, hosts_free
from zqueue.engine.wire.instants cimport earlier
from zqueue.engine.wire.linux cimport (
    EPOLLERR,
    EPOLLET,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    EPOLL_CTL_ADD,
    EPOLL_CTL_MOD,
    FIONREAD,
    MSG_NOSIGNAL,
    SIOCOUTQ,
    SOL_SOCKET,
    SO_ERROR,
    TFD_TIMER_ABSTIME,
    epoll_ctl,
    epoll_event,
    epoll_wait,
    getsockopt,
    ioctl,
    iovec,
    msghdr,
    pthread_mutex_lock,
    pthread_mutex_unlock,
    readv,
    recv,
    send,
    sendmsg,
    socklen_t,
    timerfd_settime,
    zq_fence,
    zq_get,
    zq_set,
    zq_window_edge,
)
from zqueue.engine.wire.memory cimport (
    Segment,
    body_bytes,
    outgoing_clear,
    pool_judge,
    pool_unmap,
)
from zqueue.engine.wire.notices cimport NAME, tell_suppressed
from zqueue.engine.wire.listing cimport list_connections, list_requests
from zqueue.engine.wire.peers cimport (
    has_arrived,
    leave_dirty,
    leave_ready,
    peer_end,
    peer_is_ready,
    peer_numbered,
)
from zqueue.engine.wire.receiving cimport submit
from zqueue.engine.wire.workers cimport worker_drain

cdef enum:
    EVENTS = 256
    SMALL_READ = 256
    PARTS = 64
    WRITE_PAUSE = 10_000_000
    UNMAP_PAUSE = 10_000_000


cdef int64_t loop_clock() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t> now.tv_sec * SECOND + now.tv_nsec


# -- the turn ------------------------------------------------------------------------------------


cdef void loop_run(Loop* loop) noexcept nogil:
    """Until it is closed, or frozen: then all is as it was, and it may be run again."""
    cdef epoll_event events[EVENTS]
    cdef int count, place
    cdef Dispatcher* it = &loop.dispatcher
    cdef Peer* carried_over
    loop.frozen = False
    it.now = loop_clock()
    _keep_time(loop)
    while True:
        count = epoll_wait(loop.epoll, events, EVENTS, 0 if it.ready != NULL else -1)
        it.now = loop_clock()
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
        if 0 < loop.write_at <= it.now:
            _write_again(loop)
        _settle(loop)
        _keep_time(loop)
        _publish(loop)
        if loop.frozen or (loop.closing and _has_flushed(loop)):
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
        accept_on(loop, <Listening*> what)
    elif tag == IS_CONNECTOR:
        connected(loop, <Connecting*> what)
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
            leave_dirty(it, peer)
            if not peer.waits_to_write:
                _flush(loop, peer)
        if it.ended != NULL:
            _close_ended(loop)
        elif it.dirty == NULL and it.let_go == NULL and not can_give(it) and not _can_admit(it):
            return


cdef inline bint _can_admit(Dispatcher* it) noexcept nogil:
    """Whether flushing has made room for a client that did not read its replies."""
    return it.stalled and has_room(it)


# -- reading and writing -------------------------------------------------------------------------


cdef void _read(Loop* loop, Peer* peer) noexcept nogil:
    """Read once, or twice if the first time has only told how much comes. What is left is read in the
    next turn, after the others."""
    cdef bint large = peer.sends_large
    _read_once(loop, peer)
    if large and peer.ready and not peer.ended:
        _read_once(loop, peer)


cdef void _read_once(Loop* loop, Peer* peer) noexcept nogil:
    cdef Dispatcher* it = &loop.dispatcher
    cdef uint8_t* room = NULL
    cdef size_t missing, asked, spare
    cdef bint is_read
    cdef ssize_t got
    cdef iovec parts[2]
    if loop.closing or peer.ended:
        return
    is_read = peer.leaving and peer.held == NULL and _has_been_read(peer)
    if is_read and (peer.stalled != FLOWS or not peer.hung_up):
        peer_end(it, peer, _failure(peer))
        return
    # Reading the end of what hung up needs no room.
    if not is_read and not peer_reads(it, peer):
        if peer.hung_up:
            peer_hung_up(it, peer)
        return
    missing = peer_room(it, peer, &room)
    # What is read before it is known where it belongs has to be copied there.
    spare = SMALL_READ if peer.sends_large else BUFFER
    asked = missing + spare
    if missing:
        parts[0].iov_base, parts[0].iov_len = room, missing
        parts[1].iov_base, parts[1].iov_len = loop.buffer, spare
        got = readv(peer.fd, parts, 2)
    else:
        got = recv(peer.fd, loop.buffer, spare, 0)
    if got > 0:
        if peer.unread > 0:
            # What came since is read with it, and is not what is waited for.
            peer.unread = max(peer.unread - got, <int64_t> 0)
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
        if peer.deaf:
            peer_end(it, peer, b"nothing can be sent to it any more")
    elif errno == EINTR:
        peer_is_ready(it, peer)
    else:
        # One that is not in yet has left, however it did.
        peer_end(it, peer, strerror(errno) if has_arrived(peer) else NULL)


cdef bint _has_been_read(Peer* peer) noexcept nogil:
    """Whether all is read that had come when it was to leave, or hung up. What it goes on to send is
    not waited for: that might never end."""
    cdef int unread = 0
    if peer.unread < 0 or peer.hung_up:
        ioctl(peer.fd, FIONREAD, &unread)
        peer.unread = unread
    return peer.unread <= 0


cdef const char* _failure(Peer* peer) noexcept nogil:
    """Of what its connection has ended, NULL if of nothing that the kernel knows."""
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    getsockopt(peer.fd, SOL_SOCKET, SO_ERROR, &error, &size)
    return strerror(error) if error else NULL


cdef void _read_again(Loop* loop, Peer* peer) noexcept nogil:
    """Those that had more than one read's worth, or were held back and are no more."""
    cdef Peer* after
    while peer != NULL:
        after = peer.ready_next
        peer.ready = False
        if peer.readable:
            _read(loop, peer)
        peer_was_read(&loop.dispatcher, peer)
        peer = after


cdef void _flush(Loop* loop, Peer* peer) noexcept nogil:
    """Write as much as the socket takes. Nothing but EAGAIN promises that it will tell when it takes
    more: a local socket may also take less than all for want of memory."""
    cdef Dispatcher* it = &loop.dispatcher
    cdef ssize_t sent
    while peer.session.out.first != NULL and not peer.deaf:
        sent = _send(peer)
        if sent >= 0:
            peer_sent(it, peer, <size_t> sent)
        elif errno == EAGAIN:
            _watch_writing(loop, peer, True)
            return
        elif errno in (ENOBUFS, ENOMEM):
            loop.write_at = loop.write_at or it.now + WRITE_PAUSE
            return
        elif errno != EINTR:
            peer_deaf(it, peer)
            return
    if peer.deaf:
        # What is for a client may be for its next connection.
        if peer.client == NULL or peer.leaving:
            outgoing_clear(&it.pool, &peer.session.out)
    elif peer.waits_to_write:
        _watch_writing(loop, peer, False)


cdef void _write_again(Loop* loop) noexcept nogil:
    """To those for whom the kernel had no memory; it does not tell when it has."""
    cdef Peer* peer = loop.dispatcher.peers
    loop.write_at = 0
    while peer != NULL:
        if peer.session.out.first != NULL and not peer.ended:
            _flush(loop, peer)
        peer = peer.next


cdef ssize_t _send(Peer* peer) noexcept nogil:
    cdef iovec parts[PARTS]
    cdef msghdr message
    cdef Segment* segment = peer.session.out.first
    if segment.next == NULL:
        return send(
            peer.fd, body_bytes(segment.body) + segment.begin, segment.end - segment.begin, MSG_NOSIGNAL
        )
    memset(&message, 0, sizeof(message))
    message.msg_iov = parts
    while segment != NULL and message.msg_iovlen < PARTS:
        parts[message.msg_iovlen].iov_base = body_bytes(segment.body) + segment.begin
        parts[message.msg_iovlen].iov_len = segment.end - segment.begin
        message.msg_iovlen += 1
        segment = segment.next
    return sendmsg(peer.fd, &message, MSG_NOSIGNAL)


cdef void _watch_writing(Loop* loop, Peer* peer, bint watch) noexcept nogil:
    cdef epoll_event event
    if peer.waits_to_write == watch:
        return
    peer.waits_to_write = watch
    event.events = EPOLLIN | EPOLLRDHUP | EPOLLET | (EPOLLOUT if watch else 0)
    event.data.u64 = <uint64_t> <uintptr_t> peer | IS_PEER
    epoll_ctl(loop.epoll, EPOLL_CTL_MOD, peer.fd, &event)


cdef bint loop_take_up(Loop* loop, Peer* peer, int fd) noexcept nogil:
    """The descriptor of a connection that another process has left to us; False if it cannot be
    watched."""
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLRDHUP | EPOLLET
    event.data.u64 = <uint64_t> <uintptr_t> peer | IS_PEER
    if epoll_ctl(loop.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
        return False
    peer.fd = fd
    host_came(&loop.hosts[peer.side], peer.address)
    return True


cdef void _close_ended(Loop* loop) noexcept nogil:
    """Close what has ended; an ERROR that says why may still get out."""
    cdef Dispatcher* it = &loop.dispatcher
    cdef Peer* peer
    while it.ended != NULL:
        peer = it.ended
        it.ended = peer.ended_next
        if peer.session.out.first != NULL and not peer.waits_to_write:
            _flush(loop, peer)
        _close_peer(loop, peer)


cdef void _close_peer(Loop* loop, Peer* peer) noexcept nogil:
    cdef Dispatcher* it = &loop.dispatcher
    cdef Connecting* connector
    if peer.ready:
        leave_ready(it, peer)
    if peer.connector >= 0 and not loop.closing:
        connector = &loop.connecting[peer.connector]
        connector.up = False
        if peer.client != NULL or peer.worker != NULL:
            connector.pause = loop.options[connector.side].reconnect
        retry_later(loop, connector)
    close(peer.fd)
    host_left(&loop.hosts[peer.side], peer.address)
    peer_close(it, peer)


# -- time and orders -----------------------------------------------------------------------------


cdef void _keep_time(Loop* loop) noexcept nogil:
    """Do what is due, and have the timer wake us for what is due next."""
    cdef Dispatcher* it = &loop.dispatcher
    cdef Peer* peer
    while (peer := dispatcher_pulse(it)) != NULL:
        _look_at(loop, peer)
    if loop.gates_at and loop.gates_at <= it.now:
        open_gates(loop)
    if 0 < loop.connect_at <= it.now and not loop.closing:
        _connect_due(loop)
    if 0 < loop.unmap_at <= it.now:
        loop.unmap_at = it.now + UNMAP_PAUSE if pool_unmap(&it.pool) else 0
    # What is over by time makes room, or has to go to another worker.
    if (
        it.dirty != NULL or it.ended != NULL or it.let_go != NULL or can_give(it) or _can_admit(it)
    ):
        _settle(loop)
    _set_timer(loop, _next_due(loop))


cdef void _look_at(Loop* loop, Peer* peer) noexcept nogil:
    """Ask the kernel what has become of what was sent. To tcp all is delivered that the peer's kernel
    has; on a local socket, what its process has read."""
    cdef int unsent = 0
    cdef uint64_t edge = 0
    if ioctl(peer.fd, SIOCOUTQ, &unsent) < 0:
        unsent = 0
    edge = zq_window_edge(peer.fd)
    peer_moved(
        &loop.dispatcher, peer, <int64_t> peer.sent_bytes - unsent, <uint64_t> max(unsent, 0), edge
    )


cdef int64_t _next_due(Loop* loop) noexcept nogil:
    cdef Dispatcher* it = &loop.dispatcher
    cdef int64_t due = earlier(dispatcher_due(it), loop.gates_at)
    due = earlier(earlier(due, loop.write_at), loop.unmap_at)
    if loop.closing:
        return earlier(due, loop.close_by)
    return earlier(due, loop.connect_at)


cdef void _connect_due(Loop* loop) noexcept nogil:
    """Try those that are due, and see which is due next."""
    cdef Connecting* connector
    cdef int place
    loop.connect_at = 0
    for place in range(loop.connecting_count):
        connector = &loop.connecting[place]
        if 0 < connector.next_at <= loop.dispatcher.now:
            connect_now(loop, connector)
        loop.connect_at = earlier(loop.connect_at, connector.next_at)


cdef void _set_timer(Loop* loop, int64_t due) noexcept nogil:
    cdef itimerspec at
    # Too early does no harm: it is armed anew then. Every turn would be a system call each.
    if due == loop.armed or not due or (loop.armed and loop.armed < due):
        return
    loop.armed = due
    memset(&at, 0, sizeof(at))
    at.it_value.tv_sec = due // SECOND
    at.it_value.tv_nsec = due % SECOND
    timerfd_settime(loop.timer, TFD_TIMER_ABSTIME, &at, NULL)


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
    cdef Submission* asked
    if order.what == SET_MODE:
        dispatcher_mode(it, <int> order.argument)
    elif order.what == DRAIN_WORKER:
        peer = peer_numbered(it, order.argument)
        if peer != NULL and peer.worker != NULL:
            worker_drain(it, peer.worker)
    elif order.what == END_PEER:
        peer = peer_numbered(it, order.argument)
        if peer != NULL:
            peer_end(it, peer, b"an operator sent it away")
    elif order.what == NUDGE:
        pool_judge(&it.pool)
        loop.unmap_at = it.now
        tell_suppressed(&loop.notices, it.now)
    elif order.what == SUBMIT:
        asked = <Submission*> <uintptr_t> order.argument
        submit(
            it, asked.id, asked.id_size, <uint8_t*> (asked + 1), asked.size, asked.envelope,
            asked.frames, asked.payload,
        )
        free(asked)
    elif order.what == FREEZE:
        loop.frozen = True
    elif order.what == LIST_CONNECTIONS:
        list_connections(it, <int> order.argument, &loop.listing)
    elif order.what == LIST_REQUESTS:
        list_requests(it, &loop.listing)
    elif order.what == CLOSE:
        dispatcher_mode(it, HOLD)
        unwatch_listeners(loop)
        loop.closing = True
        loop.close_by = it.now + order.argument


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
    """Let readers see counters that add up and the mode that these came about in, and wake whoever is
    to hear the notices."""
    cdef uint64_t one = 1
    zq_set(&loop.version, loop.version + 1)
    zq_fence()
    loop.published = loop.dispatcher.counters
    zq_fence()
    zq_set(&loop.version, loop.version + 1)
    zq_set(&loop.mode_done, <uint64_t> loop.dispatcher.mode)
    if loop.dispatcher.died_first != NULL or zq_get(<uint64_t*> &loop.deaths_read):
        _exchange_deaths(loop)
    if loop.notices.written != loop.told_upto or (
        loop.tap.written != loop.tapped_upto and zq_get(&loop.tap.wakes)
    ):
        loop.told_upto = loop.notices.written
        loop.tapped_upto = loop.tap.written
        write(loop.told, &one, sizeof(one))


cdef void _exchange_deaths(Loop* loop) noexcept nogil:
    """Hand over those that died, once the last ones were taken, and free those that were read."""
    cdef uint64_t one = 1
    cdef Death* read_already
    cdef bint told = False
    pthread_mutex_lock(&loop.lock)
    read_already, loop.deaths_read = loop.deaths_read, NULL
    if loop.deaths == NULL and loop.dispatcher.died_first != NULL:
        loop.deaths = deaths_take(&loop.dispatcher)
        told = True
    pthread_mutex_unlock(&loop.lock)
    deaths_free(&loop.dispatcher, read_already)
    if told:
        write(loop.told, &one, sizeof(one))


cdef void loop_deaths_read(Loop* loop, Death* first) noexcept nogil:
    """The other thread has read them; this one frees them, and tells of more if there are more."""
    cdef uint64_t one = 1
    cdef Death* last = first
    while last.next != NULL:
        last = last.next
    pthread_mutex_lock(&loop.lock)
    last.next = loop.deaths_read
    loop.deaths_read = first
    pthread_mutex_unlock(&loop.lock)
    write(loop.wake, &one, sizeof(one))


cdef void loop_free_deaths(Loop* loop) noexcept nogil:
    deaths_free(&loop.dispatcher, loop.deaths)
    deaths_free(&loop.dispatcher, loop.deaths_read)
    loop.deaths = loop.deaths_read = NULL


cdef void loop_close(Loop* loop) noexcept nogil:
    """Close every connection and listening socket. The last published counters stay as they are:
    they tell what was left."""
    cdef int place
    loop.closing = True
    loop.dispatcher.ended = NULL
    while loop.dispatcher.peers != NULL:
        _close_peer(loop, loop.dispatcher.peers)
    for place in range(loop.listening_count):
        close(loop.listening[place].fd)
    loop.listening_count = 0
    for place in range(loop.connecting_count):
        if loop.connecting[place].fd >= 0:
            close(loop.connecting[place].fd)
    loop.connecting_count = 0
    for place in range(2):
        hosts_free(&loop.hosts[place])
