"""The benchmarks run, and lose nothing. What they measure is not asserted: tests tell no speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import brokers, zmtp
from benchmarks.grid import GRID, NAMES, Cell, Figures, Throughput
from benchmarks.verdict import judge
from benchmarks.wire import measure, report
from benchmarks.wire.rows import Metric, rows
from tests.compiler import needs_a_compiler

_ROOT = Path(__file__).parent.parent


def _benchmarks(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=_ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_every_broker_has_figures_and_answers_all(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    done = _benchmarks(
        *("--runs", "1", "--seconds", "1", "--round-trips", "50"),
        *("--cells", "64:3:2,262144:1:1", "--json", str(path)),
    )
    assert done.returncode == 0, done.stderr
    assert "zqueued against zmq.proxy" in done.stdout
    figures: dict[str, Any] = json.loads(path.read_text())
    assert [cell["body_bytes"] for cell in figures["throughput"]] == [64, 262144]
    for cell in figures["throughput"]:
        assert set(cell["brokers"]) == set(NAMES)
        for name, of_broker in cell["brokers"].items():
            assert of_broker["sent"] == of_broker["answered"] > 0, name
            assert of_broker["requests_per_second"] > 0, name
            assert of_broker["cpu_us_per_request"] > 0, name
    for cell in figures["round_trip"]:
        assert set(cell["brokers"]) == set(NAMES)
        for name, of_broker in cell["brokers"].items():
            assert 0 < of_broker["p50_us"] <= of_broker["p99_us"], name
    assert {bar["name"] for bar in figures["bars"]} == {
        "throughput",
        "CPU a request",
        "round trip p50",
    }


@pytest.mark.parametrize("cells", ["64", "64:1", "64:0:1", "64:1:0", "a:b:c", "64:1:1:1"])
def test_a_wrong_cell_is_a_usage_error(cells: str) -> None:
    done = _benchmarks("--cells", cells)
    assert done.returncode == 2
    assert cells in done.stderr
    assert "Traceback" not in done.stderr


def test_the_grid_is_the_whole_one_and_stays_below_the_high_water_marks() -> None:
    assert len(GRID) == 3 * 3 * 2
    for cell in GRID:
        assert 1 <= cell.window <= 500
        assert cell.window * cell.clients <= 1000


def test_a_request_is_the_delimiter_and_the_body() -> None:
    assert zmtp.request(b"x" * 64) == b"\x01\x00" + b"\x00\x40" + b"x" * 64
    assert zmtp.request(b"x" * 256) == b"\x01\x00" + b"\x02" + (256).to_bytes(8, "big") + b"x" * 256


def _throughput(requests_per_second: float, *, busy: float = 1.0, other: float = 0.0) -> Throughput:
    return Throughput(requests_per_second, 10.0, busy, other, sent=1, answered=1)


def test_cells_where_the_brokers_did_not_set_the_pace_do_not_count_for_throughput() -> None:
    figures = Figures(
        {
            Cell(64, 1, 1): {"zmq.proxy": _throughput(100), "zqueued": _throughput(90)},
            Cell(64, 1, 4): {"zmq.proxy": _throughput(100, busy=0.5), "zqueued": _throughput(1)},
            Cell(64, 10, 1): {"zmq.proxy": _throughput(100), "zqueued": _throughput(99, busy=0.5)},
            Cell(64, 10, 4): {
                "zmq.proxy": _throughput(100),
                "zqueued": _throughput(1, busy=0.5, other=0.9),
            },
        },
        {},
    )
    throughput, cpu, round_trip = judge(figures)
    assert (throughput.missed, len(throughput.ratios), throughput.left_out) == (1, 2, 2)
    assert throughput.worst == ("64 B, 1 client, 1 worker", 0.9)
    assert (cpu.missed, len(cpu.ratios)) == (0, 4)
    assert "not known" in str(round_trip)


def test_lost_requests_are_told() -> None:
    lossy = Throughput(1.0, 1.0, 1.0, 0.0, sent=5, answered=3)
    figures = Figures({Cell(64, 1, 1): {"zqueued": lossy}}, {})
    assert list(figures.lost()) == [("zqueued", Cell(64, 1, 1), 2)]


@needs_a_compiler
def test_every_row_of_the_wire_table_has_figures(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    done = _benchmarks(
        *("wire", "--runs", "1", "--seconds", "0.4", "--idle-clients", "50"),
        *("--rows", "a,b,d,g,h,i,j,k", "--json", str(path)),
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(path.read_text())
    assert set(figures["not_here"]) <= {measure.SUBJECT, measure.EXTRA}
    assert set(figures["left_out"]) <= {"g", "h"}, "rows that need a libzmq for C"
    names = [name for name in measure.NAMES if name not in figures["not_here"]]
    assert brokers.BASELINE in names
    assert [row["key"] for row in figures["rows"]] == [
        key for key in "abdghijk" if key not in figures["left_out"]
    ]
    for row in figures["rows"]:
        for name in names:
            if (name, row["key"]) not in {(f["broker"], f["row"]) for f in figures["failed"]}:
                (one,) = row["brokers"][name]
                assert one["throughput"] > 0, (row["key"], name)
                assert set(row["metrics"]) <= set(one), (row["key"], name)
    for key in ("  a  ", "  b  "):
        assert key in done.stdout, "what it is to reach"


def test_an_unknown_row_is_a_usage_error() -> None:
    done = _benchmarks("wire", "--rows", "a,z")
    assert done.returncode == 2
    assert "'z' is none of a,b,c" in done.stderr


def test_without_a_compiler_it_says_so() -> None:
    done = _benchmarks("wire", "--rows", "b", CC="no-such-compiler")
    assert done.returncode == 1
    assert "there is no C compiler 'no-such-compiler'" in done.stderr
    assert "Traceback" not in done.stderr


def _round(**figures: float) -> measure.Round:
    shares = {Metric.BROKER_SHARE: 0.75, Metric.PEERS_SHARE: 0.25, Metric.OTHER_SHARE: 0.0}
    return {**shares, **{Metric[name]: value for name, value in figures.items()}}


def test_the_wire_engine_is_judged_by_medians_against_the_baseline() -> None:
    row = rows(10_000)[0]
    figures = measure.Figures(
        {
            row: {
                brokers.BASELINE: [_round(THROUGHPUT=n, CPU=2.0) for n in (100, 90, 5000)],
                measure.SUBJECT: [
                    _round(THROUGHPUT=n, CPU=1.0, BROKER_SHARE=0.4, PEERS_SHARE=0.6)
                    for n in (210, 1, 220)
                ],
            }
        }
    )
    throughput, cpu = report.judge(figures, (row,))
    assert (throughput.met, throughput.value) == (True, 2.1)
    assert "judge by its CPU a request" in str(throughput)
    assert (cpu.met, cpu.value) == (False, 0.5)
    assert "missed" in str(cpu)
    assert all("not known" in str(one) for one in report.judge(measure.Figures(), (row,)))


def test_a_broker_that_failed_is_told_unless_it_is_the_extra() -> None:
    figures = measure.Figures(
        absent={measure.SUBJECT: "not built", brokers.ZQUEUED_LIBZMQ: "no config"},
        failed=[(measure.EXTRA, "e", "slow"), (measure.SUBJECT, "a", "2 requests unanswered")],
    )
    assert report.failures(figures) == [
        "zqueued libzmq did not start: no config",
        "zqueued wire failed in row a: 2 requests unanswered",
    ]
