"""The one place that chooses a queue's engine."""

from __future__ import annotations

from zqueue.engine import Engine, Plan
from zqueue.engine.wire import support


def make_engine(plan: Plan) -> Engine:
    """The engine for ``plan``: the wire engine where it can be had and is not ruled out, else
    libzmq's, which serves every type.

    Raises:
        LookupError: the wire engine is demanded and cannot be had.
    """
    if plan.engine == "libzmq":
        return _libzmq(plan, "")
    reason = support.missing() or support.unsupported(
        plan.type, plan.frontend.options.reply_high_water_mark
    )
    if not reason:
        from zqueue.engine.wire.engine import WireEngine

        return WireEngine(plan)
    if plan.engine == "wire":
        raise LookupError(f"the wire engine cannot be had: {reason}")
    return _libzmq(plan, f"not the wire engine: {reason}")


def _libzmq(plan: Plan, because: str) -> Engine:
    from zqueue.engine.libzmq import LibzmqEngine

    return LibzmqEngine(plan, because)
