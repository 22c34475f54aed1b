"""What a job may write into the journal has a bound, and no gap."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.jobs import quota, states
from agent.jobs.journal import Journal
from protos.nanofleet.v1.job_pb2 import CheckpointSaved, LogLine, TrainProgress
from tests.agent.clocks import FakeClock
from tests.agent.jobs.samples import FIRST, spec_bytes


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.db", FakeClock())
    opened.submit(FIRST, 1, spec_bytes(), "operator/ann")
    opened.apply(FIRST, states.Started())
    yield opened
    opened.close()


def kept(first: int, last: int) -> list[int]:
    return [s for s in range(first, last + 1) if quota.is_kept(TrainProgress(step=s))]


def test_progress_is_thinned_by_the_step() -> None:
    assert kept(1, 4097) == list(range(1, 4097))
    assert kept(8189, 8200) == [8190, 8192, 8196, 8200]
    assert len(kept(1, 1_000_000)) < 20_500
    assert quota.is_kept(TrainProgress(step=999_999, total_steps=999_999)), "the last one always"


def test_thinned_steps_leave_no_gap_and_are_not_lost(journal: Journal) -> None:
    for step in range(8189, 8200):
        journal.progress(FIRST, TrainProgress(step=step))
    events = journal.events(2)
    assert [event.progress.step for event in events] == [8190, 8192, 8196]
    assert [event.seq for event in events] == [3, 4, 5]
    assert journal.job(FIRST).progress.step == 8199


def test_a_job_that_tells_too_much_goes_on_without(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "MOST_EVENTS", 10)
    for step in range(1, 30):
        journal.progress(FIRST, TrainProgress(step=step))
        journal.checkpoint(FIRST, CheckpointSaved(step=step))
    journal.apply(FIRST, states.Finished())
    events = journal.events(0)
    assert len(events) == 11
    assert "only changes of its state" in events[9].log.text
    assert events[10].transition.to == states.SUCCEEDED
    assert journal.job(FIRST).progress.step == 29


def test_a_long_line_is_cut(journal: Journal) -> None:
    journal.log(FIRST, LogLine(text="x" * 10_000))
    text = journal.events(2)[0].log.text
    assert text == "x" * 4096 + " … (10,000 characters)"
