"""What an attempt tells of its worker while it runs."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.jobs import states
from agent.jobs.attempt import Attempt
from agent.jobs.ending import Ending
from agent.jobs.journal import Journal
from agent.jobs.leases import Leases
from agent.jobs.means import Means
from agent.jobs.patience import Patience
from agent.jobs.records import Records
from agent.workers.process import Exit, Launcher
from agent.workers.watchdog import Limits
from artifacts.store import ArtifactStore
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.job_pb2 import Evaluated, TrainProgress
from protos.nanofleet.v1.worker_pb2 import (
    StartTraining,
    TrainingCommand,
    TrainingPaused,
    TrainingReport,
    TrainingResumed,
)
from tests.agent.clocks import FakeClock
from tests.agent.jobs.samples import FIRST, leave_adapter, spec_bytes
from tests.agent.workers import stuck


@pytest.fixture
async def attempt(tmp_path: Path) -> AsyncIterator[Attempt]:
    journal = Journal(tmp_path / "journal.db", FakeClock())
    journal.submit(FIRST, 1, spec_bytes(), "operator/ann")
    journal.apply(FIRST, states.Started())
    records = Records(journal)
    store = ArtifactStore(tmp_path / "artifacts", reserve_bytes=0)
    launcher = Launcher(tmp_path / "workers", "boot-1")
    means = Means(records, store, launcher, tmp_path / "jobs", Leases(FakeClock()))
    yield Attempt(journal.entry(FIRST), means)
    await records.close()


async def test_an_evaluation_is_journalled(attempt: Attempt) -> None:
    evaluated = Evaluated(step=4, stage=1, loss=1.5, perplexity=4.5, tokens=99, best=True)
    await attempt.notes.take(TrainingReport(evaluated=evaluated))
    events = attempt._means.records.journal.events(0, FIRST)
    assert [event.evaluated for event in events if event.HasField("evaluated")] == [evaluated]


async def test_a_paused_worker_has_no_speed(attempt: Attempt) -> None:
    assert attempt.notes.tokens_per_s is None
    await attempt.notes.take(TrainingReport(progress=TrainProgress(step=3, tokens_per_s=180)))
    assert attempt.notes.tokens_per_s == 180
    await attempt.notes.take(TrainingReport(paused=TrainingPaused(step=3)))
    assert attempt.notes.tokens_per_s is None
    assert attempt.notes.progress.step == 3
    await attempt.notes.take(TrainingReport(resumed=TrainingResumed(step=3)))
    assert attempt.notes.tokens_per_s is None, "the next step will tell"
    await attempt.notes.take(TrainingReport(progress=TrainProgress(step=4, tokens_per_s=170)))
    assert attempt.notes.tokens_per_s == 170


async def test_the_silence_of_a_worker_is_told_while_there_is_one(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float | None] = [attempt.silent_s]

    def end_ns(job_id: str) -> int:
        """Asked for what the worker, which lives now, is told first."""
        told.append(attempt.silent_s)
        attempt.kill()
        return 0

    monkeypatch.setattr(attempt._means.leases, "end_ns", end_ns)
    attempt._folder.mkdir(parents=True)
    attempt._means.launcher.records.mkdir()
    await attempt._run(TrainingCommand(start=StartTraining()))
    assert told[0] is None
    assert told[1] is not None
    assert 0 <= told[1] < 60
    assert attempt.silent_s is None


async def test_the_result_of_a_worker_that_died_before_its_report_is_adopted(
    attempt: Attempt,
) -> None:
    leave_adapter(attempt._folder)
    killed = Exit(code=-9, peak_rss_bytes=5, out_of_memory=False, log_tail="")
    ending = await attempt._closing.ending(TrainingReport(), killed)
    assert isinstance(ending.event, states.Finished)
    assert ending.account.result is not None
    assert ending.account.result.steps == 4
    assert "before it could say so" in ending.account.message


async def test_half_a_result_is_not(attempt: Attempt) -> None:
    leave_adapter(attempt._folder)
    path = attempt._folder / "adapter.tar"
    path.write_bytes(path.read_bytes()[:-600])
    killed = Exit(code=-9, peak_rss_bytes=5, out_of_memory=True, log_tail="")
    ending = await attempt._closing.ending(TrainingReport(), killed)
    assert ending.event == states.Broke(job_pb2.CAUSE_OOM)


async def run(attempt: Attempt, kind: str, limits: Limits) -> Ending:
    """With a real worker, of tests/agent/workers/stuck.py."""
    attempt._folder.mkdir(parents=True)
    attempt._means.launcher.records.mkdir()
    attempt._means = replace(attempt._means, watch=limits)
    attempt._work.module = stuck.__name__
    command = TrainingCommand(start=StartTraining(job_name=kind))
    try:
        last, exit = await attempt._run(command)
        return await attempt._closing.ending(last, exit, hung=attempt._hung)
    finally:
        attempt._gone.set()


def told(attempt: Attempt) -> list[str]:
    """Lines of the log."""
    events = attempt._means.records.journal.events(0, FIRST)
    return [event.log.text for event in events if event.HasField("log")]


@pytest.mark.parametrize(
    ("kind", "limits", "said"),
    [
        ("spins", Limits(period_s=0.1, silence_s=60, stall_s=5), "it computed for 5 s without a"),
        ("hangs", Limits(period_s=0.1, silence_s=2, stall_s=60), "for 2 s it reported nothing"),
    ],
)
async def test_a_worker_that_gets_nowhere_is_ended_and_tried_again(
    attempt: Attempt, kind: str, limits: Limits, said: str
) -> None:
    ending = await asyncio.wait_for(run(attempt, kind, limits), timeout=60)
    assert told(attempt) == [kind], "it had begun"
    assert ending.event == states.Broke(job_pb2.CAUSE_TIMEOUT)
    assert ending.account.message.startswith(f"The training worker hung and was ended: {said}")


_STALL_S = 2.0


async def vacated(attempt: Attempt, kind: str) -> Ending:
    """Told to make room once it has begun, with a patience that is shorter than a slow end."""
    running = asyncio.create_task(run(attempt, kind, Limits(period_s=0.05)))
    records = attempt._means.records
    while not await records.read(told, attempt):
        pass
    await attempt.vacate(Patience(silence_s=1.5, stall_s=_STALL_S))
    return await running


async def test_one_that_makes_room_has_the_time_that_its_checkpoint_takes(
    attempt: Attempt,
) -> None:
    assert stuck.BEATS * stuck.BEAT_S > _STALL_S
    ending = await asyncio.wait_for(vacated(attempt, "slow"), timeout=60)
    assert isinstance(ending.event, states.Stopped)


async def test_one_that_does_not_come_to_it_is_ended_and_its_job_goes_on(attempt: Attempt) -> None:
    ending = await asyncio.wait_for(vacated(attempt, "deaf"), timeout=60)
    assert ending.event == states.Broke(job_pb2.CAUSE_TIMEOUT)
    assert "was told to stop, got nowhere for" in ending.account.message
    journal = attempt._means.records.journal
    assert journal.apply(FIRST, ending.event, ending.account).state == states.QUEUED
