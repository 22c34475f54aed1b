"""What was measured is never forgotten in a forecast, and never makes one smaller."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.memory.calibration import (
    MEASURED,
    MOST_KEPT,
    Calibration,
    Work,
    measured_bytes,
    predicted,
    read,
    recipe_shape,
    written,
)
from agent.memory.calibration_file import CalibrationFile
from agent.memory.forecast import MB, Forecast, Part
from tests.agent.jobs.samples import train_spec

WORKS = st.builds(
    Work,
    st.sampled_from(["training", "serving"]),
    st.sampled_from(["sha256:a", "sha256:b"]),
    st.sampled_from(["context 256", "context 2048"]),
    st.sampled_from(["llama", "onnxruntime"]),
)
SIZES = st.integers(0, 4000 * MB)
NOTES = st.lists(st.tuples(WORKS, SIZES, SIZES), max_size=12)
SERVED = Work("serving", "sha256:a", "context 256", "llama")


def forecast(size_bytes: int) -> Forecast:
    return Forecast((Part("runtime", size_bytes),), 10 * MB, 1000 * MB)


def noted(notes: list[tuple[Work, int, int]]) -> Calibration:
    known = Calibration()
    for work, forecast_bytes, taken_bytes in notes:
        # As a running worker's: with what was known before.
        known = known.noted(work, known.applied(work, forecast(forecast_bytes)), taken_bytes)
    return known


@given(NOTES, WORKS, SIZES)
def test_a_forecast_is_never_below_its_own_sum_nor_below_what_was_measured(
    notes: list[tuple[Work, int, int]], work: Work, size_bytes: int
) -> None:
    applied = noted(notes).applied(work, forecast(size_bytes))
    taken = [taken_bytes for other, _, taken_bytes in notes if other == work]
    assert applied.anonymous_bytes >= max([size_bytes, *taken])
    above = [t - f for w, f, t in notes if (w.kind, w.base_digest, w.engine) == (
        work.kind, work.base_digest, work.engine)]  # fmt: skip
    assert applied.anonymous_bytes >= size_bytes + max([0, *above])
    assert predicted(applied) == forecast(size_bytes)
    assert measured_bytes(applied) == applied.anonymous_bytes - size_bytes
    assert (applied.file_bytes, applied.at_rest) == (1010 * MB, forecast(size_bytes).at_rest)
    assert noted(notes).applied(work, applied) == applied


@given(NOTES)
def test_it_comes_back_from_the_disk_as_it_was(notes: list[tuple[Work, int, int]]) -> None:
    known = noted(notes)
    assert read(written(known, "1.0"), "1.0") == known


def test_nothing_new_changes_nothing_and_old_work_is_forgotten() -> None:
    known = Calibration().noted(SERVED, forecast(100 * MB), 120 * MB - 5)
    assert known.noted(SERVED, forecast(100 * MB), 120 * MB) is known
    assert known.noted(SERVED, forecast(100 * MB), 90 * MB) is known
    for number in range(MOST_KEPT):
        work = Work("serving", f"sha256:{number}", "context 256", "llama")
        known = known.noted(work, forecast(100 * MB), 120 * MB)
    assert len(known.taken) == MOST_KEPT
    assert SERVED not in known.taken


def test_the_shape_of_a_recipe_is_what_its_memory_depends_on() -> None:
    same = train_spec(seed=5, learning_rate=0.5)
    assert recipe_shape(same) == recipe_shape(train_spec())
    assert recipe_shape(train_spec(sequence_length=99)) != recipe_shape(train_spec())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format_version": 1}',
        b'{"format_version": 1, "agent_version": "0.9", "taken": []}',
        b'{"format_version": 1, "agent_version": "1.0", "taken": [1]}',
        b'{"format_version": 1, "agent_version": "1.0", "taken": 7}',
        written(noted([(SERVED, 0, MB)]), "1.0").replace(b"1000000,", b"-1000000,"),
        written(noted([(SERVED, 0, MB)]), "1.0").replace(b"1000000,", b"true,"),
        written(noted([(SERVED, 0, MB)]), "1.0")[:-20],
    ],
)
def test_a_file_that_cannot_be_used_is_left_aside_with_a_line_in_the_log(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(content)
    file = CalibrationFile(path, "1.0")
    with caplog.at_level(logging.WARNING):
        assert file.load() == Calibration()
    assert "forecasts begin anew" in caplog.text
    known = noted([(SERVED, 100 * MB, 130 * MB)])
    file.save(known)
    assert file.load() == known
    assert known.applied(SERVED, forecast(100 * MB)).anonymous[-1] == Part(MEASURED, 30 * MB)


def test_a_disk_that_is_full_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    CalibrationFile(tmp_path / "no folder" / "calibration.json", "1.0").save(Calibration())
    assert "is not kept" in caplog.text
