"""Builds the wire engine's extension modules; everything else is in pyproject.toml.

The environment variable ZQUEUE_WIRE says what is wanted: ``yes`` fails where they cannot be built,
``no`` leaves them out, ``auto`` (the default) builds them where there is a C compiler and Python's
headers. Without them zqueue is the same product on libzmq's own proxy. ``debug`` builds them with
checks of what must always hold (``zq_check``), ``sanitize`` with these, AddressSanitizer and UBSan.
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
    "slabs",
    "blocks",
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
# _FORTIFY_SOURCE is 2 by itself where the compiler or the C library is too old for 3, and may have
# been defined by whoever builds a package. With it the C library warns of each wake-up that is
# written and not looked at.
HARDENED = [
    *("-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"),
    "-Wno-unused-result",
]
RELRO = ["-Wl,-z,relro,-z,now"]
CHECKED = ["-DZQ_CHECKS", "-O1", "-g"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
COMPILED = {
    "debug": [*CHECKED, "-fstack-protector-strong"],
    "sanitize": [*CHECKED, *SANITIZERS],
}
"""How, unless it is for use."""


def wanted() -> bool:
    """Whether to build the extension modules.

    Raises:
        SystemExit: ZQUEUE_WIRE says something else than it may.
    """
    wish = os.environ.get("ZQUEUE_WIRE", "auto")
    if wish not in ("yes", "no", "auto", *COMPILED):
        sys.exit(f'ZQUEUE_WIRE is "{wish}"; it may be yes, no, auto, debug or sanitize')
    return wish in ("yes", *COMPILED) or (wish == "auto" and can_compile())


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

    wish = os.environ.get("ZQUEUE_WIRE", "auto")
    modules = [
        Extension(
            f"zqueue.engine.wire.{name}",
            [str(PLACE / f"{name}.pyx")],
            extra_compile_args=COMPILED.get(wish, ["-O2", "-g0", *HARDENED]),
            extra_link_args=[*RELRO, *(SANITIZERS[:1] if wish == "sanitize" else [])],
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
