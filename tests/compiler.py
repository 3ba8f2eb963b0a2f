"""Whether there is a C compiler, for tests that use the benchmark's load generators."""

from __future__ import annotations

import os
import shutil

import pytest

needs_a_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CC", "cc")) is None,
    reason="there is no C compiler for the load generator",
)
