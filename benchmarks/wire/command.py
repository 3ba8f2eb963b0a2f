"""``python -m benchmarks wire``."""

from __future__ import annotations

import json
import os
import sys
from typing import TextIO

import click

from benchmarks import cpu
from benchmarks.brokers import BrokerError
from benchmarks.native import CannotBuild
from benchmarks.wire import report
from benchmarks.wire.measure import Effort, measure
from benchmarks.wire.rows import Row, rows


def _chosen(keys: str | None, all_rows: tuple[Row, ...]) -> tuple[Row, ...]:
    if keys is None:
        return all_rows
    wanted = keys.split(",")
    known = {row.key: row for row in all_rows}
    for key in wanted:
        if key not in known:
            raise click.BadParameter(f"{key!r} is none of {','.join(known)}", param_hint="'--rows'")
    return tuple(known[key] for key in known if key in wanted)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Short rounds, and few: about two minutes.")
@click.option("--runs", type=click.IntRange(1), help="Runs of each broker. Default: 5, quick 3.")
@click.option(
    "--seconds", type=click.FloatRange(0.05), help="Of each round. Default: 1, quick 0.3."
)
@click.option("--rows", "keys", metavar="a,b,…", help="These rows only.")
@click.option(
    "--idle-clients",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="How many there are in row i.",
)
@click.option(
    "--json",
    "json_file",
    type=click.File("w", lazy=False),
    metavar="FILE",
    help="Write the figures there too, with every single round.",
)
@click.option("--enforce", is_flag=True, help="Exit 1 if the wire engine misses a goal.")
def wire(
    quick: bool,
    runs: int | None,
    seconds: float | None,
    keys: str | None,
    idle_clients: int,
    json_file: TextIO | None,
    enforce: bool,
) -> None:
    """Measure both engines beside zmq.proxy and pyomq, broker and peers on one CPU.

    Exit codes: 0 measured, 1 a broker failed or left requests unanswered (or with --enforce, a goal
    was missed), 2 usage.
    """
    effort = Effort(
        rows=_chosen(keys, rows(idle_clients)),
        runs=runs or (3 if quick else 5),
        seconds=seconds or (0.3 if quick else 1.0),
        warm_up=0.1 if quick else 0.2,
    )
    one_cpu = cpu.place().broker
    try:
        figures = measure(
            effort, one_cpu, os.sched_getaffinity(0), lambda what: click.echo(what, err=True)
        )
    except (BrokerError, CannotBuild) as error:
        click.echo(f"benchmarks: {error}", err=True)
        sys.exit(1)
    outcomes = report.judge(figures, effort.rows)
    if json_file is not None:
        json.dump(report.document(figures, outcomes, effort, one_cpu), json_file, indent=2)
    for line in report.lines(figures, outcomes, effort, one_cpu):
        click.echo(line)
    failures = report.failures(figures)
    for failure in failures:
        click.echo(f"benchmarks: {failure}", err=True)
    sys.exit(1 if failures or (enforce and not all(one.met for one in outcomes)) else 0)
