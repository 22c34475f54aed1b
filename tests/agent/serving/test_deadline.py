"""What is left of a deadline when the worker is asked."""

import pytest

from agent.serving.deadline import Deadline
from protos.errors import InvalidRequest, TimedOut
from tests.agent.clocks import Clock


@pytest.mark.parametrize(
    ("asked_s", "call_s", "left_s"), [(10, None, 10), (0, 8, 8), (10, 8, 8), (5, 8, 5)]
)
def test_the_earlier_one_counts_from_the_arrival(
    asked_s: float, call_s: float | None, left_s: float
) -> None:
    clock = Clock()
    deadline = Deadline(asked_s, call_s, clock)
    assert deadline.ends_s == clock.now_s + left_s
    clock.advance(left_s - 0.1)
    deadline.check()
    clock.advance(0.1)
    with pytest.raises(TimedOut) as raised:
        deadline.check()
    assert raised.value.reason == "DEADLINE_PASSED"


def test_without_one_there_is_all_the_time_in_the_world() -> None:
    clock = Clock()
    deadline = Deadline(0, None, clock)
    clock.advance(1e6)
    deadline.check()
    assert deadline.ends_s == 0


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_what_is_no_deadline(wrong: float) -> None:
    with pytest.raises(InvalidRequest):
        Deadline(wrong, None)
