"""The whole state of a queue as bytes, for the process that takes it up."""

from zqueue.engine.wire.entities cimport Dispatcher

cdef bytes dispatcher_saved(Dispatcher* it, dict more)
cdef dict dispatcher_restore(Dispatcher* it, bytes state)
