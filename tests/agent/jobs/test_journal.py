"""The journal as its users rely on it: one truth, in one transaction, that survives."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.jobs import states
from agent.jobs.database import SYNC_EVERY, Damaged
from agent.jobs.journal import Account, Journal
from artifacts import digest
from protos.errors import AlreadyExists, NotFound, Refused, StaleGeneration
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.job_pb2 import CheckpointSaved, Decided, JobResult, LogLine, TrainProgress
from tests.agent.clocks import FakeClock
from tests.agent.jobs.samples import FIRST, SECOND, spec_bytes


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def journal(tmp_path: Path, clock: FakeClock) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.db", clock)
    yield opened
    opened.close()


def submit(journal: Journal, job_id: str = FIRST) -> job_pb2.Job:
    return journal.submit(job_id, 1, spec_bytes(), "operator/ann")


def test_a_submitted_job_is_queued_and_told(journal: Journal) -> None:
    job = submit(journal)
    assert (job.id, job.generation, job.state) == (FIRST, 1, states.QUEUED)
    assert job.spec_digest == digest.of_bytes(spec_bytes())
    assert job.spec.name == "persona"
    assert job.submitted_by == "operator/ann"
    assert job.submitted.boot_id == "boot-1"
    (event,) = journal.events(0)
    assert (event.seq, event.job_id, event.transition.to) == (1, FIRST, states.QUEUED)


def test_submitting_again_changes_nothing(journal: Journal) -> None:
    assert submit(journal) == submit(journal)
    assert len(journal.events(0)) == 1


def test_a_newer_generation_is_taken_over_and_an_older_refused(journal: Journal) -> None:
    submit(journal)
    assert journal.submit(FIRST, 3, spec_bytes(), "").generation == 3
    with pytest.raises(StaleGeneration, match="generation 3; generation 2"):
        journal.submit(FIRST, 2, spec_bytes(), "")


def test_another_spec_under_the_same_id_is_a_conflict(journal: Journal) -> None:
    submit(journal)
    with pytest.raises(AlreadyExists, match="another spec"):
        journal.submit(FIRST, 1, spec_bytes(name="other"), "")


def test_the_longest_waiting_job_is_next_and_keeps_its_place(journal: Journal) -> None:
    submit(journal, SECOND)
    submit(journal, FIRST)
    journal.apply(SECOND, states.Started())
    journal.apply(SECOND, states.Broke(job_pb2.CAUSE_WORKER_CRASH))
    entry = journal.next_queued()
    assert entry is not None
    assert entry.job.id == SECOND
    assert [entry.job.id for entry in journal.entries()] == [FIRST, SECOND]


def test_a_whole_job_in_events(journal: Journal, clock: FakeClock) -> None:
    submit(journal)
    journal.apply(FIRST, states.Started())
    journal.progress(FIRST, TrainProgress(step=1, loss=2.5))
    journal.checkpoint(FIRST, CheckpointSaved(step=1, size_bytes=10))
    journal.log(FIRST, LogLine(text="hot"))
    clock.now_ns = 5_000
    result = JobResult(adapter_digest=digest.of_bytes(b"adapter"), final_loss=1.5)
    job = journal.apply(FIRST, states.Finished(), Account("Well done.", result, "the log", 7, 3))
    assert job.state == states.SUCCEEDED
    assert job.message == "Well done."
    assert job.result == result
    assert job.progress.loss == 2.5
    assert job.ended.boottime_ns == 5_000
    (attempt,) = job.attempts
    assert (attempt.number, attempt.state, attempt.cause) == (1, states.SUCCEEDED, 0)
    assert (attempt.log_tail, attempt.peak_rss_bytes, attempt.peak_anonymous_bytes) == (
        "the log", 7, 3,
    )  # fmt: skip
    events = journal.events(0, FIRST)
    assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event.WhichOneof("body") for event in events] == [
        "transition", "transition", "progress", "checkpoint", "log", "transition",
    ]  # fmt: skip
    assert [event.attempt for event in events] == [0, 1, 1, 1, 1, 1]
    last = events[-1].transition
    assert (getattr(last, "from"), last.to) == (states.RUNNING, states.SUCCEEDED)
    assert last.result == result


def test_a_broken_attempt_says_why_even_when_the_job_goes_on(journal: Journal) -> None:
    submit(journal)
    journal.apply(FIRST, states.Started())
    job = journal.apply(FIRST, states.Broke(job_pb2.CAUSE_WORKER_CRASH), Account(log_tail="boom"))
    assert job.state == states.QUEUED
    assert job.attempts[0].state == states.FAILED
    assert job.attempts[0].log_tail == "boom"
    assert "died unexpectedly" in job.attempts[0].message
    journal.apply(FIRST, states.Started())
    assert [attempt.number for attempt in journal.job(FIRST).attempts] == [1, 2]


def test_a_refused_event_leaves_no_trace(journal: Journal) -> None:
    submit(journal)
    with pytest.raises(Refused):
        journal.apply(FIRST, states.Finished())
    assert journal.job(FIRST).state == states.QUEUED
    assert len(journal.events(0)) == 1


def test_a_wish_is_remembered(journal: Journal) -> None:
    submit(journal)
    journal.apply(FIRST, states.Started())
    journal.apply(FIRST, states.CancelAsked())
    assert journal.entry(FIRST).standing.wish is states.Wish.CANCEL


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (states.Broke(job_pb2.CAUSE_WORKER_CRASH), "It ended with killed by SIGKILL."),
        (states.Broke(job_pb2.CAUSE_OOM), ""),
        (states.Stopped(), "Stopped after step 3."),
        (states.Interrupted(job_pb2.CAUSE_POWER_LOSS), ""),
    ],
)
def test_a_cancelled_job_says_so_however_its_worker_ended(
    journal: Journal, ending: states.Event, told: str
) -> None:
    submit(journal)
    journal.apply(FIRST, states.Started())
    journal.apply(FIRST, states.CancelAsked())
    job = journal.apply(FIRST, ending, Account(told, log_tail="its last words"))
    transition = journal.events(0)[-1].transition
    for record in (transition, job.attempts[0]):
        assert (record.cause, record.message) == (job_pb2.CAUSE_CANCELED, "The job was cancelled.")
    assert job.message == "The job was cancelled."
    assert job.attempts[0].log_tail == "its last words"


def test_a_job_that_is_cancelled_while_it_waits_has_its_cause_too(journal: Journal) -> None:
    submit(journal)
    job = journal.apply(FIRST, states.CancelAsked())
    assert journal.events(0)[-1].transition.cause == job_pb2.CAUSE_CANCELED
    assert job.message == "The job was cancelled."


def test_a_paused_job_says_what_its_worker_did(journal: Journal) -> None:
    submit(journal)
    journal.apply(FIRST, states.Started())
    journal.apply(FIRST, states.PauseAsked())
    job = journal.apply(FIRST, states.Stopped(), Account("Stopped after step 3."))
    assert (job.state, job.attempts[0].cause) == (states.PAUSED, states.NO_CAUSE)
    assert job.message == "Stopped after step 3."


def test_events_of_one_job_after_a_number(journal: Journal) -> None:
    submit(journal, FIRST)
    submit(journal, SECOND)
    journal.apply(FIRST, states.CancelAsked())
    assert [event.seq for event in journal.events(1)] == [2, 3]
    assert [event.seq for event in journal.events(0, FIRST)] == [1, 3]
    assert [event.seq for event in journal.events(0, limit=2)] == [1, 2]
    assert journal.newest_seq() == 3


def test_what_holds_a_job_is_in_its_picture_until_it_goes_on(journal: Journal) -> None:
    submit(journal)
    journal.apply(FIRST, states.Started())
    hot = Decided(act="suspend the job", reason="The board is at 91 °C.", holds=True)
    journal.decided(FIRST, hot)
    assert journal.job(FIRST).held == hot
    assert not submit(journal, SECOND).HasField("held")
    journal.decided(FIRST, Decided(act="resume the job", reason="It needs 300 MB."))
    assert not journal.job(FIRST).HasField("held")
    journal.decided(FIRST, hot)
    assert not journal.apply(FIRST, states.Stopped()).HasField("held")
    assert [event.decided.holds for event in journal.events(0) if event.HasField("decided")] == [
        True, False, True,
    ]  # fmt: skip


def test_unknown_job(journal: Journal) -> None:
    for call in (journal.job, lambda job: journal.progress(job, TrainProgress())):
        with pytest.raises(NotFound, match="no job"):
            call(FIRST)


def test_everything_is_there_after_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    first = Journal(tmp_path / "journal.db", clock)
    job = submit(first)
    first.close()
    second = Journal(tmp_path / "journal.db", clock)
    assert second.journal_id == first.journal_id
    assert second.job(FIRST) == job
    assert submit(second, SECOND).state == states.QUEUED
    assert second.events(1)[0].seq == 2, "the same boot: nothing was lost, nothing is skipped"
    second.close()


def test_a_killed_agent_loses_nothing(tmp_path: Path, clock: FakeClock) -> None:
    """What kill -9 leaves: the files as they are, without a close."""
    journal = Journal(tmp_path / "journal.db", clock)
    submit(journal)
    journal.apply(FIRST, states.Started())
    journal.progress(FIRST, TrainProgress(step=1))
    left = tmp_path / "left"
    shutil.copytree(tmp_path, left, ignore=shutil.ignore_patterns("left"))
    journal.close()
    again = Journal(left / "journal.db", clock)
    assert again.job(FIRST).progress.step == 1
    again.close()


def test_numbers_that_a_power_cut_may_have_taken_are_not_given_again(
    tmp_path: Path, clock: FakeClock
) -> None:
    journal = Journal(tmp_path / "journal.db", clock)
    submit(journal)
    journal.apply(FIRST, states.Started())
    synced = tmp_path / "synced"
    shutil.copytree(tmp_path, synced, ignore=shutil.ignore_patterns("synced"))
    for step in range(SYNC_EVERY - 1):
        journal.progress(FIRST, TrainProgress(step=step))
    seen = journal.newest_seq()
    journal.close()

    clock.boot_id = "boot-2"
    after = Journal(synced / "journal.db", clock)
    after.apply(FIRST, states.Interrupted(job_pb2.CAUSE_POWER_LOSS))
    (event,) = after.events(seen)
    assert event.transition.cause == job_pb2.CAUSE_POWER_LOSS
    after.close()


def test_another_journal_has_another_id(tmp_path: Path, clock: FakeClock) -> None:
    ids = set()
    for name in ("a.db", "b.db"):
        journal = Journal(tmp_path / name, clock)
        ids.add(journal.journal_id)
        journal.close()
    assert len(ids) == 2


def test_a_file_that_is_no_journal_is_said_so(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(Damaged, match="not a database"):
        Journal(path, clock)


def test_a_check_that_is_made_again_is_kept_once(journal: Journal) -> None:
    submit(journal)
    for name, found in (("data", "16 samples"), ("memory", "1 GB"), ("data", "again")):
        check = job_pb2.PlanCheck(name=name, found=found)
        journal.rehearsed(FIRST, job_pb2.JobEvent(check=check))
    kept = [(check.name, check.found) for check in journal.job(FIRST).rehearsal.checks]
    assert kept == [("memory", "1 GB"), ("data", "again")]
    assert len([e for e in journal.events(0, FIRST) if e.HasField("check")]) == 3
