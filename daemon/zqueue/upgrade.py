"""How two processes agree that one takes up what the other has, outside of systemd.

They talk over a socket pair, each message a JSON object. The old process starts the new one, and

1. the new one, its config read, says what it would take up: an ``offer``;
2. the old one freezes its queues and sends their ``state``, a parcel;
3. the new one puts it all together without touching a connection, and says ``ready``;
4. the old one says ``go``, and touches no connection any more;
5. the new one says ``taken``, and goes on with them.

Until ``taken`` has come the old one can thaw its queues: the new one may say ``refused``, die, or
hang, in which case it is killed. And if the old one dies, the new one goes on with what it has been
sent. So there is always one that serves, and never two. The old one may also say ``stop``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from zqueue.errors import HandoverRefused
from zqueue.handover import OFFER, Offer
from zqueue.parcel import Parcel, receive

_VARIABLE = "ZQUEUED_PREDECESSOR"
_OFFERS_WITHIN = 30.0
_READY_WITHIN = 15.0
_TAKES_WITHIN = 10.0
_ENDS_WITHIN = 5.0
_LONGEST_MESSAGE = 1 << 20
_LONGEST_REASON = 10_000


class _Ended(Exception):
    """The other process has closed its end."""


def installed() -> list[str]:
    """The command that starts what is installed now, in the way in which this process was."""
    script = os.path.abspath(sys.argv[0])
    if os.access(script, os.X_OK):
        return [script, *sys.argv[1:]]
    return [sys.executable, *sys.orig_argv[1:]]


async def ask_installed() -> Offer:
    """What the installed zqueued would take up.

    Raises:
        HandoverRefused: it does not say, or its config is bad.
    """

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*installed(), "--offer"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_OFFERS_WITHIN,
        )

    try:
        done = await asyncio.to_thread(run)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HandoverRefused(f"the installed zqueued does not answer: {error}") from error
    if done.returncode != 0:
        said = done.stderr.strip() or f"it ended with exit code {done.returncode}"
        raise HandoverRefused(f"the installed zqueued would not start: {said}")
    return _offer(done.stdout)


class Successor:
    """The new process, as the old one sees it."""

    def __init__(self, process: subprocess.Popen[bytes], channel: _Channel) -> None:
        self._process = process
        self._channel = channel

    @classmethod
    async def start(cls) -> Successor:
        """Start the installed zqueued.

        Raises:
            HandoverRefused: that cannot be done.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            environment = os.environ | {_VARIABLE: str(theirs.fileno())}
            try:
                process = await asyncio.to_thread(
                    subprocess.Popen, installed(), pass_fds=[theirs.fileno()], env=environment
                )
            except OSError as error:
                ours.close()
                raise HandoverRefused(
                    f"the installed zqueued cannot be started: {error}"
                ) from error
        return cls(process, _Channel(ours))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def offer(self) -> Offer:
        """What it would take up.

        Raises:
            HandoverRefused: it does not say, or says why it will not.
        """
        return _offer(json.dumps(await self._expect("offer", _OFFERS_WITHIN)))

    async def take(self, parcel: Parcel) -> dict[str, Any]:
        """Have it take up what is in the parcel: everything is its own when this returns, with
        what it said of it.

        Raises:
            HandoverRefused: it has not taken it, and will not any more.
        """
        await self._tell({"state": True}, parcel.descriptors)
        await self._expect("ready", _READY_WITHIN)
        await self._tell({"go": True})
        taken: dict[str, Any] = await self._expect("taken", _TAKES_WITHIN)
        self._channel.close()
        return taken

    async def end(self) -> None:
        """Tell it that it is not needed any more, and see to it that it is no more."""
        with contextlib.suppress(OSError):
            self._channel.send({"stop": True})
        self._channel.close()
        await asyncio.to_thread(self._wait)

    def _wait(self) -> int:
        try:
            return self._process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    async def _tell(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        try:
            self._channel.send(message, descriptors)
        except (BrokenPipeError, ConnectionResetError):
            raise await self._end_of_it() from None
        except OSError as error:
            reason = f"the new zqueued cannot be told: {error.strerror}"
            raise HandoverRefused(reason) from error

    async def _end_of_it(self) -> HandoverRefused:
        code = await asyncio.to_thread(self._wait)
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        return HandoverRefused(f"the new zqueued ended with {how}")

    async def _expect(self, word: str, within: float) -> Any:
        try:
            message = await self._hear(within)
        except _Ended:
            raise await self._end_of_it() from None
        except TimeoutError:
            raise HandoverRefused(f"the new zqueued was silent for {within:g} s") from None
        if word not in message:
            reason = message.get("refused", "it did not say what was expected")
            raise HandoverRefused(f"the new zqueued refuses: {reason}")
        return message[word]

    async def _hear(self, within: float) -> dict[str, Any]:
        try:
            message, _ = await self._channel.receive(within)
        except TimeoutError:
            # It must not wake up later. What it said before counts.
            self._process.kill()
            with contextlib.suppress(_Ended):
                message, _ = await self._channel.receive(_ENDS_WITHIN)
                return message
            raise
        return message


class Predecessor:
    """The old process, as the new one sees it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = _Channel(channel)
        size = struct.calcsize("3i")
        pid, _, _ = struct.unpack(
            "3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        )
        self.pid: int = pid
        # From here on it is known whether it lives, whoever gets its number later.
        self._process = os.pidfd_open(pid)
        self._awaits_us = True

    @classmethod
    def find(cls) -> Predecessor | None:
        """The process that started this one to hand over to it, if there is such a one."""
        descriptor = os.environ.pop(_VARIABLE, "")
        if not descriptor.isdecimal():
            return None
        try:
            return cls(socket.socket(fileno=int(descriptor)))
        except OSError:
            return None

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Tell it of an error that ends this process before it has taken up anything."""
        try:
            yield
        except Exception as error:
            self.refuse(str(error) or type(error).__name__)
            raise

    def refuse(self, reason: str) -> None:
        """Nothing is taken up, for this reason."""
        if self._awaits_us:
            self._awaits_us = False
            with contextlib.suppress(OSError):
                self._channel.send({"refused": reason[:_LONGEST_REASON]})

    def offer(self, offer: Offer) -> None:
        """Say what this process would take up."""
        self._send({"offer": json.loads(OFFER.dump_json(offer))})

    async def parcel(self) -> Parcel | None:
        """What it leaves; nothing if it has died.

        Raises:
            HandoverRefused: it goes on itself.
        """
        descriptors = await self._expect("state")
        return None if descriptors is None else Parcel(descriptors)

    async def ready(self, taken: Callable[[], dict[str, Any]]) -> None:
        """Everything is put together: wait until it is this process's own.

        Raises:
            HandoverRefused: it goes on itself.
        """
        self._send({"ready": True})
        await self._expect("go")
        self._awaits_us = False
        self._send({"taken": taken()})

    async def gone(self) -> None:
        """Wait for its end, for a while; it is not listened to after that."""
        await _readable(self._process, _ENDS_WITHIN)
        self._channel.close()
        os.close(self._process)

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it has died, which is heard of when it is waited for
            self._channel.send(message)

    async def _expect(self, word: str) -> list[int] | None:
        """The descriptors that come with the word; ``None`` if it is dead, and says no more."""
        try:
            message, descriptors = await self._channel.receive(None)
        except _Ended:
            # Only its death makes it certain that it does not go on.
            if await _readable(self._process, _ENDS_WITHIN):
                return None
            message = {}
        if word not in message:
            raise HandoverRefused("the zqueued before this one goes on itself")
        return descriptors


class _Channel:
    """Sends and receives whole messages, with descriptors."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.set_inheritable(False)
        self._socket = sock

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        encoded = json.dumps(message).encode()
        if descriptors:
            socket.send_fds(self._socket, [encoded], list(descriptors))
        else:
            self._socket.send(encoded)

    async def receive(self, within: float | None) -> tuple[dict[str, Any], list[int]]:
        """The next message.

        Raises:
            _Ended: there is none, and no more will come.
            TimeoutError: none has come in time.
        """
        if not await _readable(self._socket.fileno(), within):
            raise TimeoutError
        try:
            encoded, descriptors = receive(self._socket, _LONGEST_MESSAGE)
        except OSError as error:
            raise _Ended from error
        if not encoded:
            raise _Ended
        return json.loads(encoded), descriptors

    def close(self) -> None:
        self._socket.close()


def _offer(text: str) -> Offer:
    try:
        return OFFER.validate_json(text)
    except ValidationError as error:
        raise HandoverRefused(
            f"what the installed zqueued offers is not known here: {error}"
        ) from error


async def _readable(descriptor: int, within: float | None) -> bool:
    """Whether it has become so in time."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await asyncio.wait_for(readable.wait(), within)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True
