"""The wire engine built with AddressSanitizer and UBSan: a short fuzzing, and its own tests."""

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
FUZZED_SECONDS = 10
# Python itself leaves memory behind at its end; what the engine holds it counts by itself.
ASAN = "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=256:abort_on_error=1"
UBSAN = "halt_on_error=1:print_stacktrace=1"
_STATE_ALONE = re.compile(r"^from zqueue\.engine\.wire\.(zmtp|exchange) import", re.MULTILINE)
_DAEMONS = re.compile(r"\bzqueued: Zqueued\b|\bstart_zqueued: ")

pytestmark = pytest.mark.timeout(600)


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
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(folder / "built")]
    built = subprocess.run(
        command,
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
        "ASAN_OPTIONS": ASAN,
        "UBSAN_OPTIONS": UBSAN,
    }


def run(sanitized: dict[str, str], *arguments: str) -> str:
    """Run Python with the sanitized build, which must find nothing."""
    ran = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=sanitized, capture_output=True, text=True
    )
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
