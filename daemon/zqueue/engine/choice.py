"""The one place that chooses a queue's engine."""

from __future__ import annotations

from zqueue.engine import Engine, Plan
from zqueue.engine.libzmq import LibzmqEngine


def make_engine(plan: Plan) -> Engine:
    """The engine for ``plan``; libzmq's serves every type and transport."""
    return LibzmqEngine(plan)
