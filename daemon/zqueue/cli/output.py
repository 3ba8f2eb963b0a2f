"""What zqueuectl and zqueued print: any text, in any locale, to whatever reads it.

What cannot be printed is no reason for a traceback, nor for an exit code that says that something
was not done. Whoever reads no more, as ``head`` does, is no error. A full disk is one, but not of
what was done by then.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from typing import IO, Any, TextIO

import click

from zqueue.printable import printable

_BROKEN = (BrokenPipeError, ConnectionResetError)


def say(text: str, *, err: bool = False) -> None:
    """Print lines for people. What others have said in them steers no terminal."""
    click.echo("\n".join(map(printable, text.split("\n"))), err=err)


def say_json(value: Any, indent: int | None = 2) -> None:
    """Print JSON, in ASCII: so it is the same in every locale."""
    click.echo(json.dumps(value, indent=indent))


@contextlib.contextmanager
def private_file(path: str, encoding: str = "utf-8") -> Iterator[IO[str]]:
    """A file to write what passes through queues into; ``-`` is the standard output. One that this
    makes is its user's alone."""
    if path == "-":
        yield sys.stdout
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "w", encoding=encoding) as file:
        yield file


class _Stream(io.TextIOWrapper):
    """A standard stream that has a way to write each character, and remembers why it could not be
    written to."""

    failure: OSError | None = None

    def __init__(self, stream: TextIO, *, must: bool) -> None:
        """If it ``must`` not be written, that is an error of whoever writes."""
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=getattr(stream, "line_buffering", False),
        )
        self._must = must

    def write(self, text: str) -> int:
        with self._kept():
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._kept():
            super().flush()

    @contextlib.contextmanager
    def _kept(self) -> Any:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error
            if self._must:
                raise

    def silence(self) -> None:
        """Let what is left in it go nowhere, at the end of the process, too."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


class _Printing:
    """What this process has printed to, and what it has done meanwhile."""

    done: int | None = None


def done(exit_code: int) -> None:
    """What was asked for is done or refused: whatever becomes of what is printed of it, this is the
    exit code."""
    _Printing.done = exit_code


class Printing(click.Command):
    """A command whose output is as this module says."""

    def main(self, *arguments: Any, **more: Any) -> Any:
        _Printing.done = None
        if sys.stdout is None or sys.stderr is None:  # it was started with one of them closed
            sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
            sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
        before = sys.stdout, sys.stderr
        out, err = _Stream(sys.stdout, must=True), _Stream(sys.stderr, must=False)
        sys.stdout, sys.stderr = out, err
        try:
            return super().main(*arguments, **more)
        except SystemExit as end:
            raise SystemExit(_settled(out, end.code)) from None
        except OSError as error:
            if out.failure is None:
                raise
            raise SystemExit(_settled(out, 1)) from error
        finally:
            err.flush()
            if err.failure is not None:
                err.silence()
            # They are the process's own, and outlive this.
            with contextlib.suppress(OSError, ValueError):
                out.detach()
            with contextlib.suppress(OSError, ValueError):
                err.detach()
            sys.stdout, sys.stderr = before


def _settled(out: _Stream, code: Any) -> Any:
    """The exit code, with all that was printed out, or not."""
    with contextlib.suppress(OSError, ValueError):
        out.flush()
    if out.failure is None:
        return code
    out.silence()
    if isinstance(out.failure, _BROKEN):
        return 0 if _Printing.done is None else _Printing.done
    click.echo(f"what there was to say cannot be written: {out.failure.strerror}", err=True)
    return 1 if _Printing.done is None else _Printing.done
