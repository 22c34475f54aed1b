"""The collector's transaction: each event once, older generations fenced, lost journals told."""

from pathlib import Path

import pytest

from artifacts.persisting import Point
from controller import collector, pictures
from controller.records import JobRecord
from controller.store import Store, devices, jobs
from controller.store.devices import Cursor
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.job_pb2 import (
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    JOB_STATE_UNSPECIFIED,
)

JOB = "01M7XY47DPE5JC3BMH660J3WHC"


class Journal:
    """A device's journal, as its events would come."""

    def __init__(self, journal_id: str = "j1", generation: int = 1) -> None:
        self.journal_id = journal_id
        self.events: list[job_pb2.JobEvent] = []
        self.generation = generation

    def move(self, state: job_pb2.JobState.ValueType, attempt: int = 0, **more: object) -> None:
        transition = job_pb2.Transition(to=state, **more)  # type: ignore[arg-type]  # a test's
        self._add(attempt, transition=transition)

    def progress(self, step: int) -> None:
        self._add(1, progress=job_pb2.TrainProgress(step=step, total_steps=9))

    def _add(self, attempt: int, **body: object) -> None:
        event = job_pb2.JobEvent(
            seq=len(self.events) + 1,
            job_id=JOB,
            generation=self.generation,
            attempt=attempt,
            at=job_pb2.Moment(boottime_ns=len(self.events)),
            **body,  # type: ignore[arg-type]  # a test's
        )
        self.events.append(event)

    def batch(self, first: int = 1, last: int | None = None) -> job_pb2.WatchJobResponse:
        return job_pb2.WatchJobResponse(
            journal_id=self.journal_id, events=self.events[first - 1 : last]
        )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "fleet.db")
    job = job_pb2.Job(id=JOB, generation=1)
    with store.write(Point.FLEET_COLLECTED) as transaction:
        devices.join(transaction, "kitchen", "h:1", "e1", {}, 7)
        jobs.assign(
            transaction, JobRecord(JOB, "persona", "kitchen", 1, JOB_STATE_UNSPECIFIED, job, 1)
        )
    return store


def apply(
    store: Store, batch: job_pb2.WatchJobResponse, ended: job_pb2.Job | None = None
) -> JobRecord:
    with store.write(Point.FLEET_COLLECTED) as transaction:
        collector.apply(transaction, "kitchen", batch, {JOB: ended} if ended else {})
        return jobs.require(transaction, JOB)


def cursor(store: Store) -> Cursor:
    with store.read() as transaction:
        return devices.cursor(transaction, "kitchen")


def whole_life() -> Journal:
    journal = Journal()
    journal.move(JOB_STATE_QUEUED)
    journal.move(JOB_STATE_RUNNING, 1)
    journal.progress(4)
    journal.move(JOB_STATE_SUCCEEDED, 1, message="done", result=job_pb2.JobResult(steps=9))
    return journal


def test_events_make_the_picture(store: Store) -> None:
    record = apply(store, whole_life().batch())
    assert record.state == JOB_STATE_SUCCEEDED
    assert record.job.progress.step == 4
    assert record.job.result.steps == 9
    assert record.job.message == "done"
    assert record.job.ended.boottime_ns == 3
    (attempt,) = record.job.attempts
    assert (attempt.number, attempt.state, attempt.started.boottime_ns) == (
        1,
        JOB_STATE_SUCCEEDED,
        1,
    )
    assert cursor(store) == Cursor("j1", 4)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_the_same_events_again_change_nothing(store: Store, cut: int) -> None:
    journal = whole_life()
    apply(store, journal.batch(1, cut))
    once = apply(store, journal.batch())
    again = apply(store, journal.batch(cut))
    assert again == once
    with store.read() as transaction:
        assert jobs.events_of(transaction, again) == journal.events
    assert cursor(store) == Cursor("j1", 4)


def test_a_crash_in_the_middle_of_a_batch_leaves_event_state_and_cursor_together(
    store: Store,
) -> None:
    journal = whole_life()

    def apply_and_crash() -> None:
        with store.write(Point.FLEET_COLLECTED) as transaction:
            collector.apply(transaction, "kitchen", journal.batch(), {})
            raise KeyError

    with pytest.raises(KeyError):
        apply_and_crash()
    assert cursor(store) == Cursor()
    with store.read() as transaction:
        record = jobs.require(transaction, JOB)
        assert record.state == JOB_STATE_UNSPECIFIED
        assert jobs.events_of(transaction, record) == []
    assert apply(store, journal.batch()).state == JOB_STATE_SUCCEEDED


def test_an_older_generation_is_kept_and_changes_nothing(store: Store) -> None:
    journal = Journal(generation=0)
    journal.move(JOB_STATE_SUCCEEDED, 1)
    record = apply(store, journal.batch())
    assert record.state == JOB_STATE_UNSPECIFIED
    with store.read() as transaction:
        assert len(jobs.events_of(transaction, record)) == 1
    assert cursor(store) == Cursor("j1", 1)


def test_the_devices_last_word_replaces_the_picture(store: Store) -> None:
    journal = Journal()
    journal.move(JOB_STATE_RUNNING, 1)
    journal.move(JOB_STATE_FAILED, 1)
    word = job_pb2.Job(id=JOB, generation=1, state=JOB_STATE_FAILED)
    word.attempts.add(number=1, log_tail="Killed")
    assert apply(store, journal.batch(), word).job == word


def test_a_re_flashed_device_has_lost_its_jobs(store: Store) -> None:
    journal = Journal()
    journal.move(JOB_STATE_RUNNING, 1)
    apply(store, journal.batch())
    record = apply(store, job_pb2.WatchJobResponse(journal_id="j2"))
    assert record.state == JOB_STATE_FAILED
    assert "re-flashed" in record.job.message
    assert cursor(store) == Cursor("j2", 0)


def test_a_job_that_was_never_confirmed_is_not_lost_with_a_journal(store: Store) -> None:
    with store.write(Point.FLEET_COLLECTED) as transaction:
        devices.set_cursor(transaction, "kitchen", Cursor("j1", 5))
    record = apply(store, job_pb2.WatchJobResponse(journal_id="j2"))
    assert record.state == JOB_STATE_UNSPECIFIED


def test_a_finished_job_is_not_lost_with_a_journal(store: Store) -> None:
    apply(store, whole_life().batch())
    record = apply(store, job_pb2.WatchJobResponse(journal_id="j2"))
    assert record.state == JOB_STATE_SUCCEEDED


def test_the_answer_to_an_assignment_does_not_undo_what_events_told(store: Store) -> None:
    apply(store, whole_life().batch())
    with store.write(Point.FLEET_COLLECTED) as transaction:
        late = job_pb2.Job(id=JOB, generation=1, state=JOB_STATE_QUEUED)
        jobs.confirm(transaction, late, "j1")
        assert jobs.require(transaction, JOB).state == JOB_STATE_SUCCEEDED


def test_a_job_that_has_ended_stays_as_it_ended() -> None:
    ended = job_pb2.Job(id=JOB, state=JOB_STATE_FAILED)
    journal = Journal()
    journal.move(JOB_STATE_RUNNING, 2)
    assert pictures.after(ended, journal.events[0]) == ended


def test_a_retried_attempt_is_another_attempt() -> None:
    journal = Journal()
    journal.move(JOB_STATE_RUNNING, 1)
    journal.move(JOB_STATE_QUEUED, 1, cause=job_pb2.CAUSE_OOM, message="again")
    journal.move(JOB_STATE_RUNNING, 2)
    job = job_pb2.Job(id=JOB)
    for event in journal.events:
        job = pictures.after(job, event)
    assert [(a.number, a.cause) for a in job.attempts] == [(1, job_pb2.CAUSE_OOM), (2, 0)]
    assert job.state == JOB_STATE_RUNNING


def test_the_cursor_acknowledges_what_is_in_the_store() -> None:
    assert collector._behind(Cursor("j1", 5)) == job_pb2.WatchJobRequest(
        journal_id="j1", after_seq=5, acknowledge=True
    )
    assert collector._behind(Cursor()) == job_pb2.WatchJobRequest()


def test_a_store_that_has_lost_its_copy_learns_how_the_job_ended(store: Store) -> None:
    """From what the device still has: changes of state, and how many events there were."""
    journal = Journal()
    journal.move(JOB_STATE_QUEUED)
    journal.move(JOB_STATE_RUNNING, 1)
    journal._add(1, pruned=job_pb2.EventsPruned(events=40, first_seq=3))
    journal.move(JOB_STATE_SUCCEEDED, 1, result=job_pb2.JobResult(steps=9))
    record = apply(store, journal.batch())
    assert record.state == JOB_STATE_SUCCEEDED
    assert record.job.result.steps == 9
    with store.read() as transaction:
        assert jobs.events_of(transaction, record) == journal.events
