"""The one place that chooses a queue's engine."""

from __future__ import annotations

from zqueue.engine import Engine, Plan
from zqueue.engine.wire import support


def engine_for(engine: str, type: str, reply_high_water_mark: int) -> tuple[str, str]:
    """The name of the engine for a queue with these settings, and why it cannot be the wire engine
    where that is not ruled out."""
    if engine == "libzmq":
        return "libzmq", ""
    reason = support.missing() or support.unsupported(type, reply_high_water_mark)
    return ("libzmq" if reason else "wire"), reason


def make_engine(plan: Plan) -> Engine:
    """The engine for ``plan``: the wire engine where it can be had and is not ruled out, else
    libzmq's, which serves every type.

    Raises:
        LookupError: the wire engine is demanded and cannot be had.
    """
    name, reason = engine_for(plan.engine, plan.type, plan.frontend.options.reply_high_water_mark)
    if name == "wire":
        from zqueue.engine.wire.engine import WireEngine

        return WireEngine(plan)
    if plan.engine == "wire":
        raise LookupError(f"the wire engine cannot be had: {reason}")
    from zqueue.engine.libzmq import LibzmqEngine

    return LibzmqEngine(plan, f"not the wire engine: {reason}" if reason else "")
