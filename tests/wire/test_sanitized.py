"""The wire engine built with AddressSanitizer and UBSan: a short fuzzing, its own tests, and the
whole daemon with it.

Of the tests that start a daemon a part is run here. ``ZQUEUE_SANITIZED=all`` runs all of them, and
the fuzzer for ``ZQUEUE_FUZZED`` seconds (600 then): see CONTRIBUTING.md.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALL = os.environ.get("ZQUEUE_SANITIZED") == "all"
FUZZED_SECONDS = float(os.environ.get("ZQUEUE_FUZZED", 600 if ALL else 10))
# Python itself leaves memory behind at its end; what the engine holds it counts by itself.
ASAN = "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=256:abort_on_error=1"
UBSAN = "halt_on_error=1:print_stacktrace=1"
_STATE_ALONE = re.compile(r"^from zqueue\.engine\.wire\.(zmtp|exchange) import", re.MULTILINE)
_DAEMONS = re.compile(r"\bzqueued: Zqueued\b|\bstart_zqueued: ")

# What starts a daemon, a few of each kind: bytes of peers, what is copied, lists, a hand-over.
_SOME = (
    "tests/wire/test_copies.py",
    "tests/wire/test_leaving.py",
    "tests/wire/test_workers.py",
    # The other engine has nothing of what the sanitizers look at.
    "tests/test_capture.py::test_publishes_every_message_with_the_queues_name_first[wire]",
    "tests/test_capture.py::test_comes_and_goes_under_load_and_loses_nothing[wire]",
    "tests/test_handover.py::test_what_waits_and_what_is_in_flight_goes_along",
)
# These have another library loaded before Python, measure memory or speed, or start what is none of
# ours and cannot be run with the sanitizers.
_NOT_SANITIZED = {
    *("test_faults", "test_hardening", "test_jeromq", "test_memory", "test_other_implementations"),
    "test_sanitized",
}
_BESIDE_THE_ENGINE = (
    *("bad_peers", "capture", "connect", "dead_letters", "failure", "handover", "lifecycle"),
    *("pair", "parcel", "reload", "steering"),
)

pytestmark = pytest.mark.timeout(6 * 3600 if ALL else 900)


def libasan() -> str:
    """The sanitizer's library, which has to be loaded before Python."""
    if not shutil.which("gcc"):
        pytest.skip("there is no gcc")
    asked = ["gcc", "-print-file-name=libasan.so"]
    path = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(path):
        pytest.skip("gcc has no libasan here")
    return path


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which ``zqueue`` is a build with sanitizers."""
    preloaded = libasan()
    if importlib.util.find_spec("Cython") is None or importlib.util.find_spec("setuptools") is None:
        pytest.skip("building needs Cython and setuptools")
    folder = tmp_path_factory.mktemp("sanitized")
    source = folder / "source"
    # A copy, so that nothing in the working tree is built anew because of it.
    shutil.copytree(ROOT / "daemon", source / "daemon", ignore=shutil.ignore_patterns("*.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    place = ("--build-lib", str(folder / "built"), f"--parallel={os.cpu_count()}")
    built = subprocess.run(
        [sys.executable, "setup.py", "-q", "build", *place],
        cwd=source,
        env={**os.environ, "ZQUEUE_WIRE": "sanitize"},
        capture_output=True,
        text=True,
    )
    if "Python.h" in built.stderr:
        pytest.skip("Python's headers are not here")
    assert built.returncode == 0, built.stdout + built.stderr
    return {
        **os.environ,
        "LD_PRELOAD": preloaded,
        "PYTHONPATH": f"{folder / 'built'}:{ROOT}",
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": f"{ASAN}:log_path={folder / 'found'}",
        "UBSAN_OPTIONS": f"{UBSAN}:log_path={folder / 'found'}",
        "ZQUEUE_FOUND": str(folder),
        "ZQUEUE_PATIENCE": "6",
    }


def run(sanitized: dict[str, str], *arguments: str) -> str:
    """Run Python with the sanitized build, which must find nothing."""
    ran = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=sanitized, capture_output=True, text=True
    )
    # In whatever process it was: a daemon that ends may be just what a test waits for.
    reports = [report.read_text() for report in Path(sanitized["ZQUEUE_FOUND"]).glob("found.*")]
    # There are warnings, too, where something asked for more memory than may be had.
    found = [each for each in reports if "ERROR: " in each or "runtime error: " in each]
    assert not found, "\n".join(found)[:20_000]
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-5000:]
    return ran.stdout


def test_sanitizers_are_at_work(sanitized: dict[str, str]) -> None:
    said = run(
        sanitized,
        "-c",
        "import zqueue.engine.wire.zmtp as zmtp\n"
        "print(zmtp.__file__)\n"
        "print('libasan' in open('/proc/self/maps').read())",
    )
    place, loaded = said.splitlines()
    assert place.startswith(sanitized["PYTHONPATH"].partition(":")[0])
    assert loaded == "True"
    assert b"__asan_report" in Path(place).read_bytes()
    assert b"__ubsan_handle" in Path(place).read_bytes()


def test_fuzzed(sanitized: dict[str, str]) -> None:
    said = run(sanitized, "-m", "tests.wire.fuzz", "--seconds", str(FUZZED_SECONDS))
    print(said)
    assert "nothing found" in said


def test_fuzzed_without_memory(sanitized: dict[str, str]) -> None:
    """Any block may be the one that there is no memory for."""
    seconds = str(FUZZED_SECONDS / 2)
    options = ("--starved", "0.02", "--only", "exchange", "--seconds", seconds)
    said = run(sanitized, "-m", "tests.wire.fuzz", *options)
    print(said)
    assert "nothing found" in said


def test_its_own_tests(sanitized: dict[str, str]) -> None:
    modules = sorted(
        str(path.relative_to(ROOT))
        for path in Path(__file__).parent.glob("test_*.py")
        # A daemon under the sanitizers is slow, and what it adds are only the sockets.
        if _STATE_ALONE.search(path.read_text()) and not _DAEMONS.search(path.read_text())
    )
    assert "tests/wire/test_model.py" in modules
    few = {**sanitized, "ZQUEUE_MODEL_STEPS": "2000"}
    run(few, "-m", "pytest", "-q", "-p", "no:cacheprovider", *modules)


def test_a_fault_in_a_daemon_is_found(sanitized: dict[str, str], tmp_path: Path) -> None:
    """Also in one that nobody looks at: what is found anywhere fails :func:`run`."""
    reports = f"log_path={tmp_path / 'found'}"
    apart = {
        **sanitized,
        "ASAN_OPTIONS": f"{ASAN}:{reports}",
        "UBSAN_OPTIONS": f"{UBSAN}:{reports}",
        "ZQUEUE_FOUND": str(tmp_path),
    }
    child = "import ctypes; ctypes.string_at(ctypes.create_string_buffer(8), 4096)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(AssertionError, match="AddressSanitizer"):
        run(apart, "-c", parent)


def test_the_whole_daemon(sanitized: dict[str, str]) -> None:
    tests = _all_with_a_daemon() if ALL else list(_SOME)
    run(sanitized, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=600", *tests)


def _all_with_a_daemon() -> list[str]:
    wire = [
        path
        for path in sorted(Path(__file__).parent.glob("test_*.py"))
        if path.stem not in _NOT_SANITIZED and _DAEMONS.search(path.read_text())
    ]
    beside = [ROOT / "tests" / f"test_{name}.py" for name in _BESIDE_THE_ENGINE]
    return [str(path.relative_to(ROOT)) for path in (*wire, *beside)]
