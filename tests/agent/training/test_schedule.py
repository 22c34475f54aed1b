import pytest

from agent.training.schedule import learning_rate
from protos.nanofleet.v1 import job_pb2
from tests.agent.training.driver import recipe


def rates(schedule: job_pb2.Schedule.ValueType, warmup: float = 0.2) -> list[float]:
    spec = recipe(schedule=schedule, warmup_fraction=warmup, learning_rate=1.0, steps=10)
    return [round(learning_rate(spec.stages[0], step), 4) for step in range(10)]


def test_rises_from_zero_and_stays() -> None:
    assert rates(job_pb2.SCHEDULE_CONSTANT) == [0.5] + [1.0] * 9


def test_linear_falls_to_zero_after_the_last_step() -> None:
    expected = [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert rates(job_pb2.SCHEDULE_LINEAR) == expected


def test_cosine_is_slow_at_both_ends() -> None:
    found = rates(job_pb2.SCHEDULE_COSINE)
    assert found[:3] == [0.5, 1.0, 1.0]
    assert found[6] == 0.5
    assert found[2] - found[3] < found[5] - found[6]
    assert found[9] == pytest.approx(0.0381)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
@pytest.mark.parametrize(
    "schedule", [job_pb2.SCHEDULE_CONSTANT, job_pb2.SCHEDULE_LINEAR, job_pb2.SCHEDULE_COSINE]
)
def test_never_above_the_recipe_and_never_zero(
    schedule: job_pb2.Schedule.ValueType, warmup: float
) -> None:
    found = rates(schedule, warmup)
    assert all(0 < rate <= 1 for rate in found)
    assert max(found) == 1
