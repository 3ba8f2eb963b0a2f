"""See due.pxd."""

from libc.stdlib cimport realloc


cdef bint due_has_room(Dispatcher* it) noexcept nogil:
    """Make room for one peer more; False if there is no memory."""
    cdef Peer** heap
    cdef int size = max(64, 2 * it.due_size)
    if it.peers_out < it.due_size:
        return True
    heap = <Peer**> realloc(it.due, sizeof(Peer*) * size)
    if heap == NULL:
        return False
    it.due, it.due_size = heap, size
    return True


cdef void schedule(Dispatcher* it, Peer* peer, int64_t due) noexcept nogil:
    """Look at ``peer`` again at ``due``, or never if that is 0."""
    cdef int place
    cdef Peer* last
    peer.due = due
    if peer.due_place < 0:
        if not due:
            return
        place = it.due_count
        it.due_count += 1
        it.due[place] = peer
        peer.due_place = place
        _sift(it, peer)
    elif due:
        _sift(it, peer)
    else:
        it.due_count -= 1
        last = it.due[it.due_count]
        place = peer.due_place
        peer.due_place = -1
        if last != peer:
            it.due[place] = last
            last.due_place = place
            _sift(it, last)


cdef void schedule_by(Dispatcher* it, Peer* peer, int64_t due) noexcept nogil:
    """Look at ``peer`` again at ``due`` at the latest."""
    if not peer.due or peer.due > due:
        schedule(it, peer, due)


cdef inline bint _is_before(Peer* one, Peer* other) noexcept nogil:
    """Of those that are due at once the oldest, so that it is the same whatever was before."""
    return one.due < other.due or (one.due == other.due and one.number < other.number)


cdef void _sift(Dispatcher* it, Peer* peer) noexcept nogil:
    """Move it up or down the heap until it is where it belongs."""
    cdef int place = peer.due_place, other
    while place and _is_before(peer, it.due[(place - 1) // 2]):
        other = (place - 1) // 2
        it.due[place] = it.due[other]
        it.due[place].due_place = place
        place = other
    while True:
        other = 2 * place + 1
        if other >= it.due_count:
            break
        if other + 1 < it.due_count and _is_before(it.due[other + 1], it.due[other]):
            other += 1
        if _is_before(peer, it.due[other]):
            break
        it.due[place] = it.due[other]
        it.due[place].due_place = place
        place = other
    it.due[place] = peer
    peer.due_place = place
