"""The errors that a person gets to read: what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class ZqueueError(Exception):
    """Something that zqueued cannot do. ``str()`` is for people; ``exit_code`` is for the shell."""

    exit_code = 1


class ConfigError(ZqueueError):
    """The config is refused. ``problems`` has one line for each thing that is wrong with it."""

    exit_code = 78  # EX_CONFIG of sysexits.h

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class EndpointError(ZqueueError):
    """An endpoint that cannot be had: ``where`` in the config, why, and a ``hint`` what to do."""

    def __init__(self, endpoint: str, reason: str, hint: str = "", where: str = "") -> None:
        place = f"{where}: " if where else ""
        advice = f" ({hint})" if hint else ""
        super().__init__(f"{place}{endpoint}: {reason}{advice}")
        self.endpoint = endpoint
        self.reason = reason
        self.hint = hint
        self.where = where


class DeadLettersError(ZqueueError):
    """Dead letters cannot be kept, or looked at: in which file, why, and what to do."""

    code = "failed"

    def __init__(self, path: str | None, reason: str, *, disk_is_full: bool = False) -> None:
        super().__init__(f"dead_letters: {path or 'in memory'}: {reason}")
        self.disk_is_full = disk_is_full
        self.path = path
        self.reason = reason


class AlreadyRunning(ZqueueError):
    """Another zqueued answers on the control socket; ``pid`` is 0 if it will not say."""

    def __init__(self, endpoint: str, pid: int) -> None:
        holder = f"pid {pid}" if pid else "pid unknown"
        super().__init__(
            f"already running, {holder}: it answers on {endpoint} "
            "(a second daemon needs another [control] endpoint)"
        )
        self.endpoint = endpoint
        self.pid = pid


class HandoverRefused(ZqueueError):
    """Connections and requests cannot be handed over, or taken up; nothing has changed."""
