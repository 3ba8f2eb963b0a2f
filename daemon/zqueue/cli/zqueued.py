"""``zqueued``: the daemon's command."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click

import zqueue
from zqueue.cli.output import Printing, say
from zqueue.errors import ZqueueError
from zqueue.plurals import counted

_PATH = click.Path(dir_okay=False, path_type=Path)
_STDIN = Path("-")


@click.command(cls=Printing, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "path",
    type=_PATH,
    metavar="FILE",
    help="The config to read. Default: /etc/zqueue.toml if it exists, else a built-in one: "
    "one queue from tcp://*:5559 to tcp://*:5560. With --check, - is the standard input.",
)
@click.option("--check", is_flag=True, help="Check the config, say what is wrong with it, and end.")
@click.option(
    "--upgrade",
    is_flag=True,
    help="Have the zqueued that runs start what is installed now, and hand over to it: no "
    "connection ends, no request is lost. Under systemd, systemctl restart does the same.",
)
@click.option(
    "--offer",
    is_flag=True,
    hidden=True,
    help="Print what this version would take up of a running zqueued, with this config, and end.",
)
@click.version_option(zqueue.__version__, prog_name="zqueued")
def main(path: Path | None, check: bool, upgrade: bool, offer: bool) -> None:
    """Run the queues that the config describes until SIGTERM.

    SIGTERM and SIGINT drain every queue, then end; a second one ends at once. SIGHUP reloads.

    Exit codes: 0 ended as asked, 1 could not start or run, 2 usage, 78 config.
    """
    if path == _STDIN and not check:
        raise click.UsageError("--config - is for --check: a reload could not read it again")
    try:
        if check:
            _check(path)
        elif upgrade:
            _upgrade(path)
        elif offer:
            _offer(path)
        else:
            with _refusal_in_the_journal():
                _serve(path)
    except ZqueueError as error:
        say(f"zqueued: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # before there was anything to drain
        sys.exit(130)


@contextlib.contextmanager
def _refusal_in_the_journal() -> Iterator[None]:
    """Why zqueued does not start is an entry of its own where stderr is the journal: what is
    printed there has no level and no fields."""
    try:
        yield
    except ZqueueError as error:
        from zqueue.events import EventBus
        from zqueue.logs import Log

        log = Log("info", "auto")
        if log.place != "journal" or getattr(error, "told", False):
            raise
        bus = EventBus()
        bus.subscribe(log)
        bus.emit("daemon.refused", error=str(error), exit_code=error.exit_code)
        log.close(2.0)
        sys.exit(error.exit_code)


def _check(path: Path | None) -> None:
    from zqueue import config, limits

    loaded = config.read_from(sys.stdin.buffer) if path == _STDIN else config.load(path)
    for warning in (*loaded.warnings, *config.check(loaded)):
        say(f"warning: {warning}", err=True)
    beyond = limits.problems(loaded.config)
    for problem in (*beyond, *limits.unresolved(loaded.config)):
        say(f"warning: {problem}", err=True)
    queues = counted(len(loaded.config.queues), "queue")
    needed = limits.needs(loaded.config)
    takes = f"at least {needed.threads} threads and {needed.descriptors} descriptors"
    good = "good, but too much for what this process may have" if beyond else "good"
    say(f"{loaded.path or 'the built-in default'}: {good}, {queues}, {takes}")


def _serve(path: Path | None) -> None:
    import asyncio

    from zqueue import config, handover
    from zqueue.daemon import Daemon
    from zqueue.logs import Log
    from zqueue.upgrade import Predecessor
    from zqueue.verbs import Verbs

    predecessor = Predecessor.find()
    with predecessor.told() if predecessor is not None else contextlib.nullcontext():
        loaded = config.load(path)
        if predecessor is not None:
            predecessor.offer(handover.offer(loaded.config))
        log = Log(loaded.config.log.level, loaded.config.log.format)
        try:
            daemon = Daemon(path, loaded, log, predecessor)
            asyncio.run(daemon.run(Verbs(daemon)))
        finally:
            log.close(2.0)


def _upgrade(path: Path | None) -> None:
    from zqueue import config
    from zqueue.control.client import ControlClient

    endpoint = config.load(path).config.control.endpoint
    with ControlClient(endpoint) as zqueued:
        taken = zqueued.upgrade()
    count = counted(taken.connections, "connection")
    say(
        f"zqueued {taken.version}, pid {taken.pid}, has taken up {count} "
        f"after a pause of {taken.paused * 1000:.0f} ms"
    )


def _offer(path: Path | None) -> None:
    from zqueue import config, handover

    click.echo(handover.OFFER.dump_json(handover.offer(config.load(path).config)))


if __name__ == "__main__":
    main()
