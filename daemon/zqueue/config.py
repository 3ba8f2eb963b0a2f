"""``zqueue.toml``: its keys and their defaults, reading it, and what differs between two of them.

Everything that is wrong with a file is told at once, each problem in one line that names the key,
the line in the file, what was found there and what is allowed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from zqueue import config_files, endpoints, error_reply, families
from zqueue.config_conflicts import conflicts, endpoints_written, listening_endpoint
from zqueue.config_files import Document
from zqueue.config_problems import Plain, dotted, refusals, told
from zqueue.engine import LARGEST_SUBSCRIPTION
from zqueue.engine.wire import support
from zqueue.errors import ConfigError
from zqueue.event_filter import kinds
from zqueue.quantities import Duration, Size, format_duration, parse_duration
from zqueue.toml_positions import Path as KeyPath
from zqueue.toml_positions import Place

DEFAULT_PATH = Path("/etc/zqueue.toml")
"""The file that is read when none is named."""

_LONGEST_KEEPALIVE = 32767  # MAX_TCP_KEEPIDLE of the kernel, in seconds
_QUEUE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})")
_MODE = re.compile(r"0?[0-7]{3}")
_USER_OR_GROUP = re.compile(r"@?[A-Za-z0-9_][A-Za-z0-9_.-]*\$?")
_LETTERS = ("dead_letters", "dead_letters_max", "dead_letters_max_bytes", "dead_letters_sync")
APPLIED_BY_A_RESTART = (
    "control.endpoint",
    "control.mode",
    "control.group",
    "log.format",
    "daemon.name",
)
_APPLIED_LIVE = {"start", "drain_timeout", "tap", *_LETTERS}
_SIDES = ("frontend", "backend")
_FOR_WIRE = (
    "prefetch",
    "max_waiting",
    "max_waiting_bytes",
    "max_unsent",
    "max_frames",
    "max_attempts",
    "redeliver",
    "when_full",
    "deadline",
    "max_waiting_time",
    "service_timeout",
    "client_grace",
    "slow_request",
    "tap",
    *_LETTERS,
    "keep_for_gone_clients",
    "error_reply",
    "max_connections",
    "reserved_for_workers",
    "max_connections_per_address",
    "duplicate_id",
)

T = TypeVar("T")


# -- values ------------------------------------------------------------------------------------


def _to_bind(value: object) -> str:
    return _endpoint(value, "bind", 'expected an endpoint such as "tcp://*:5559"')


def _to_connect(value: object) -> str:
    return _endpoint(value, "connect", 'expected an endpoint such as "tcp://HOST:5559"')


def _endpoint(value: object, use: Literal["bind", "connect"], expected: str) -> str:
    if not isinstance(value, str):
        raise ValueError(expected)
    endpoints.parse(value, use)
    return value


def _to_listen(value: object) -> str:
    expected = 'expected HOST:PORT, such as "127.0.0.1:9560", or the whole path of a socket'
    if not isinstance(value, str) or "://" in value:
        raise ValueError(expected)
    if not value.startswith("/") and ":" not in value:
        raise ValueError(expected)
    endpoints.parse(listening_endpoint(value), "bind")
    return value


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if type(value) is list else value


def _octal(value: object) -> str:
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        raise ValueError('expected permissions in octal and in quotes, such as "0660"')
    return value


def _who(value: object) -> str:
    if not isinstance(value, str) or not _USER_OR_GROUP.fullmatch(value):
        raise ValueError('expected the name of a user, or of a group as "@name"')
    return value


def _queue_name(name: str) -> str:
    if not _QUEUE_NAME.fullmatch(name):
        raise Plain(
            "the name of a queue is a letter or digit, then letters, digits, dots, "
            "underscores and dashes, 64 at most"
        )
    return name


def _broker_name(name: str) -> str:
    if not 1 <= len(name) <= 255 or not name.isprintable():
        raise ValueError("expected a name of 1 to 255 printable characters")
    return name


def _keepalive(value: object) -> float | Literal[False] | None:
    if value is False or value is None:
        return value
    seconds = parse_duration(value) if isinstance(value, str) else 0
    if not 1 <= seconds <= _LONGEST_KEEPALIVE:
        raise ValueError(
            f'expected false, or a duration such as "60s" from 1s to {_LONGEST_KEEPALIVE}s'
        )
    return seconds


def _keepalive_interval(seconds: float) -> float:
    if not 1 <= seconds <= _LONGEST_KEEPALIVE:
        raise ValueError(f'expected a duration such as "10s" from 1s to {_LONGEST_KEEPALIVE}s')
    return seconds


def _to_event(pattern: object) -> str:
    if not isinstance(pattern, str):
        raise ValueError('expected the name of an event such as "peer.connected"')
    kinds([pattern])
    return pattern


def _show_keepalive(value: float | Literal[False] | None) -> str | bool | None:
    return value if value is None or value is False else format_duration(value)


def _prefetch(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if type(value) is not int or not 1 <= value <= 1_000_000:
        raise ValueError('expected "auto", or a number from 1 to 1000000')
    return value


def _limit(size: int) -> int:
    if not size:
        raise ValueError("expected more than 0; without this key there is no limit")
    return size


def _buffer(size: int) -> int:
    if not 0 < size < 2**31:
        raise ValueError("expected more than 0 and less than 2GiB")
    return size


def _pause(seconds: float) -> float:
    if seconds < 0.001:
        raise ValueError("expected 1ms or more")
    return seconds


def _time_limit(seconds: float) -> float:
    if seconds < 0.001:
        raise ValueError("expected 1ms or more; without this key there is no limit")
    return seconds


def _file(value: object) -> str:
    if not isinstance(value, str) or not os.path.isabs(value) or not value.isprintable():
        raise ValueError('expected the whole path of a file, such as "/var/lib/zqueue/dead.db"')
    return os.path.normpath(value)


def _room(size: int) -> int:
    if not size:
        raise ValueError("expected more than 0; dead_letters_max = 0 keeps none")
    return size


def _frame(text: object) -> str:
    if not isinstance(text, str):
        raise ValueError('expected text such as "error: {reason}"')
    error_reply.parse(text)
    return text


def _host_name(value: object) -> str:
    if not isinstance(value, str) or not _HOST_NAME.fullmatch(value):
        raise ValueError('expected the name of a host, such as "metrics.example.com"')
    return value.lower().removesuffix(".")


_Text = Annotated[str, Field(strict=True)]
_Host = Annotated[str, PlainValidator(_host_name)]
_Bind = Annotated[str, PlainValidator(_to_bind)]
_Event = Annotated[str, PlainValidator(_to_event)]
_Connect = Annotated[str, PlainValidator(_to_connect)]
_Listen = Annotated[str, PlainValidator(_to_listen)]
_Count = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
_Who = Annotated[str, PlainValidator(_who)]
_Mode = Annotated[str, PlainValidator(_octal)]
_Buffer = Annotated[Size, AfterValidator(_buffer)]
_TimeLimit = Annotated[Duration, AfterValidator(_time_limit)]
_Frame = Annotated[str, PlainValidator(_frame)]
_File = Annotated[str, PlainValidator(_file)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# -- the tables of the file --------------------------------------------------------------------


class DaemonConfig(_Table):
    """``[daemon]``. ``name`` identifies this broker among others; it is the host's by default."""

    name: Annotated[_Text, AfterValidator(_broker_name)] = Field(
        default_factory=lambda: os.uname().nodename
    )
    drain_timeout: Duration = 30.0


class ControlConfig(_Table):
    """``[control]``: the socket that zqueuectl talks to. ``None`` is chosen by the daemon."""

    endpoint: _Bind | None = None
    mode: _Mode = "0660"
    group: _Text | None = None
    may_look: Annotated[tuple[_Who, ...], BeforeValidator(_several)] | None = None
    may_steer: Annotated[tuple[_Who, ...], BeforeValidator(_several)] | None = None

    @field_validator("endpoint")
    @classmethod
    def _is_a_path(cls, endpoint: str | None) -> str | None:
        if endpoint is not None:
            parsed = endpoints.parse(endpoint, "bind")
            if not parsed.path or parsed.address == "*":
                raise ValueError('expected an ipc path, such as "ipc:///run/zqueue/control.sock"')
        return endpoint


class LogConfig(_Table):
    """``[log]``."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "logfmt", "json", "journal"] = "auto"
    mute: Annotated[tuple[_Event, ...], BeforeValidator(_several)] = ()


class EventsConfig(_Table):
    """``[events]``: where events of at least ``level`` are published; ``None`` is nowhere."""

    publish: _Bind | None = None
    level: Literal["debug", "info", "warning", "error"] = "info"


class MetricsConfig(_Table):
    """``[metrics]``: where metrics, health and the status page are served over HTTP.

    ``listen`` is ``HOST:PORT`` or the path of a unix socket; ``None`` is nowhere. ``hosts`` are
    names of this machine besides those that it knows itself.
    """

    listen: _Listen | None = None
    hosts: Annotated[tuple[_Host, ...], BeforeValidator(_several)] = ()
    workers: Annotated[bool, Field(strict=True)] = False


class SocketConfig(_Table):
    """One side of a queue. In the file it may be just an endpoint to bind to.

    Durations are seconds and sizes bytes; ``mode`` is octal text, for ipc paths. ``None`` leaves
    an option to libzmq or the kernel.
    """

    bind: Annotated[tuple[_Bind, ...], BeforeValidator(_several)] = ()
    connect: Annotated[
        tuple[_Connect, ...], BeforeValidator(_several), Field(validate_default=True)
    ] = ()
    high_water_mark: _Count = 1000
    reply_high_water_mark: _Count = 0
    linger: Duration = 0.0
    tcp_keepalive: Annotated[
        float | Literal[False] | None,
        PlainValidator(_keepalive),
        PlainSerializer(_show_keepalive, when_used="json"),
    ] = None
    tcp_keepalive_interval: Annotated[Duration, AfterValidator(_keepalive_interval)] | None = None
    tcp_keepalive_count: Annotated[int, Field(strict=True, ge=1, le=127)] | None = None
    heartbeat: Duration | None = None
    heartbeat_timeout: Duration | None = None
    handshake_timeout: Duration = 30.0
    max_message_size: Annotated[Size, AfterValidator(_limit)] | None = None
    backlog: Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)] = 1024
    ipv6: Annotated[bool, Field(strict=True)] = False
    mode: _Mode = "0660"
    reconnect: Annotated[Duration, AfterValidator(_pause)] = 0.1
    reconnect_max: Duration = 10.0
    send_buffer: _Buffer | None = None
    receive_buffer: _Buffer | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if isinstance(value, str):
            return {"bind": value}
        if not isinstance(value, dict | SocketConfig):
            raise ValueError('expected an endpoint such as "tcp://*:5559", or a table')
        return value

    @field_validator("connect")
    @classmethod
    def _has_an_endpoint(cls, connect: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not connect and info.data.get("bind") == ():
            raise Plain('no endpoint: say bind = "tcp://*:5559", or connect = "tcp://HOST:5559"')
        return connect

    @field_validator("heartbeat_timeout")
    @classmethod
    def _has_a_heartbeat(cls, timeout: float | None, info: ValidationInfo) -> float | None:
        if timeout is not None and info.data.get("heartbeat", 1) is None:
            raise Plain('means nothing without heartbeat; add heartbeat = "10s", or leave it out')
        return timeout

    @field_validator("tcp_keepalive_interval", "tcp_keepalive_count")
    @classmethod
    def _has_a_keepalive(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and not info.data.get("tcp_keepalive", True):
            raise Plain(
                'means nothing without tcp_keepalive; add tcp_keepalive = "60s", or leave it out'
            )
        return value


class QueueConfig(_Table):
    """One queue, ``[queues.NAME]``. ``drain_timeout`` of ``None`` is that of ``[daemon]``."""

    type: Literal["queue", "forwarder", "streamer"] = "queue"
    engine: Literal["auto", "wire", "libzmq"] = "auto"
    frontend: SocketConfig
    backend: SocketConfig
    capture: _Bind | None = None
    tap: Annotated[bool, Field(strict=True)] = False
    control: _Bind | None = None
    start: Literal["running", "paused"] = "running"
    drain_timeout: Duration | None = None
    prefetch: Annotated[int | Literal["auto"], PlainValidator(_prefetch)] = "auto"
    max_waiting: _Count = 100_000
    max_waiting_bytes: Size = 256 << 20
    max_unsent: Size = 64 << 20
    max_frames: _Count = 100_000
    max_attempts: Annotated[int, Field(strict=True, ge=1, le=1000)] = 3
    redeliver: Literal["all", "unstarted", "none"] = "all"
    service_timeout: _TimeLimit | None = None
    deadline: _TimeLimit | None = None
    max_waiting_time: _TimeLimit | None = None
    error_reply: Annotated[tuple[_Frame, ...], BeforeValidator(_several)] = ()
    when_full: Literal["hold", "reject", "oldest"] = "hold"
    keep_for_gone_clients: Annotated[bool, Field(strict=True)] = False
    client_grace: Duration = 0.0
    slow_request: _TimeLimit | None = None
    dead_letters: _File | None = None
    dead_letters_max: _Count = 10_000
    dead_letters_max_bytes: Annotated[Size, AfterValidator(_room)] = 64 << 20
    dead_letters_sync: Literal["full", "normal", "off"] = "normal"
    max_connections: _Count = 0
    reserved_for_workers: Annotated[_Count, Field(ge=1)] | None = None
    max_connections_per_address: _Count = 0
    duplicate_id: Literal["refuse", "handover"] = "refuse"

    @field_validator("engine")
    @classmethod
    def _is_here(cls, engine: str, info: ValidationInfo) -> str:
        if engine == "wire":
            type_ = info.data.get("type", "queue")
            reason = support.missing() or support.unsupported(type_, reply_high_water_mark=0)
            if reason:
                raise Plain(f"the wire engine cannot be had here: {reason}; say auto or libzmq")
        return engine

    @field_validator(*_FOR_WIRE)
    @classmethod
    def _is_for_wire(cls, value: T, info: ValidationInfo) -> T:
        if info.data.get("engine") == "libzmq" or info.data.get("type", "queue") != "queue":
            raise Plain("means nothing here; it is for a queue on the wire engine")
        return value

    @field_validator("reserved_for_workers")
    @classmethod
    def _leaves_some_to_clients(cls, reserved: int | None, info: ValidationInfo) -> int | None:
        most = info.data.get("max_connections")
        if most and reserved is not None and reserved >= most:
            raise Plain(f"would leave none of max_connections = {most} to clients")
        return reserved

    @field_validator("when_full")
    @classmethod
    def _tells_of_rejection(cls, when_full: str, info: ValidationInfo) -> str:
        if when_full == "reject" and info.data.get("error_reply") == ():
            raise Plain(
                "would leave a rejected client waiting for ever; add "
                'error_reply = "error: {reason}" or the like'
            )
        return when_full

    @field_validator("backend")
    @classmethod
    def _is_safe_from_subscribers(cls, side: SocketConfig, info: ValidationInfo) -> SocketConfig:
        size = side.max_message_size
        if (
            info.data.get("type") == "forwarder"
            and size is not None
            and size > LARGEST_SUBSCRIPTION
        ):
            raise Plain(
                "is how long a subscription may be here; with more than "
                f"{LARGEST_SUBSCRIPTION >> 10}KiB one subscriber could end zqueued. "
                "It does not limit what is published",
                key="max_message_size",
            )
        return side

    @field_validator("backend")
    @classmethod
    def _can_answer_heartbeats(cls, side: SocketConfig, info: ValidationInfo) -> SocketConfig:
        receiver = {"streamer": "PULL", "forwarder": "SUB"}.get(info.data.get("type", "queue"))
        if side.heartbeat and receiver:
            raise Plain(
                f"would disconnect peers that are only busy, and what they had would be lost: a "
                f"{receiver} whose socket is full answers no heartbeat. Leave it out; "
                'tcp_keepalive = "60s" finds peers that are gone',
                key="heartbeat",
            )
        return side

    @field_validator("frontend", "backend")
    @classmethod
    def _sends_replies(cls, side: SocketConfig, info: ValidationInfo) -> SocketConfig:
        has_replies = info.field_name == "frontend" and info.data.get("type", "queue") == "queue"
        reason = support.unsupported("queue", side.reply_high_water_mark)
        if has_replies and reason and info.data.get("engine") == "wire":
            raise Plain(f"means nothing here: {reason}", key="reply_high_water_mark")
        if "reply_high_water_mark" in side.model_fields_set and not has_replies:
            raise Plain(
                'means nothing here; it is for the frontend of type = "queue"',
                key="reply_high_water_mark",
            )
        return side


def _default_queues() -> dict[str, QueueConfig]:
    sides = {"frontend": "tcp://*:5559", "backend": "tcp://*:5560"}
    return {"default": QueueConfig.model_validate(sides)}


class Config(_Table):
    """The whole file."""

    daemon: DaemonConfig = Field(default_factory=DaemonConfig)
    control: ControlConfig = Field(default_factory=ControlConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    events: EventsConfig = Field(default_factory=EventsConfig)
    metrics: MetricsConfig = Field(default_factory=MetricsConfig)
    queues: dict[Annotated[str, AfterValidator(_queue_name)], QueueConfig] = Field(
        default_factory=_default_queues
    )

    @field_validator("queues")
    @classmethod
    def _are_some(cls, queues: dict[str, QueueConfig]) -> dict[str, QueueConfig]:
        if not queues:
            raise Plain("no queue; describe one in [queues.NAME], or leave [queues] out")
        return queues


# -- reading -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedConfig:
    """A config and where it came from; ``path`` is ``None`` for the built-in default."""

    config: Config
    path: Path | None = None
    warnings: tuple[str, ...] = ()
    _places: Mapping[str, Place] = field(default_factory=dict, repr=False)

    @property
    def names_queues(self) -> bool:
        """Whether it says what queues there are. Else there is the built-in one."""
        return "queues" in self.config.model_fields_set

    def origin(self, key: str) -> str:
        """Where the value of a dotted key was written, as ``FILE:LINE``, or ``default``."""
        place = self._places.get(key)
        return "default" if place is None else str(place)

    def effective(self) -> list[tuple[str, Any, str]]:
        """Every key, its value as JSON can hold and people write it, and its origin."""
        return [(key, value, self.origin(key)) for key, value in _flat(self.config).items()]


def load(path: Path | None) -> LoadedConfig:
    """Read a config, and what is in its folder (see :mod:`zqueue.config_files`). ``None`` is
    :data:`DEFAULT_PATH` or its folder if there is one, else the built-in default.

    Raises:
        ConfigError: a file cannot be read, or is not a config; it tells everything at once.
    """
    document = config_files.read(path or DEFAULT_PATH, may_be_missing=path is None)
    return LoadedConfig(Config()) if document is None else _made(document, path or DEFAULT_PATH)


def read_from(file: IO[bytes]) -> LoadedConfig:
    """The config that the standard input holds; problems name it ``<stdin>``.

    Raises:
        ConfigError: as :func:`load`.
    """
    path = Path("<stdin>")
    return _made(config_files.read_bytes(file.read(), path), path)


def _made(document: Document, path: Path) -> LoadedConfig:
    content, places = document.content, document.places
    problems = [*document.missing, *conflicts(content, places)]
    unknown = {key for key, _ in document.missing}
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        # What is wrong with a value that is not there is said already.
        problems += [each for each in refusals(error, content, Config) if each[0] not in unknown]
    if problems:
        raise ConfigError(told(problems, path, places))
    origins = {dotted(key): place for key, place in places.items()}
    for key, _, _ in endpoints_written(content):
        if key[-1] in _SIDES:  # the whole side is one endpoint to bind to
            origins[dotted((*key, "bind"))] = places[key]
    loaded = LoadedConfig(config, path, (), origins)
    return LoadedConfig(config, path, tuple(_warnings(loaded)), origins)


def _warnings(loaded: LoadedConfig) -> Iterator[str]:
    control = loaded.config.control
    if int(control.mode, 8) & 0o002:
        yield _warning(
            loaded, "control.mode", f'"{control.mode}" lets every user of this machine steer'
        )
    for name, queue in loaded.config.queues.items():
        for side_name in _SIDES:
            side: SocketConfig = getattr(queue, side_name)
            written = side.model_fields_set & {"reconnect", "reconnect_max"}
            if written and 0 < side.reconnect_max < side.reconnect:
                yield _warning(
                    loaded,
                    dotted(("queues", name, side_name, max(written))),
                    "reconnect_max is shorter than reconnect and changes nothing",
                )


def _warning(loaded: LoadedConfig, key: str, text: str) -> str:
    origin = loaded.origin(key)
    return f"{key}: {text}" if origin == "default" else f"{origin}: {key}: {text}"


# -- the machine -------------------------------------------------------------------------------


def check(loaded: LoadedConfig) -> list[str]:
    """Warnings about what this machine lacks for the config: folders, a group."""
    warnings = []
    for key, text in _paths_used(loaded.config):
        parsed = endpoints.parse(text, "bind")
        folder = os.path.dirname(parsed.path)
        if not parsed.path or parsed.path == "*":
            continue
        if not os.path.isabs(parsed.path):
            what = f"{text} is relative to the folder that zqueued is started in"
            warnings.append(_warning(loaded, key, what))
        elif not os.path.isdir(folder):
            what = (
                f"the folder {folder} of {text} is missing; make it, unless it is the "
                "RuntimeDirectory of the systemd unit, which is made at start"
            )
            warnings.append(_warning(loaded, key, what))
    if families.has_only_ipv6():
        for name, queue in loaded.config.queues.items():
            for side_name in _SIDES:
                side: SocketConfig = getattr(queue, side_name)
                for endpoint in side.bind:
                    if not side.ipv6 and endpoints.parse(endpoint, "bind").host == "*":
                        what = f"{endpoint} listens on IPv4 only, which this machine has not"
                        what += " but for its loopback; say ipv6 = true for both"
                        key = dotted(("queues", name, side_name, "bind"))
                        warnings.append(_warning(loaded, key, what))
    for name, queue in loaded.config.queues.items():
        folder = os.path.dirname(queue.dead_letters or "/")
        if not os.path.isdir(folder):
            what = (
                f"the folder {folder} is missing; make it, unless it is the StateDirectory of the "
                "systemd unit, which is made at start"
            )
            warnings.append(_warning(loaded, dotted(("queues", name, "dead_letters")), what))
    group = loaded.config.control.group
    if group is not None and not _group_exists(group):
        what = f'there is no group "{group}"; make it with groupadd --system {group}'
        warnings.append(_warning(loaded, "control.group", what))
    return warnings


def _paths_used(config: Config) -> Iterator[tuple[str, str]]:
    if config.control.endpoint is not None:
        yield "control.endpoint", config.control.endpoint
    if config.events.publish is not None and config.events.publish.startswith("ipc:"):
        yield "events.publish", config.events.publish
    if config.metrics.listen is not None and config.metrics.listen.startswith("/"):
        yield "metrics.listen", listening_endpoint(config.metrics.listen)
    for name, queue in config.queues.items():
        for side_name in _SIDES:
            side: SocketConfig = getattr(queue, side_name)
            for way in ("bind", "connect"):
                for endpoint in getattr(side, way):
                    if endpoint.startswith("ipc:"):
                        yield dotted(("queues", name, side_name, way)), endpoint
        for key in ("capture", "control"):
            endpoint = getattr(queue, key)
            if endpoint is not None:
                yield dotted(("queues", name, key)), endpoint


def _group_exists(name: str) -> bool:
    import grp

    try:
        grp.getgrnam(name)
    except (KeyError, ValueError):
        return False
    return True


# -- the difference between two ----------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """What changed from one config to another.

    ``added``, ``removed``, ``unchanged`` are names of queues; ``changed`` has for each other queue
    the keys that changed, such as ``frontend.high_water_mark``; ``settings`` are the changed keys
    outside of queues, such as ``log.level``.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: dict[str, tuple[str, ...]]
    settings: tuple[str, ...]
    unchanged: tuple[str, ...]


def difference(old: Config, new: Config) -> Difference:
    """What changed from ``old`` to ``new``; the queues are in the order of their config."""
    both = {
        name: _changed(old.queues[name], queue)
        for name, queue in new.queues.items()
        if name in old.queues
    }
    return Difference(
        added=tuple(name for name in new.queues if name not in old.queues),
        removed=tuple(name for name in old.queues if name not in new.queues),
        changed={name: keys for name, keys in both.items() if keys},
        settings=tuple(
            f"{table}.{key}"
            for table in ("daemon", "control", "log", "events", "metrics")
            for key in _changed(getattr(old, table), getattr(new, table))
        ),
        unchanged=tuple(name for name, keys in both.items() if not keys),
    )


def needs_rebind(keys: tuple[str, ...]) -> bool:
    """Whether a queue whose ``keys`` changed has to make its sockets anew."""
    return not set(keys) <= _APPLIED_LIVE


def _changed(old: BaseModel, new: BaseModel) -> tuple[str, ...]:
    before, after = _flat(old), _flat(new)
    return tuple(key for key, value in after.items() if before[key] != value)


def _flat(model: BaseModel) -> dict[str, Any]:
    """Each value by its dotted key, as JSON can hold it."""

    def leaves(key: KeyPath, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for name, member in value.items():
                yield from leaves((*key, name), member)
        else:
            yield dotted(key), value

    return dict(leaves((), model.model_dump(mode="json")))
