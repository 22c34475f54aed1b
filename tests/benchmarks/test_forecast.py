"""The benchmark of the forecasts works; how wrong they are is not looked at."""

from pathlib import Path

from benchmarks import forecast, measuring
from benchmarks.measuring import ATTENTION, Task
from protos.nanofleet.v1 import job_pb2


def test_a_rehearsal_and_its_job_are_compared(tiny_base: Path, tmp_path: Path) -> None:
    recipe = measuring.specification(Task(tiny_base, targets=ATTENTION, sequence_length=64))
    recipe.stages[0].steps = 12
    recipe.evaluation.CopyFrom(job_pb2.Evaluation(held_out_fraction=0.1, period_steps=6))
    found = forecast.compare(tiny_base, recipe, tmp_path)
    assert found.predicted_s > 0
    assert found.predicted_peak_bytes > 100 << 20
    assert 0 < found.duration_s < 60
    assert found.plain()["peak_error"] == found.peak_error
    assert not list(tmp_path.iterdir())


def test_an_error_has_no_sign() -> None:
    found = forecast.Outcome(90, 100, predicted_s=12.0, duration_s=10.0)
    assert round(found.peak_error) == 10
    assert round(found.duration_error) == 20
