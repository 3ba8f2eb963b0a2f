"""Builds the wire engine's extension modules; everything else is in pyproject.toml.

The environment variable ZQUEUE_WIRE says what is wanted: ``yes`` fails where they cannot be built,
``no`` leaves them out, ``auto`` (the default) builds them where there is a C compiler and Python's
headers. Without them zqueue is the same product on libzmq's own proxy. ``sanitize`` builds them
with AddressSanitizer and UBSan, for the fuzzer.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

PLACE = Path("daemon/zqueue/engine/wire")
MODULES = (
    "spares",
    "memory",
    "zmtp",
    "session",
    "notices",
    "tap",
    "histogram",
    "recent",
    "due",
    "admission",
    "routing_ids",
    "matches",
    "workers",
    "heaps",
    "peers",
    "requests",
    "listing",
    "return_addresses",
    "clients",
    "error_replies",
    "deaths",
    "redelivery",
    "giving",
    "replies",
    "receiving",
    "expiry",
    "dispatcher",
    "settings",
    "snapshot",
    "exchange",
    "hosts",
    "loop",
    "connections",
    "datapath",
)
OLDEST_PYTHON = "0x030B0000"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O1", "-g"]


def wanted() -> bool:
    """Whether to build the extension modules.

    Raises:
        SystemExit: ZQUEUE_WIRE says something else than it may.
    """
    wish = os.environ.get("ZQUEUE_WIRE", "auto")
    if wish not in ("yes", "no", "auto", "sanitize"):
        sys.exit(f'ZQUEUE_WIRE is "{wish}"; it may be yes, no, auto or sanitize')
    return wish in ("yes", "sanitize") or (wish == "auto" and can_compile())


def can_compile() -> bool:
    """Whether a C compiler and Python's headers are here."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    probe = "#include <Python.h>\n#include <sys/epoll.h>\n"
    command = [*compiler, "-fsyntax-only", "-I", sysconfig.get_path("include"), "-xc", "-"]
    try:
        subprocess.run(command, input=probe, text=True, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"zqueue: the wire engine is left out, nothing can be compiled here: {error}")
        return False
    return True


def extensions() -> list[Extension]:
    from Cython.Build import cythonize

    sanitize = os.environ.get("ZQUEUE_WIRE") == "sanitize"
    modules = [
        Extension(
            f"zqueue.engine.wire.{name}",
            [str(PLACE / f"{name}.pyx")],
            extra_compile_args=SANITIZERS if sanitize else ["-O2", "-g0"],
            extra_link_args=SANITIZERS[:1] if sanitize else [],
            define_macros=[("Py_LIMITED_API", OLDEST_PYTHON)],
            py_limited_api=True,
        )
        for name in MODULES
    ]
    built: list[Extension] = cythonize(
        modules,
        include_path=["daemon"],
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
        },
    )
    return built


class LimitedWheel(bdist_wheel):
    """One wheel for every Python from the oldest one on."""

    def finalize_options(self) -> None:
        self.py_limited_api = "cp311" if self.distribution.has_ext_modules() else False
        super().finalize_options()


setup(
    ext_modules=extensions() if wanted() else [],
    cmdclass={"bdist_wheel": LimitedWheel},
)
