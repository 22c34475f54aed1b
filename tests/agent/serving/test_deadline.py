"""What is left of a deadline when the worker is asked."""

import pytest

from agent.serving.deadline import Deadline
from protos.errors import InvalidRequest, TimedOut
from protos.nanofleet.v1.inference_pb2 import GenerateRequest
from tests.agent.clocks import Clock


@pytest.mark.parametrize(
    ("asked_s", "call_s", "left_s"), [(0, None, 0), (10, None, 7), (0, 8, 5), (10, 8, 5)]
)
def test_the_earlier_one_counts_from_the_arrival(
    asked_s: float, call_s: float | None, left_s: float
) -> None:
    clock = Clock()
    deadline = Deadline(asked_s, call_s, clock)
    clock.advance(3)
    request = GenerateRequest(prompt="x", deadline_s=asked_s)
    assert deadline.applied(request) == GenerateRequest(prompt="x", deadline_s=left_s)


def test_one_that_passed_before_the_worker_was_asked() -> None:
    clock = Clock()
    deadline = Deadline(2, None, clock)
    clock.advance(2)
    with pytest.raises(TimedOut) as raised:
        deadline.applied(GenerateRequest())
    assert raised.value.reason == "DEADLINE_PASSED"


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_what_is_no_deadline(wrong: float) -> None:
    with pytest.raises(InvalidRequest):
        Deadline(wrong, None)
