from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zqueue.states import FOLLOWS, IllegalTransition, Standing, State, StateMachine


def test_what_may_follow_what() -> None:
    allowed = {
        "starting": "running paused stopped failed",
        "running": "paused draining stopped failed",
        "paused": "running draining stopped failed",
        "draining": "paused stopped running failed",
        "stopped": "starting",
        "failed": "starting stopped",
    }
    assert {str(old): set(map(str, new)) for old, new in FOLLOWS.items()} == {
        old: set(new.split()) for old, new in allowed.items()
    }


@given(st.lists(st.sampled_from(State)))
def test_no_way_around_the_table(wishes: list[State]) -> None:
    told: list[tuple[Standing, Standing]] = []
    machine = StateMachine(lambda old, new: told.append((old, new)))
    for wish in wishes:
        before = machine.standing
        if wish in FOLLOWS[before.state]:
            machine.change(wish, "0/root", "because")
            assert machine.standing.state is wish
            assert told[-1] == (before, machine.standing)
        else:
            with pytest.raises(IllegalTransition, match=f"{before.state}.*{wish}"):
                machine.change(wish, "0/root")
            assert machine.standing is before
    assert all(new.state in FOLLOWS[old.state] for old, new in told)
