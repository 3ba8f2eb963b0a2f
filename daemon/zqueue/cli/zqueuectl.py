"""``zqueuectl``: steers and watches a running zqueued.

Whatever is not needed for ``--help`` is imported where it is used, so that help and completion
answer at once and need no daemon.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

import zqueue
from zqueue import colours
from zqueue.cli import completion, lists, tap
from zqueue.cli.calls import (
    ANSWER_WITHIN,
    Group,
    Options,
    Seconds,
    as_json,
    called,
    takes_options,
    takes_queues,
)
from zqueue.cli.dead import dead
from zqueue.cli.doctor import doctor
from zqueue.cli.health import health
from zqueue.cli.output import done, say, say_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zqueue.control.client import ControlClient
    from zqueue.control.messages import Remembered, SteerResult


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@takes_options
@click.version_option(zqueue.__version__, "--version", prog_name="zqueuectl")
@click.pass_context
def main(context: click.Context) -> None:
    """Steer and watch zqueued, the ZeroMQ queue device.

    Exit codes: 0 done, 1 refused or failed by the daemon, 2 usage, 69 daemon unreachable.
    """
    if not colours.are_wanted():
        context.color = False


# -- to look -----------------------------------------------------------------------------------


@main.command()
@takes_options
@click.argument("names", nargs=-1, metavar="[QUEUE]...", shell_complete=completion.queues)
@click.pass_obj
def status(options: Options | None, names: tuple[str, ...]) -> None:
    """Show the daemon and the state of every queue, or of some more closely."""
    with called(options) as (zqueued, how):
        result = zqueued.status()
        chosen = tuple(_choose(result.queues, names))
        result = result.model_copy(update={"queues": chosen})
        if not as_json(how, result):
            from zqueue.cli import render

            render.status(result, closely=bool(names))


@main.command()
@takes_options
@click.pass_obj
def queues(options: Options | None) -> None:
    """List the queues and their endpoints."""
    with called(options) as (zqueued, how):
        result = zqueued.status()
        if how.json:
            keys = ("name", "type", "engine", "state", "frontend", "backend", "capture", "control")
            listed = [queue.model_dump(mode="json", include=set(keys)) for queue in result.queues]
            say_json({"queues": listed})
        else:
            from zqueue.cli import render

            render.queues(result)


@main.command()
@takes_options
@click.argument("names", nargs=-1, metavar="[QUEUE]...", shell_complete=completion.queues)
@click.option("--explain", is_flag=True, help="Show where all requests have gone, word by word.")
@click.pass_obj
def stats(options: Options | None, names: tuple[str, ...], explain: bool) -> None:
    """Show all figures of every queue, or of some."""
    with called(options) as (zqueued, how):
        result = zqueued.status()
        chosen = _choose(result.queues, names)
        result = result.model_copy(update={"queues": tuple(chosen)})
        if how.json:
            say_json({"queues": [queue.model_dump(mode="json") for queue in result.queues]})
        else:
            from zqueue.cli import render

            render.stats(result, explain)


@main.command()
@takes_options
@click.option(
    "--interval",
    type=Seconds(),
    default=1.0,
    metavar="DURATION",
    help="Time from one look to the next. [1s]",
)
@click.option("--count", type=click.IntRange(1), metavar="COUNT", help="End after so many looks.")
@click.pass_obj
def watch(options: Options | None, interval: float, count: int | None) -> None:
    """Show the counters every second until Ctrl-C."""
    from zqueue.cli import render

    with called(options) as (zqueued, how):
        looks = _looks(zqueued, interval, count)
        if how.json:
            for result in looks:
                say_json(result.model_dump(mode="json"), None)
        else:
            render.watch(looks)


@main.command()
@takes_options
@click.argument("queue", required=False, metavar="[QUEUE]", shell_complete=completion.queues)
@click.option(
    "--interval",
    type=Seconds(),
    default=1.0,
    metavar="DURATION",
    help="Time from one look to the next. [1s]",
)
@click.option("-n", "--count", type=click.IntRange(1), metavar="COUNT", help="End after so many.")
@click.option("--once", is_flag=True, help="Print it once, and leave the screen alone.")
@click.pass_obj
def top(
    options: Options | None, queue: str | None, interval: float, count: int | None, once: bool
) -> None:
    """Show the queues, what is wrong with them, and the workers of one, live; steer with keys.

    The key ? lists the keys. Where it is not at a terminal, it prints what it would show, once or
    as often as --count says.
    """
    from zqueue.cli.top import follower, loop
    from zqueue.cli.top.model import Model
    from zqueue.control.client import ControlClient
    from zqueue.reach import call

    with called(options) as (zqueued, how):
        if queue is not None:
            _choose(zqueued.status().queues, (queue,))
        model = Model(queue=queue, interval=interval, ctl=call(how.endpoint, how.instance))
        times = 1 if once else count or 1
        if how.json:
            loop.export_looks(zqueued, model, times)
            return
        if once or not loop.is_at_a_terminal():
            loop.print_looks(zqueued, model, times)
            return
        model.see(follower.look_at(zqueued, model.wanted, due=False))
        endpoint, silence = zqueued.endpoint, zqueued.timeout
    loop.follow(lambda: ControlClient(endpoint, timeout=silence), model, count)


for each in (
    *(lists.workers, lists.clients, lists.connections, lists.requests),
    *(tap.tap, tap.replay, doctor, health),
):
    main.add_command(each)


@main.command()
@takes_options
@click.option("-f", "--follow", is_flag=True, help="Go on with each event as it happens.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0),
    metavar="COUNT",
    help="How many past ones at most. [20; with --since all]",
)
@click.option(
    "--since", type=Seconds(), metavar="DURATION", help="Past ones that happened within this time."
)
@click.option(
    "-q", "--queue", metavar="QUEUE", help="Only this queue's.", shell_complete=completion.queues
)
@click.option(
    "--level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"]),
    default="debug",
    help="Only those that matter at least so much. [debug]",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only those with this name, of which * may be a part: 'peer.*'. May be repeated.",
    shell_complete=completion.events,
)
@click.pass_obj
def events(
    options: Options | None,
    follow: bool,
    lines: int | None,
    since: float | None,
    queue: str | None,
    level: Any,
    names: tuple[str, ...],
) -> None:
    """Show what happened of late, or live what happens. docs/events.md lists every event.

    The daemon remembers so many of each kind. Where some that you ask for are forgotten, it says so
    on stderr.
    """
    begin = None if since is None else time.time() - since
    if lines is None and begin is None:
        lines = 20
    with called(options) as (zqueued, how):
        found = zqueued.events(
            queue, level=level, names=names, since=begin, recent=lines, follow=follow
        )
        for line in _gaps(found.remembered, begin):
            say(f"zqueuectl: {line}", err=True)
        for event in found:
            if how.json:
                keys = {"name", "level", "time", "queue", "message", "fields", "dropped"}
                say_json(event.model_dump(mode="json", include=keys), None)
            else:
                from zqueue.cli import render

                say(render.event(event))


# -- to steer ----------------------------------------------------------------------------------


@main.command()
@takes_options
@takes_queues
@click.option("--wait", is_flag=True, help="Return when nothing is in flight any more.")
@click.pass_obj
def pause(options: Options | None, queues: tuple[str, ...], every: bool, wait: bool) -> None:
    """Let no further request go to a worker; replies still return, and requests wait.

    Where deadline, max_waiting_time or when_full are set they count meanwhile.
    """
    with called(options, ANSWER_WITHIN if wait else None) as (zqueued, how):
        result = zqueued.pause(
            *queues,
            all=every,
            wait=wait,
            timeout=how.timeout if wait else None,
            on_progress=None if how.json else _show_progress,
        )
        _report(how, result, "paused")


@main.command()
@takes_options
@takes_queues
@click.pass_obj
def resume(options: Options | None, queues: tuple[str, ...], every: bool) -> None:
    """Let requests pass again; ends a drain."""
    with called(options) as (zqueued, how):
        _report(how, zqueued.resume(*queues, all=every), "running")


@main.command()
@takes_options
@takes_queues
@click.option(
    "--then",
    type=click.Choice(["pause", "terminate"]),
    default="pause",
    help="What the queue does when it is empty. [pause]",
)
@click.option(
    "--worker",
    type=int,
    metavar="ID",
    help="Only this worker: it finishes what it has and gets no more. See the verb workers.",
)
@click.pass_obj
def drain(
    options: Options | None,
    queues: tuple[str, ...],
    every: bool,
    then: Any,
    worker: int | None,
) -> None:
    """Take no new request, finish what is in flight, then pause or terminate.

    It ends when nothing is left, or when --timeout (else the queue's drain_timeout) is up: that is
    exit code 1, and it says what is left.
    """
    with called(options, ANSWER_WITHIN) as (zqueued, how):
        result = zqueued.drain(
            *queues,
            all=every,
            then=then,
            timeout=how.timeout,
            worker=worker,
            on_progress=None if how.json else _show_progress,
        )
        _report(how, result, "drained")


@main.command()
@takes_options
@takes_queues
@click.pass_obj
def terminate(options: Options | None, queues: tuple[str, ...], every: bool) -> None:
    """Stop queues now; their ports are closed."""
    with called(options) as (zqueued, how):
        _report(how, zqueued.terminate(*queues, all=every), "stopped")


@main.command()
@takes_options
@takes_queues
@click.pass_obj
def start(options: Options | None, queues: tuple[str, ...], every: bool) -> None:
    """Start queues that are stopped or failed."""
    with called(options) as (zqueued, how):
        _report(how, zqueued.start(*queues, all=every), "started")


main.add_command(lists.kick)
main.add_command(dead)


# -- the daemon --------------------------------------------------------------------------------


@main.command()
@takes_options
@click.pass_obj
def reload(options: Options | None) -> None:
    """Apply the config file's changes; a bad file changes nothing and exits 1."""
    with called(options) as (zqueued, how):
        result = zqueued.reload()
        done(1 if result.failed else 0)
        if not as_json(how, result):
            from zqueue.cli import render

            for line in render.reload(result):
                say(line)
        if result.failed:
            sys.exit(1)


@main.command()
@takes_options
@click.option("--now", is_flag=True, help="Do not drain first.")
@click.option("--wait/--no-wait", default=True, help="Return when it has ended. [wait]")
@click.pass_obj
def shutdown(options: Options | None, now: bool, wait: bool) -> None:
    """End the daemon, after draining every queue."""
    with called(options) as (zqueued, how):
        result = zqueued.shutdown(now=now, wait=wait, timeout=how.timeout)
        done(0)
        if not as_json(how, result):
            say("ended" if wait else "shutting down")


@main.command("log-level")
@takes_options
@click.argument("level", required=False, type=click.Choice(["debug", "info", "warning", "error"]))
@click.pass_obj
def log_level(options: Options | None, level: Any) -> None:
    """Show the log level, or change it until the next restart or reload."""
    with called(options) as (zqueued, how):
        result = zqueued.log_level(level)
        if level is not None:
            done(0)
        if not as_json(how, result):
            say(result.level)


@main.group()
@takes_options
def config() -> None:
    """The config in force."""


@config.command("show")
@takes_options
@click.pass_obj
def config_show(options: Options | None) -> None:
    """Show every setting, and where its value came from."""
    with called(options) as (zqueued, how):
        result = zqueued.config()
        if not as_json(how, result):
            from zqueue.cli import render

            render.config(result)


@main.command()
@takes_options
@click.pass_obj
def version(options: Options | None) -> None:
    """Show the versions of zqueuectl, the daemon and what it runs on."""
    with called(options) as (zqueued, how):
        result = zqueued.version()
        if how.json:
            say_json({"zqueuectl": zqueue.__version__} | result.model_dump(mode="json"))
            return
        say(f"zqueuectl {zqueue.__version__}")
        say(
            f"zqueued {result.version}, pid {result.pid}, protocol {result.protocol}, libzmq "
            f"{result.libzmq}, pyzmq {result.pyzmq}, Python {result.python}"
        )


@main.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_script(ctx: click.Context, shell: str) -> None:
    """Print the completion of zqueuectl for a shell; the Debian package has it in place.

    bash: zqueuectl completion bash > ~/.local/share/bash-completion/completions/zqueuectl

    zsh: zqueuectl completion zsh > a file _zqueuectl in a folder of $fpath

    fish: zqueuectl completion fish > ~/.config/fish/completions/zqueuectl.fish
    """
    from zqueue.cli import completion_scripts

    say(completion_scripts.script(shell, ctx.find_root().command).rstrip("\n"))


# -- the demo ----------------------------------------------------------------------------------


@main.group(invoke_without_command=True)
@click.pass_context
def demo(ctx: click.Context) -> None:
    """See it work: a broker, two servers, two clients, a pause and a resume, in ten seconds."""
    if ctx.invoked_subcommand is None:
        from zqueue.cli import demo as programs

        sys.exit(programs.scene())


@demo.command("server")
@click.option(
    "-e",
    "--endpoint",
    default="tcp://127.0.0.1:5560",
    metavar="ENDPOINT",
    help="The broker's backend. [tcp://127.0.0.1:5560]",
)
@click.option(
    "--work", type=Seconds(), default=1.0, metavar="DURATION", help="Time a request takes. [1s]"
)
@click.option(
    "--requests", type=click.IntRange(1), metavar="COUNT", help="End after so many. [never]"
)
@click.option("--id", "identity", metavar="ID", help="The name that it answers with. [its pid]")
def demo_server(endpoint: str, work: float, requests: int | None, identity: str | None) -> None:
    """A plain REP that connects to the broker and answers "World from server ID"."""
    from zqueue.cli import demo as programs

    sys.exit(programs.server(endpoint, work, requests, identity))


@demo.command("client")
@click.option(
    "-e",
    "--endpoint",
    default="tcp://127.0.0.1:5559",
    metavar="ENDPOINT",
    help="The broker's frontend. [tcp://127.0.0.1:5559]",
)
@click.option(
    "--requests", type=click.IntRange(1), default=9, metavar="COUNT", help="How many it sends. [9]"
)
@click.option(
    "--work", type=Seconds(), default=0.0, metavar="DURATION", help="Pause between requests. [0s]"
)
@click.option("--id", "identity", metavar="ID", help="The name that it says. [its pid]")
def demo_client(endpoint: str, requests: int, work: float, identity: str | None) -> None:
    """A plain REQ that says "Hello from ID" nine times and prints every reply."""
    from zqueue.cli import demo as programs

    sys.exit(programs.client(endpoint, requests, work, identity))


# -- common to the verbs -------------------------------------------------------------------------


def _report(how: Options, result: SteerResult, word: str) -> None:
    """Say what became of each queue; the exit code is 1 unless all is done."""
    done(0 if result.ok else 1)
    if not as_json(how, result):
        from zqueue.cli import render

        for steered in result.queues:
            say(render.steered(steered, word), err=steered.outcome != "done")
    if not result.ok:
        sys.exit(1)


def _gaps(remembered: Remembered, since: float | None) -> Iterator[str]:
    from zqueue.cli import render

    if since is not None and since < remembered.begins:
        yield f"no event from before {render.moment(remembered.begins)} is remembered"
    for name, last in sorted(remembered.forgotten.items()):
        yield f"{name}: those up to {render.moment(last)} are forgotten, there were too many"


def _show_progress(queues: tuple[Any, ...]) -> None:
    from zqueue.cli import render

    for steered in queues:
        say(render.progress(steered), err=True)


def _choose(queues: tuple[Any, ...], names: tuple[str, ...]) -> list[Any]:
    from zqueue.control.client import Refused

    known = {queue.name: queue for queue in queues}
    for name in names:
        if name not in known:
            there = ", ".join(known) or "none"
            raise Refused("unknown_queue", f'there is no queue "{name}"; there are: {there}')
    return [known[name] for name in names] if names else list(queues)


def _looks(zqueued: ControlClient, interval: float, count: int | None) -> Iterator[Any]:
    looked = 0
    while True:
        yield zqueued.status()
        looked += 1
        if looked == count:
            return
        time.sleep(interval)


if __name__ == "__main__":
    main()
