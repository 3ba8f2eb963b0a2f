"""``python -m benchmarks``: see README.md beside this file."""

from __future__ import annotations

import json
import signal
import sys
from typing import TextIO

import click

from benchmarks import cpu, table
from benchmarks.brokers import BrokerError
from benchmarks.grid import GRID, QUICK, Cell, Effort, measure
from benchmarks.growth import growth
from benchmarks.peers import PeerError
from benchmarks.verdict import judge
from benchmarks.wire.command import wire


def _parse_cells(_: click.Context, __: click.Parameter, text: str | None) -> tuple[Cell, ...]:
    cells = []
    for cell in (text or "").split(","):
        if not cell:
            continue
        numbers = cell.split(":")
        if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            raise click.BadParameter(f"{cell!r} is not BYTES:CLIENTS:WORKERS, such as 64:10:4")
        body_bytes, clients, workers = map(int, numbers)
        if not clients or not workers:
            raise click.BadParameter(f"{cell!r}: at least one client and one worker")
        cells.append(Cell(body_bytes, clients, workers))
    return tuple(cells)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A few cells, short rounds: under a minute.")
@click.option("--runs", type=click.IntRange(1), help="Runs of each broker. Default: 5, quick 3.")
@click.option(
    "--seconds", type=click.FloatRange(0.05), help="Of each round. Default: 1, quick 0.4."
)
@click.option(
    "--round-trips", type=click.IntRange(1), help="Of each round. Default: 5000, quick 2000."
)
@click.option(
    "--cells",
    callback=_parse_cells,
    metavar="BYTES:CLIENTS:WORKERS,…",
    help="These cells instead of the grid, such as 64:10:4,4096:1:1.",
)
@click.option(
    "--json",
    "json_file",
    type=click.File("w", lazy=False),
    metavar="FILE",
    help="Write the figures there too.",
)
@click.option("--enforce", is_flag=True, help="Exit 1 if zqueued misses a bar in any cell.")
@click.pass_context
def main(
    context: click.Context,
    quick: bool,
    runs: int | None,
    seconds: float | None,
    round_trips: int | None,
    cells: tuple[Cell, ...],
    json_file: TextIO | None,
    enforce: bool,
) -> None:
    """Measure zqueued beside zmq.proxy, ThreadProxy and monitored_queue.

    The commands "wire" and "growth" measure something else, with options of their own.

    Exit codes: 0 measured, 1 a broker failed or left requests unanswered (or with --enforce, a bar
    was missed), 2 usage.
    """
    # Ended by SIGTERM, it still ends the brokers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if context.invoked_subcommand is not None:
        return
    effort = Effort(
        cells=cells or (QUICK if quick else GRID),
        runs=runs or (3 if quick else 5),
        seconds=seconds or (0.4 if quick else 1.0),
        warm_up=0.1 if quick else 0.2,
        round_trips=round_trips or (2000 if quick else 5000),
    )
    placement = cpu.place()
    try:
        figures = measure(effort, placement, lambda what: click.echo(what, err=True))
    except (BrokerError, PeerError) as error:
        click.echo(f"benchmarks: {error}", err=True)
        sys.exit(1)
    bars = judge(figures)
    if json_file is not None:
        json.dump(table.document(figures, bars, effort, placement), json_file, indent=2)
    for line in table.lines(figures, bars, effort, placement):
        click.echo(line)
    failed = enforce and any(bar.missed or not bar.ratios for bar in bars)
    for name, cell, count in figures.lost():
        click.echo(f"benchmarks: {name} left {count} requests unanswered ({cell})", err=True)
        failed = True
    sys.exit(1 if failed else 0)


main.add_command(wire)
main.add_command(growth)

if __name__ == "__main__":
    main()
