"""Where the control socket is: the daemon binds at the first place it can, and callers look at the
same places in the same order.

What is configured; ``$RUNTIME_DIRECTORY`` (systemd.exec(5)); ``/run/zqueue``;
``$XDG_RUNTIME_DIR/zqueue``; ``/tmp/zqueue-UID``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from zqueue import config_files
from zqueue.errors import ConfigError, EndpointError, ZqueueError

SOCKET_NAME = "control.sock"
_REMEMBERED = "control.endpoint"
"""A file beside the usual place of the socket: where a daemon listens whose config names another.
So it is found also while that config cannot be read, or says something else already."""
_LONGEST_REMEMBERED = 4096
GROUP = "zqueue"
_RUN = Path("/run/zqueue")
_PRIVATE = Path("/run/private")
_CONFIG = Path("/etc/zqueue.toml")
_INSTANCE_CONFIGS = Path("/etc/zqueue")


class Unreachable(ZqueueError):
    """No daemon answers; the message says why, and what to do about it."""

    exit_code = 69  # EX_UNAVAILABLE of sysexits.h


# -- for the daemon ----------------------------------------------------------------------------


def choose_to_bind(configured: str | None) -> str:
    """The endpoint where the daemon is to bind its control socket; its folder exists then.

    A configured endpoint is taken as it is: making its folder is the operator's business.

    Raises:
        EndpointError: there is no place for it.
    """
    if configured is not None:
        return configured
    for folder in _folders():
        if _can_be_written(folder):
            return _endpoint_in(folder)
    private = _private_folder()
    endpoint = _endpoint_in(private)
    try:
        private.mkdir(mode=0o700, exist_ok=True)
        _must_be_ours(private)
    except OSError as error:
        reason = error.strerror or str(error)
        raise EndpointError(endpoint, reason, "set [control] endpoint in the config") from error
    return endpoint


def group(configured: str | None) -> str | None:
    """The group that the control socket is given to: the configured one, or ``zqueue`` where there
    is one and this process may give files to it."""
    if configured is not None:
        return configured
    import grp

    try:
        number = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None
    may_give = os.geteuid() == 0 or number in {os.getegid(), *os.getgroups()}
    return GROUP if may_give and _may_chown(number) else None


def _may_chown(number: int) -> bool:
    """Whether files may be given to a group at all: a unit's ``SystemCallFilter=`` may forbid that.
    What has the group already need not be given to it."""
    if os.getegid() == number:
        return True
    descriptor = os.memfd_create("zqueued-group", os.MFD_CLOEXEC)
    try:
        os.fchown(descriptor, -1, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def remember(config: Path, endpoint: str) -> None:
    """Write down where the daemon with this config listens, if callers would look at that config.

    Where it cannot be written down, callers need the config.
    """
    for folder in _folders_of(config):
        if not _can_be_written(folder):
            continue
        with contextlib.suppress(OSError):
            if folder == _private_folder():
                _must_be_ours(folder)
            new = folder / f"{_REMEMBERED}.new"
            new.write_text(f"{endpoint}\n")
            new.chmod(0o644)
            new.replace(folder / _REMEMBERED)
            return


def forget(config: Path, endpoint: str) -> None:
    """It listens there no more."""
    for folder in _folders_of(config):
        if _remembered(folder) == endpoint:
            with contextlib.suppress(OSError):
                (folder / _REMEMBERED).unlink()


def _folders_of(config: Path) -> list[Path]:
    """Where callers look for the daemon that has this config."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if config == _CONFIG:
        return [*_folders(), _private_folder()]
    if config.parent == _INSTANCE_CONFIGS:
        of_instance = Path(f"{_RUN}-{config.stem}")
        return [Path(runtime)] if runtime == str(of_instance) else [of_instance]
    return []


def _remembered(folder: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        if folder == _private_folder():
            _must_be_ours(folder)
        with (folder / _REMEMBERED).open() as file:
            endpoint = file.read(_LONGEST_REMEMBERED).strip()
        if endpoint.startswith("ipc://"):
            return endpoint
    return None


# -- for its callers ---------------------------------------------------------------------------


def config_of(instance: str) -> Path:
    """The config of the one that is started as ``zqueue@NAME``."""
    return _INSTANCE_CONFIGS / f"{instance}.toml"


def find(instance: str | None = None) -> str:
    """The endpoint at which a daemon listens: the first of the known places where one does.

    ``instance`` is the name of one started as ``zqueue@NAME``.

    Raises:
        Unreachable: none does; the message names every place that was tried.
    """
    config = _CONFIG if instance is None else config_of(instance)
    reasons: list[Unreachable] = []
    for endpoint in dict.fromkeys(_candidates(instance)):
        try:
            probe(endpoint)
        except Unreachable as reason:
            reasons.append(reason)
        else:
            return endpoint
    for known in reasons:
        if isinstance(known, _Forbidden):
            raise known
    unit = f"zqueue@{instance}" if instance else "zqueue"
    places = "\n".join(f"  {reason}" for reason in reasons)
    _, unread = _configured(config)
    if unread:
        raise Unreachable(
            f"no zqueued is found, and {config} cannot be read, which may say where it listens: "
            f"{unread} (say it with --endpoint):\n{places}"
        )
    raise Unreachable(f"no zqueued is running (systemctl start {unit}, or zqueued):\n{places}")


def probe(endpoint: str) -> None:
    """Find out whether anybody listens at ``endpoint``.

    Raises:
        Unreachable: nobody does, or this user may not connect.
    """
    transport, _, path = endpoint.partition("://")
    if transport != "ipc" or not path:
        raise Unreachable(
            f'"{endpoint}" is no endpoint of a control socket; it looks like '
            "ipc:///run/zqueue/control.sock"
        )
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(address)
        except BlockingIOError:
            return  # its backlog is full: somebody listens
        except OSError as error:
            raise _explain(endpoint, path, error) from None


class _Forbidden(Unreachable):
    """A daemon is there, but this user may not talk to it."""


def _explain(endpoint: str, path: str, error: OSError) -> Unreachable:
    if error.errno == errno.ENOENT:
        return Unreachable(f"{endpoint}: no socket is there")
    if error.errno == errno.ECONNREFUSED:
        return Unreachable(f"{endpoint}: nobody listens; a daemon that was killed left the socket")
    if error.errno in (errno.EACCES, errno.EPERM):
        return _Forbidden(f"{endpoint}: {_user()} may not use it{_who_may(Path(path))}")
    return Unreachable(f"{endpoint}: {error.strerror or error}")


def _user() -> str:
    import pwd

    with contextlib.suppress(KeyError):
        return f'the user "{pwd.getpwuid(os.geteuid()).pw_name}"'
    return f"the user {os.geteuid()}"


def _who_may(path: Path) -> str:
    import grp

    if Path(os.path.realpath(path)).is_relative_to(_PRIVATE):
        # A group would not help: systemd lets only root into the folder above it.
        return (
            "; DynamicUser= has it where only root comes: sudo, or a User= of its own in the unit"
        )
    for place in (path, *path.parents):
        try:
            found = place.stat()
        except OSError:
            continue
        needed = stat.S_IWGRP if place == path else stat.S_IXGRP
        if not found.st_mode & needed or found.st_gid == 0:
            what = "" if place == path else f" into the folder {place}"
            return f"; only its owner and root may{what} (sudo, or set [control] mode and group)"
        try:
            name = grp.getgrgid(found.st_gid).gr_name
        except KeyError:
            name = str(found.st_gid)
        what = "it" if place == path else f"the folder {place}"
        return f'; {what} is open to the group "{name}": usermod -aG {name} USER, then log in again'
    return ""


def _candidates(instance: str | None) -> Iterator[str]:
    if instance is not None:
        folder = Path(f"{_RUN}-{instance}")
        configured, _ = _configured(_INSTANCE_CONFIGS / f"{instance}.toml")
        remembered = _remembered(folder)
        if remembered is not None:
            yield from (configured, remembered) if configured else (remembered,)
        yield configured or _endpoint_in(folder)
        return
    configured, _ = _configured(_CONFIG)
    if configured is not None:
        yield configured
    for folder in (*_folders(), _private_folder()):
        remembered = _remembered(folder)
        if remembered is not None:
            yield remembered
    for folder in _folders():
        yield _endpoint_in(folder)
    private = _private_folder()
    with contextlib.suppress(FileNotFoundError):
        try:
            _must_be_ours(private)
        except PermissionError:
            return
    yield _endpoint_in(private)


def _configured(path: Path) -> tuple[str | None, str]:
    """The control endpoint of a config, if it names one, or why that cannot be told."""
    try:
        document = config_files.read(path, may_be_missing=True)
    except ConfigError as error:
        return None, error.problems[0]
    if document is None:
        return None, ""
    for key, problem in document.missing:
        if key == ("control", "endpoint"):
            return None, problem
    control = document.content.get("control")
    endpoint = control.get("endpoint") if isinstance(control, dict) else None
    return (endpoint, "") if isinstance(endpoint, str) else (None, "")


# -- places ------------------------------------------------------------------------------------


def _folders() -> Iterator[Path]:
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if runtime:
        yield Path(runtime)
    yield _RUN
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session:
        yield Path(session) / "zqueue"


def _private_folder() -> Path:
    return Path(f"/tmp/zqueue-{os.geteuid()}")


def _endpoint_in(folder: Path) -> str:
    return f"ipc://{folder / SOCKET_NAME}"


def _can_be_written(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o755, exist_ok=True)
    return os.access(folder, os.W_OK | os.X_OK)


def _must_be_ours(folder: Path) -> None:
    """In /tmp anybody may have made a folder of this name before us."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"{folder} exists and is not a folder of this user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(errno.EPERM, f"{folder} is open to others; chmod 700 {folder}")
