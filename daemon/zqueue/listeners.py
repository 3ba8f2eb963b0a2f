"""Listening sockets of our own, which libzmq then accepts on.

zqueue opens every listening socket itself and lends libzmq a duplicate (``ZMQ_USE_FD``), because
libzmq's own ``bind`` steals a living ipc endpoint without a word (libzmq#2059), and because an
``unbind`` ends the connections that were accepted on it. Owning the socket, we can say who holds a
port, hand it to the next engine without closing it, and stop new connections for a while.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from zqueue import descriptors, endpoints
from zqueue.endpoints import Endpoint
from zqueue.errors import AlreadyRunning, EndpointError
from zqueue.families import ipv4_of

_IP_MINTTL = 21
_IPV6_MINHOPCOUNT = 73
_NO_HOPS_LEFT = 255
_LOCKED_FOR_AT_MOST = 2.0
_CALLERS_QUEUED = 128
"""Few enough that all of them may still be accepted when descriptors run out."""
_PUT_ASIDE = ".full"
_ANY_HOST = ("*", "0.0.0.0", "::")


class Listener:
    """One listening socket: lent to libzmq by :meth:`attach`, closed by :meth:`close`.

    ``endpoint`` is as a peer on this machine would connect to it, with the port that was really
    taken; ``asked`` is as the config wrote it. While it is ``borrowed`` another process goes on
    with the socket, whatever becomes of this listener.
    """

    def __init__(
        self, asked: str, sock: socket.socket, path: str | None, *, ours: bool = True
    ) -> None:
        """``path`` is that of an ipc socket; if it is not ``ours``, somebody else made it."""
        self.asked = asked
        self.endpoint = endpoint_of(sock)
        self.on_close: Callable[[], None] | None = None
        self.borrowed = False
        self._socket = sock
        self._path = path if ours else None
        self._ours = ours
        self._inode = os.stat(path).st_ino if path and ours else None
        self._gate_closed = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def socket(self) -> socket.socket:
        return self._socket

    @property
    def port(self) -> int:
        """The tcp port, 0 for ipc."""
        return int(self.endpoint.rpartition(":")[2]) if self.endpoint.startswith("tcp") else 0

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    @property
    def ours(self) -> bool:
        """Whether zqueue opened it; else a socket unit did."""
        return self._ours

    @property
    def inode(self) -> int | None:
        """That of an ipc socket's path, if we made it."""
        return self._inode

    def attach(self, zmq_socket: zmq.Socket[Any]) -> None:
        """Let ``zmq_socket`` accept connections here, on a duplicate of the descriptor."""
        lent = os.dup(self._socket.fileno())
        zmq_socket.setsockopt(zmq.USE_FD, lent)
        try:
            zmq_socket.bind(self.endpoint)
        except zmq.ZMQError:
            os.close(lent)
            raise
        finally:
            zmq_socket.setsockopt(zmq.USE_FD, -1)

    @property
    def gate_closed(self) -> bool:
        return self._gate_closed

    def close_gate(self) -> bool:
        """Take no new connections; those that exist stay. False where that cannot be done.

        tcp: the kernel drops the packets of new connections, so that clients go on trying and wait
        in their own connect. ipc: the path is put aside, and clients try again.

        On tcp by the least ttl of a packet (RFC 5082), above that with which packets are sent: a
        socket filter would do as well, but newer kernels let only root attach one to tcp.
        """
        if self._gate_closed:
            return True
        if self._socket.family in (socket.AF_INET, socket.AF_INET6):
            shut = partial(_take_from_ttl, self._socket, _NO_HOPS_LEFT)
        elif self._path is not None:
            shut = partial(os.rename, self._path, self._path + _PUT_ASIDE)
        else:
            return False
        try:
            shut()
        except OSError:
            return False
        self._gate_closed = True
        return True

    def open_gate(self) -> None:
        """Take new connections again."""
        if not self._gate_closed:
            return
        if self._path is None:
            _take_from_ttl(self._socket, 0)
        else:
            with contextlib.suppress(OSError):
                os.rename(self._path + _PUT_ASIDE, self._path)
        self._gate_closed = False

    def turn_away(self) -> None:
        """Accept and close what waits to be accepted, even where descriptors have run out.

        Otherwise libzmq would try again for ever, at full speed, as long as a connection waits.
        """
        with_own_table = threading.Thread(target=self._turn_away, name="zq.turn_away")
        with_own_table.start()
        with_own_table.join()

    def _turn_away(self) -> None:
        if not descriptors.keep_only(self._socket.fileno()):
            return
        with contextlib.suppress(OSError):
            while True:
                self._socket.accept()[0].close()

    def close(self) -> None:
        """Close the socket, also where it is kept for another run, and remove an ipc path."""
        if self.closed:
            return
        if self.borrowed:
            self.leave()
            return
        self.open_gate()
        if self._ours:
            # As long as it listens, whoever holds a duplicate, nobody else can have the port.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        if self._path is not None:
            with contextlib.suppress(OSError):
                if os.stat(self._path).st_ino == self._inode:
                    os.unlink(self._path)
                if self.asked == "ipc://*":
                    os.rmdir(os.path.dirname(self._path))
        self._socket.close()
        if self.on_close is not None:
            self.on_close()

    def let_go(self) -> None:
        """Close this process's descriptor only: on tcp it goes on listening where it is kept."""
        if self._path is not None:
            self.close()
        else:
            self.leave()

    def leave(self) -> None:
        """Close this process's descriptor only: another process has one, and the path is its."""
        if not self.closed:
            self.open_gate()
            self._socket.close()


def adopt(asked: str, sock: socket.socket, *, ours: bool) -> Listener:
    """A listener on a socket that listens already; not ``ours``: nothing of it is ever removed."""
    sock.setblocking(False)
    path = None
    if sock.family == socket.AF_UNIX:
        name = sock.getsockname()
        path = name if isinstance(name, str) and name else None
    else:
        # The run before may have ended with its gate closed.
        with contextlib.suppress(OSError):
            _take_from_ttl(sock, 0)
    return Listener(asked, sock, path, ours=ours)


def _take_from_ttl(sock: socket.socket, least: int) -> None:
    """Have the kernel drop packets that come to ``sock`` with a smaller ttl."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, least)
    sock.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, least)


class Address(NamedTuple):
    """Where a socket listens. ``host`` is a path for ipc, an address for tcp; without a ``port``
    the kernel chooses one, and ipc has none."""

    family: int
    host: str
    port: int | None

    @property
    def chosen_by_kernel(self) -> bool:
        return self.host == "*" if self.family == socket.AF_UNIX else self.port is None

    def any_port(self) -> Address:
        return self._replace(port=None)


def address_of(sock: socket.socket) -> Address:
    """Where a socket listens."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        path = os.path.abspath(name) if isinstance(name, str) else "@" + os.fsdecode(name[1:])
        return Address(sock.family, path, None)
    return Address(sock.family, str(name[0]), int(name[1]))


def address_to_bind(endpoint: str, ipv6: bool) -> Address:
    """Where :func:`listen` would listen.

    Raises:
        EndpointError: its host is not known here.
    """
    parsed = endpoints.parse(endpoint, "bind")
    if parsed.transport == "tcp":
        family, address = _tcp_address(endpoint, parsed, ipv6)
        return Address(family, str(address[0]), parsed.port)
    name = parsed.address
    path = name if parsed.abstract or name == "*" else os.path.abspath(name)
    return Address(socket.AF_UNIX, path, None)


def matches(sock: socket.socket, wanted: Endpoint) -> bool:
    """Whether a socket unit's socket is one that serves ``wanted``, which may be of either family
    if it is for all addresses."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        if wanted.transport != "ipc":
            return False
        if wanted.abstract:
            return bool(name == b"\0" + wanted.address[1:].encode())
        return isinstance(name, str) and os.path.abspath(wanted.path) == os.path.abspath(name)
    if wanted.transport != "tcp" or wanted.port not in (None, name[1]):
        return False
    if wanted.host in _ANY_HOST:
        return str(name[0]) in _ANY_HOST
    _, address = _tcp_address("", wanted, ipv6=sock.family == socket.AF_INET6)
    return bool(address[0] == name[0])


def listen(
    endpoint: str,
    *,
    backlog: int = 1024,
    ipv6: bool = False,
    mode: int = 0o660,
    group: str | None = None,
    beside: Sequence[socket.socket] = (),
) -> Listener:
    """Open a listening socket for ``endpoint`` (``tcp://host:port``, ``ipc://path``).

    ``beside`` are tcp sockets of this user that still listen and may be in the way, but will be
    closed soon. ``mode`` and ``group`` are for the path of an ipc endpoint. A socket file that a
    killed process left behind is replaced, that of a living one never.

    Raises:
        EndpointError: it cannot be had; the message says why, by whom, and what to do.
    """
    parsed = endpoints.parse(endpoint, "bind")
    if parsed.transport == "ipc":
        return _listen_ipc(endpoint, parsed, backlog, mode, group)
    return _listen_tcp(endpoint, parsed, backlog, ipv6, beside)


def listen_control(endpoint: str, *, mode: int, group: str | None) -> Listener:
    """:func:`listen` for the control socket, where a living holder is another zqueued.

    Raises:
        AlreadyRunning: a daemon answers there.
        EndpointError: as for :func:`listen`.
    """
    try:
        return listen(endpoint, backlog=_CALLERS_QUEUED, mode=mode, group=group)
    except _Taken as error:
        raise AlreadyRunning(endpoint, error.pid) from error


# -- tcp -------------------------------------------------------------------------------------


def _listen_tcp(
    endpoint: str,
    parsed: Endpoint,
    backlog: int,
    ipv6: bool,
    beside: Sequence[socket.socket] = (),
) -> Listener:
    family, address = _tcp_address(endpoint, parsed, ipv6)
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            any_host = address[0] == "::"
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if any_host else 1)
        with _sharing_a_port([*beside, sock] if beside else []):
            sock.bind(address)
            sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise _tcp_error(endpoint, int(address[1]), error) from error
    return Listener(endpoint, sock, None)


@contextlib.contextmanager
def _sharing_a_port(sockets: Sequence[socket.socket]) -> Iterator[None]:
    """Let these be bound to one port. Only for as long as this lasts: another process of this user
    could join them."""
    try:
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield
    finally:
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _tcp_address(
    endpoint: str, parsed: Endpoint, ipv6: bool
) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]:
    host, port = parsed.host or "*", parsed.port or 0
    if host == "*":
        if ipv6 and socket.has_ipv6:
            return socket.AF_INET6, ("::", port, 0, 0)
        return socket.AF_INET, ("0.0.0.0", port)
    interface = _interface_address(host)
    if interface is not None:
        return socket.AF_INET, (interface, port)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise EndpointError(
            endpoint,
            f'"{host}" is neither an address, nor an interface, nor a host name known here',
            "write an address of this machine, or * for all of them",
        ) from error
    wanted = [entry for entry in found if ipv6 or entry[0] == socket.AF_INET] or found
    family, _, _, _, address = wanted[0]
    if family == socket.AF_INET6:
        return socket.AF_INET6, (str(address[0]), int(address[1]), 0, int(address[3]))  # type: ignore[misc]
    return socket.AF_INET, (str(address[0]), int(address[1]))


def _interface_address(name: str) -> str | None:
    # Not socket.if_nameindex(), which needs a netlink socket: a hardened unit has none.
    if "/" in name or not os.path.isdir(f"/sys/class/net/{name}"):
        return None
    return ipv4_of(name)


def _tcp_error(endpoint: str, port: int, error: OSError) -> EndpointError:
    if error.errno == errno.EADDRINUSE:
        holder = holder_of_port(port)
        if holder is not None and holder.endswith("(pid 1)"):
            return EndpointError(
                endpoint,
                f"port {port} is in use by systemd, for a socket unit or what a service has kept",
                "systemctl list-sockets shows socket units; or choose another port",
            )
        return EndpointError(
            endpoint,
            f"port {port} is in use" + (f" by {holder}" if holder else " by another process"),
            f"stop it, or choose another port (ss -ltnp 'sport = :{port}' shows the holder)",
        )
    if error.errno == errno.EACCES:
        return EndpointError(
            endpoint,
            f"port {port} is a privileged port and this user may not take it",
            "choose a port from 1024 up, or give the service "
            "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return EndpointError(
            endpoint, "that is not an address of this machine", "`ip address` lists them; * is all"
        )
    return EndpointError(endpoint, os.strerror(error.errno or 0), "")


def holder_of_port(port: int) -> str | None:
    """``name (pid N)`` of a process that listens on tcp ``port``, as far as /proc tells us."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{columns[9]}]")
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor) in inodes:
                        return _named(int(process.name))
    return None


def _named(pid: int) -> str:
    with contextlib.suppress(OSError):
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} (pid {pid})"
    return f"pid {pid}"


# -- ipc -------------------------------------------------------------------------------------


class _Taken(EndpointError):
    """Somebody listens there; ``pid`` is 0 if the kernel will not say who."""

    def __init__(self, endpoint: str, pid: int) -> None:
        holder = _named(pid) if pid else "another process"
        super().__init__(endpoint, f"{holder} listens there already", "stop it, or choose another")
        self.pid = pid


def _listen_ipc(
    endpoint: str, parsed: Endpoint, backlog: int, mode: int, group: str | None
) -> Listener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if parsed.abstract:
            sock.bind("\0" + parsed.address[1:])
            sock.listen(backlog)
            return Listener(endpoint, sock, None)
        path = _real_path(parsed)
        with _locked(endpoint, path):
            _make_way(endpoint, path)
            # Nobody may connect before the mode and the group are right.
            os.fchmod(sock.fileno(), 0o600)
            sock.bind(path)
            try:
                set_access(endpoint, path, mode, group)
                sock.listen(backlog)
            except BaseException:
                os.unlink(path)
                raise
        return Listener(endpoint, sock, path)
    except OSError as error:
        sock.close()
        raise _ipc_error(endpoint, parsed, error) from error
    except BaseException:
        sock.close()
        raise


def _real_path(parsed: Endpoint) -> str:
    path = parsed.address
    if path == "*":
        return os.path.join(tempfile.mkdtemp(prefix="zqueue-"), "socket")
    return os.path.abspath(path)


@contextlib.contextmanager
def _locked(endpoint: str, path: str) -> Iterator[None]:
    """Keep two daemons from replacing the same stale socket file at the same time.

    The lock is a file that nobody else may open; it is there only for as long as this takes.
    """
    lock = path + ".lock"
    deadline = time.monotonic() + _LOCKED_FOR_AT_MOST
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == os.stat(lock).st_ino:
                break
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise EndpointError(endpoint, f"another process keeps {lock} locked")
        time.sleep(0.01)
    try:
        yield
    finally:
        os.unlink(lock)
        os.close(descriptor)


def _make_way(endpoint: str, path: str) -> None:
    for left_over in (path, path + _PUT_ASIDE):
        try:
            kind = os.lstat(left_over).st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISSOCK(kind):
            raise EndpointError(
                endpoint,
                f"{left_over} exists and is not a socket",
                "move it away, or choose another path",
            )
        pid = _listening_pid(left_over)
        if pid is not None:
            raise _Taken(endpoint, pid)
        os.unlink(left_over)


def _listening_pid(address: str) -> int | None:
    """The pid that listens at a path, or at an abstract ``"\\0name"``; ``None`` if nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(address)
        except BlockingIOError:
            return 0
        except PermissionError:
            return 0
        except OSError:
            return None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(array.array("i", credentials)[0])


def set_access(endpoint: str, path: str, mode: int, group: str | None) -> None:
    """Let those connect to an ipc socket whom its mode and its group let.

    Raises:
        EndpointError: it cannot be given to the group.
    """
    if group is not None:
        _give_to_group(endpoint, path, group)
    os.chmod(path, mode)


def _give_to_group(endpoint: str, path: str, group: str) -> None:
    import grp

    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError:
        raise EndpointError(
            endpoint, f'there is no group "{group}"', f"groupadd --system {group}"
        ) from None
    if os.stat(path).st_gid == number:
        return  # under systemd it is so by Group=, and chown(2) is not allowed
    try:
        os.chown(path, -1, number)
    except PermissionError:
        raise EndpointError(
            endpoint,
            f'this user may not give {path} to the group "{group}"',
            f"run zqueued as a member of {group}, or set another [control] group",
        ) from None


def _ipc_error(endpoint: str, parsed: Endpoint, error: OSError) -> EndpointError:
    folder = os.path.dirname(os.path.abspath(parsed.address))
    if error.errno == errno.ENOENT:
        return EndpointError(
            endpoint,
            f"the folder {folder} does not exist",
            f"mkdir -p {folder} (under systemd, RuntimeDirectory= makes it)",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return EndpointError(
            endpoint,
            f"this user may not write in the folder {folder}",
            "give it to the user that runs zqueued, or choose another path",
        )
    if error.errno == errno.EADDRINUSE:
        return _Taken(endpoint, _listening_pid("\0" + parsed.address[1:]) or 0)
    return EndpointError(endpoint, os.strerror(error.errno or 0), "")


def endpoint_of(sock: socket.socket) -> str:
    """Where a listening socket listens, as a peer on this machine would connect to it."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        path = name if isinstance(name, str) else "@" + bytes(name)[1:].decode(errors="replace")
        return f"ipc://{path}"
    host = f"[{name[0]}]" if sock.family == socket.AF_INET6 else name[0]
    return f"tcp://{host}:{name[1]}"
