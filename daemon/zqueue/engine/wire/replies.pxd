"""Replies: which request each answers, and who gets it."""

from zqueue.engine.wire.entities cimport Dispatcher, Peer
from zqueue.engine.wire.zmtp cimport Piece

cdef bint reply_came(Dispatcher* it, Peer* peer, Piece* piece) noexcept nogil
