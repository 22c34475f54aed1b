"""What an attempt tells of its worker while it runs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.jobs import states
from agent.jobs.attempt import Attempt
from agent.jobs.journal import Journal
from agent.jobs.means import Means
from agent.jobs.records import Records
from agent.workers.process import Launcher
from artifacts.store import ArtifactStore
from protos.nanofleet.v1.job_pb2 import Evaluated, TrainProgress
from protos.nanofleet.v1.worker_pb2 import TrainingPaused, TrainingReport, TrainingResumed
from tests.agent.clocks import FakeClock
from tests.agent.jobs.samples import FIRST, spec_bytes


@pytest.fixture
async def attempt(tmp_path: Path) -> AsyncIterator[Attempt]:
    journal = Journal(tmp_path / "journal.db", FakeClock())
    journal.submit(FIRST, 1, spec_bytes(), "operator/ann")
    journal.apply(FIRST, states.Started())
    records = Records(journal)
    store = ArtifactStore(tmp_path / "artifacts", reserve_bytes=0)
    launcher = Launcher(tmp_path / "workers", "boot-1")
    means = Means(records=records, store=store, launcher=launcher, jobs=tmp_path / "jobs")
    yield Attempt(journal.entry(FIRST), means)
    await records.close()


async def test_an_evaluation_is_journalled(attempt: Attempt) -> None:
    evaluated = Evaluated(step=4, stage=1, loss=1.5, perplexity=4.5, tokens=99, best=True)
    await attempt.note(TrainingReport(evaluated=evaluated))
    events = attempt._means.records.journal.events(0, FIRST)
    assert [event.evaluated for event in events if event.HasField("evaluated")] == [evaluated]


async def test_a_paused_worker_has_no_speed(attempt: Attempt) -> None:
    assert attempt.tokens_per_s is None
    await attempt.note(TrainingReport(progress=TrainProgress(step=3, tokens_per_s=180)))
    assert attempt.tokens_per_s == 180
    await attempt.note(TrainingReport(paused=TrainingPaused(step=3)))
    assert attempt.tokens_per_s is None
    assert attempt.progress.step == 3
    await attempt.note(TrainingReport(resumed=TrainingResumed(step=3)))
    assert attempt.tokens_per_s is None, "the next step will tell"
    await attempt.note(TrainingReport(progress=TrainProgress(step=4, tokens_per_s=170)))
    assert attempt.tokens_per_s == 170


async def test_a_worker_that_rests_owes_no_report(attempt: Attempt) -> None:
    assert attempt.silent_s is None, "it has not been started"
    await attempt.note(TrainingReport(progress=TrainProgress(step=3)))
    assert attempt.silent_s is not None
    assert 0 <= attempt.silent_s < 60
    await attempt.note(TrainingReport(paused=TrainingPaused(step=3)))
    assert attempt.silent_s is None
    await attempt.note(TrainingReport(resumed=TrainingResumed(step=3)))
    assert attempt.silent_s is not None
