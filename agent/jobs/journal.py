"""The device's journal: the truth about which jobs there are and what happened to them.

A change of a job's state and the event that tells of it are one transaction, on the disk before
anybody is told. Progress is written without a sync of its own: a power cut may take the last of
it, and the job repeats those steps from its checkpoint anyway. The schema is drawn in database.py.

Blocking, and for one thread at a time; agent/jobs/records.py is the event loop's way in.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.clock import Clock, moment
from agent.jobs import quota, states
from agent.jobs.database import Database, Sync
from agent.jobs.device_log import DeviceLog
from agent.jobs.retention import LIMITS, Limits, Retention
from agent.jobs.states import Standing, Wish
from artifacts import digest
from artifacts.persisting import Point
from protos import rehearsal as rehearsals
from protos.causes import POLICIES, Cause
from protos.errors import AlreadyExists, NotFound, StaleGeneration
from protos.nanofleet.v1.job_pb2 import (
    Attempt,
    CheckpointSaved,
    Circumstances,
    Conditions,
    Decided,
    Evaluated,
    GenerateProgress,
    Job,
    JobEvent,
    JobResult,
    JobSpec,
    LogLine,
    Moment,
    TrainProgress,
    Transition,
)


@dataclass(frozen=True, slots=True)
class Account:
    """What a transition leaves behind beside the new state."""

    message: str = ""
    result: JobResult | None = None
    log_tail: str = ""
    peak_rss_bytes: int = 0
    peak_anonymous_bytes: int = 0
    last: Conditions | None = None
    circumstances: Circumstances | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A job with the standing that its next step depends on."""

    job: Job
    standing: Standing


class Journal:
    def __init__(self, path: Path, clock: Clock, limits: Limits = LIMITS) -> None:
        self._clock = clock
        self._db = Database(path, clock.boot_id)
        self.journal_id = self._db.journal_id
        # Events of jobs that have told something since the start; an upper bound.
        self._counts: dict[str, int] = {}
        # Why jobs compute nothing now. Of this process: a start settles whatever runs.
        self._held: dict[str, Decided] = {}
        self.device = DeviceLog(self._db, clock)
        self.retention = Retention(self._db, limits)

    def close(self) -> None:
        self._db.close()

    def submit(self, job_id: str, generation: int, spec: bytes, submitted_by: str) -> Job:
        """Queues the job. The same id and spec once more changes nothing but the generation."""
        with self._db.transaction(Sync.NOW, Point.JOURNAL_SUBMITTED):
            row = self._row(job_id)
            if row is None:
                self._insert(job_id, generation, spec, submitted_by)
            else:
                _check_same(row, generation, digest.of_bytes(spec))
                self._db.execute("UPDATE job SET generation=? WHERE id=?", (generation, job_id))
        return self.job(job_id)

    def apply(self, job_id: str, event: states.Event, account: Account | None = None) -> Job:
        """One step of the job's state machine, with its event; returns the job after it."""
        with self._db.transaction(Sync.NOW, Point.JOURNAL_TRANSITION):
            self._step(job_id, event, account or Account())
        return self.job(job_id)

    def progress(self, job_id: str, progress: TrainProgress) -> None:
        self._note_progress(
            job_id, progress, JobEvent(progress=progress), is_told=quota.is_kept(progress)
        )

    def generated(self, job_id: str, progress: GenerateProgress) -> None:
        """Its worker reports every few seconds, however many prompts there are."""
        self._note_progress(job_id, progress, JobEvent(generated=progress), is_told=True)

    def evaluated(self, job_id: str, evaluated: Evaluated) -> None:
        with self._db.transaction(Sync.SOON, Point.JOURNAL_EVALUATED):
            self._tell(job_id, JobEvent(evaluated=evaluated))

    def checkpoint(self, job_id: str, saved: CheckpointSaved) -> None:
        with self._db.transaction(Sync.SOON, Point.JOURNAL_CHECKPOINT):
            self._step(job_id, states.Saved(), Account())
            self._tell(job_id, JobEvent(checkpoint=saved))

    def log(self, job_id: str, line: LogLine) -> None:
        with self._db.transaction(Sync.SOON, Point.JOURNAL_LOG):
            self._tell(job_id, JobEvent(log=LogLine(text=quota.line(line.text))))

    def decided(self, job_id: str, decided: Decided) -> None:
        """The newest that holds the job is part of its picture until it is over."""
        if decided.holds:
            self._held[job_id] = decided
        else:
            self._held.pop(job_id, None)
        with self._db.transaction(Sync.SOON, Point.JOURNAL_DECIDED):
            self._tell(job_id, JobEvent(decided=decided))

    def rehearsed(self, job_id: str, event: JobEvent) -> None:
        """A check of the job's rehearsal, or its plan."""
        with self._db.transaction(Sync.SOON, Point.JOURNAL_REHEARSED):
            rehearsal = self.job(job_id).rehearsal
            rehearsals.note(rehearsal, event)
            self._set(job_id, "rehearsal", rehearsal.SerializeToString())
            self._tell(job_id, event)

    def job(self, job_id: str) -> Job:
        return self.entry(job_id).job

    def entry(self, job_id: str) -> Entry:
        row = self._row(job_id)
        if row is None:
            raise NotFound(f"There is no job {job_id} on this device.", field="job_id")
        return self._entry(row)

    def entries(self, wanted: Sequence[states.State] = (), limit: int = -1) -> list[Entry]:
        """Jobs in one of the states (none given: in any), newest first."""
        where = f"WHERE state IN ({_marks(wanted)})" if wanted else ""
        query = f"SELECT * FROM job {where} ORDER BY position DESC LIMIT ?"
        return [self._entry(row) for row in self._db.execute(query, (*wanted, limit)).fetchall()]

    def next_queued(self, may_start: Callable[[Job], bool] = lambda job: True) -> Entry | None:
        """The job that has waited longest, of those that may start."""
        query = "SELECT * FROM job WHERE state=? ORDER BY position"
        for row in self._db.execute(query, (states.QUEUED,)).fetchall():
            entry = self._entry(row)
            if may_start(entry.job):
                return entry
        return None

    def count(self, wanted: Sequence[states.State]) -> int:
        query = f"SELECT COUNT(*) FROM job WHERE state IN ({_marks(wanted)})"
        return int(self._db.execute(query, tuple(wanted)).fetchone()[0])

    def events(self, after_seq: int, job_id: str = "", limit: int = 256) -> list[JobEvent]:
        """At most ``limit`` events with a greater number, of one job or (empty) of all."""
        where = "AND job_id=?" if job_id else "AND job_id<>''"
        query = f"SELECT seq, record FROM event WHERE seq>? {where} ORDER BY seq LIMIT ?"
        values = (after_seq, job_id, limit) if job_id else (after_seq, limit)
        return [_numbered(row["seq"], row["record"]) for row in self._db.execute(query, values)]

    def newest_seq(self) -> int:
        return int(self._db.execute("SELECT COALESCE(MAX(seq), 0) FROM event").fetchone()[0])

    def _note_progress(
        self,
        job_id: str,
        progress: TrainProgress | GenerateProgress,
        event: JobEvent,
        *,
        is_told: bool,
    ) -> None:
        with self._db.transaction(Sync.SOON, Point.JOURNAL_PROGRESS):
            self._set(job_id, "progress", progress.SerializeToString())
            if is_told:
                self._tell(job_id, event)

    def _insert(self, job_id: str, generation: int, spec: bytes, submitted_by: str) -> None:
        self._db.execute(
            "INSERT INTO job (id, generation, spec, spec_digest, submitted_by, submitted, state)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                job_id,
                generation,
                spec,
                digest.of_bytes(spec),
                submitted_by,
                moment(self._clock).SerializeToString(),
                states.QUEUED,
            ),
        )
        self._write(job_id, JobEvent(transition=Transition(to=states.QUEUED)))

    def _step(self, job_id: str, event: states.Event, account: Account) -> None:
        entry = self.entry(job_id)
        after = states.apply(entry.standing, event)
        self._db.execute(
            "UPDATE job SET state=?, wish=?, transitions=?, crashes=?, shrinks=? WHERE id=?",
            (
                after.state,
                after.wish.value,
                after.transitions,
                after.crashes,
                after.shrinks,
                job_id,
            ),
        )
        if after.state != entry.standing.state:
            self._changed(entry.job, after.state, event, account)

    def _changed(
        self, job: Job, state: states.State, event: states.Event, account: Account
    ) -> None:
        """What a change of state means for the attempt, the job and the events."""
        cause = states.cause_of(event, state)
        sentence = POLICIES[cause].sentence
        # What the worker's end was like says nothing about a job that was cancelled.
        message = sentence if state == states.CANCELED else account.message or sentence
        now = moment(self._clock)
        if isinstance(event, states.Started):
            self._keep(job.id, Attempt(number=len(job.attempts) + 1, state=state, started=now))
        elif job.state == states.RUNNING:
            ended = _ended(job.attempts[-1], now, state, cause, message, account)
            if job.HasField("progress"):
                ended.last.step = job.progress.step
                ended.last.total_steps = job.progress.total_steps
            self._keep(job.id, ended)
        if state in states.ENDED:
            self._set(job.id, "ended", now.SerializeToString())
        if account.result is not None:
            self._set(job.id, "result", account.result.SerializeToString())
        self._set(job.id, "message", message)
        self._held.pop(job.id, None)
        told = Transition(to=state, cause=cause, message=message, result=account.result)
        setattr(told, "from", job.state)  # `from` is a keyword
        self._write(job.id, JobEvent(transition=told))
        if state in states.ENDED:
            self.retention.ended(job.id)

    def _set(self, job_id: str, column: str, value: str | bytes) -> None:
        self._db.execute(f"UPDATE job SET {column}=? WHERE id=?", (value, job_id))

    def _keep(self, job_id: str, attempt: Attempt) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO attempt VALUES (?, ?, ?)",
            (job_id, attempt.number, attempt.SerializeToString()),
        )

    def _tell(self, job_id: str, event: JobEvent) -> None:
        """Appends what is no transition, within the job's quota."""
        query = "SELECT COUNT(*) FROM event WHERE job_id=?"
        if job_id not in self._counts:
            self._counts[job_id] = int(self._db.execute(query, (job_id,)).fetchone()[0])
        self._counts[job_id] += 1
        if self._counts[job_id] < quota.MOST_EVENTS:
            self._write(job_id, event)
        elif self._counts[job_id] == quota.MOST_EVENTS:
            self._write(job_id, JobEvent(log=LogLine(text=quota.REACHED)))

    def _write(self, job_id: str, event: JobEvent) -> None:
        """Stamps the event with job, generation, attempt and time, and appends it."""
        row = self._db.row(
            "SELECT generation, (SELECT COALESCE(MAX(number), 0) FROM attempt WHERE job_id=job.id)"
            " AS attempt FROM job WHERE id=?",
            (job_id,),
        )
        if row is None:
            raise NotFound(f"There is no job {job_id} on this device.", field="job_id")
        event.job_id = job_id
        event.generation = row["generation"]
        event.attempt = row["attempt"]
        event.at.CopyFrom(moment(self._clock))
        self._db.execute(
            "INSERT INTO event (job_id, record) VALUES (?, ?)", (job_id, event.SerializeToString())
        )

    def _row(self, job_id: str) -> sqlite3.Row | None:
        return self._db.row("SELECT * FROM job WHERE id=?", (job_id,))

    def _entry(self, row: sqlite3.Row) -> Entry:
        attempts = self._db.execute(
            "SELECT record FROM attempt WHERE job_id=? ORDER BY number", (row["id"],)
        )
        job = Job(
            id=row["id"],
            generation=row["generation"],
            spec=JobSpec.FromString(row["spec"]),
            spec_digest=row["spec_digest"],
            state=row["state"],
            attempts=[Attempt.FromString(attempt["record"]) for attempt in attempts],
            submitted_by=row["submitted_by"],
            submitted=Moment.FromString(row["submitted"]),
            message=row["message"],
            held=self._held.get(row["id"]),
        )
        # The column has the progress of the job's kind.
        progress = job.generating if job.spec.HasField("generate") else job.progress
        kept = {"ended": job.ended, "progress": progress, "result": job.result,
                "rehearsal": job.rehearsal}  # fmt: skip
        for name, message in kept.items():
            if row[name] is not None:
                message.ParseFromString(row[name])
        counters = {name: row[name] for name in ("state", "transitions", "crashes", "shrinks")}
        return Entry(job, Standing(wish=Wish(row["wish"]), **counters))


def _check_same(row: sqlite3.Row, generation: int, spec_digest: str) -> None:
    if row["spec_digest"] != spec_digest:
        raise AlreadyExists(
            f"Job {row['id']} is here with another spec.",
            fix="Submit the changed spec under a new id.",
            field="job_id",
        )
    if generation < row["generation"]:
        raise StaleGeneration(
            f"Job {row['id']} is here in generation {row['generation']};"
            f" generation {generation} is older.",
            why="Another assignment of this job was made after the one that was sent.",
        )


def _ended(
    attempt: Attempt,
    now: Moment,
    state: states.State,
    cause: Cause,
    message: str,
    account: Account,
) -> Attempt:
    """The attempt as it ended. With a cause it failed, whatever becomes of the job."""
    failed = cause != states.NO_CAUSE and state != states.CANCELED
    attempt.state = states.FAILED if failed else state
    attempt.cause = cause
    attempt.message = message
    attempt.ended.CopyFrom(now)
    attempt.log_tail = account.log_tail
    attempt.peak_rss_bytes = account.peak_rss_bytes
    attempt.peak_anonymous_bytes = account.peak_anonymous_bytes
    attempt.last.CopyFrom(account.last or Conditions())
    if account.circumstances is not None:
        attempt.circumstances.CopyFrom(account.circumstances)
    return attempt


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _numbered(seq: int, record: bytes) -> JobEvent:
    event = JobEvent.FromString(record)
    event.seq = seq
    return event
