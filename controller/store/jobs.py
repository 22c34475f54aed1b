"""Jobs and the copied events of the devices' journals."""

from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, Row, false, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from controller import pictures
from controller.records import ENDED, JobRecord, State
from controller.store.schema import events, jobs
from protos.errors import InvalidRequest, NotFound
from protos.nanofleet.v1 import job_pb2


def assign(connection: Connection, record: JobRecord, selector: str = "") -> None:
    """Writes ASSIGNED: the job, its device and its generation, before anything is sent.

    ``selector``: where else it may go if it moves.
    """
    connection.execute(
        insert(jobs).values(
            id=record.id,
            name=record.name,
            device=record.device,
            generation=record.generation,
            state=record.state,
            spec=record.job.spec.SerializeToString(deterministic=True),
            job=record.job.SerializeToString(),
            journal_id="",
            created_utc_ns=record.created_utc_ns,
            selector=selector,
        )
    )


def picture(connection: Connection, job: job_pb2.Job, journal_id: str) -> None:
    """Replaces the newest picture of the job, unless it is of another generation.

    ``journal_id`` is the journal that holds the job; empty when none does.
    """
    same = (jobs.c.id == job.id) & (jobs.c.generation == job.generation)
    values = {"state": job.state, "job": job.SerializeToString(), "journal_id": journal_id}
    connection.execute(update(jobs).where(same).values(**values))


def fail(connection: Connection, record: JobRecord, message: str) -> None:
    """Decided here, because the device cannot be asked any more. The journal that held the job
    stays noted: its events are the job's."""
    job = pictures.failed(record.job, message)
    connection.execute(
        update(jobs)
        .where(jobs.c.id == record.id)
        .values(state=job.state, job=job.SerializeToString())
    )


def confirm(connection: Connection, job: job_pb2.Job, journal_id: str) -> None:
    """The device's answer to an assignment; nothing when events have told more meanwhile."""
    unconfirmed = (jobs.c.id == job.id) & (jobs.c.state == job_pb2.JOB_STATE_UNSPECIFIED)
    if connection.scalar(select(jobs.c.id).where(unconfirmed)) is not None:
        picture(connection, job, journal_id)


def spec_bytes(connection: Connection, job_id: str) -> bytes:
    """The very bytes that were submitted; the device compares their digest."""
    return bytes(connection.execute(select(jobs.c.spec).where(jobs.c.id == job_id)).scalar_one())


def every(
    connection: Connection, device: str = "", states: Collection[State] = ()
) -> list[JobRecord]:
    """Newest first."""
    statement = select(jobs).order_by(jobs.c.created_utc_ns.desc(), jobs.c.id.desc())
    if device:
        statement = statement.where(jobs.c.device == device)
    if states:
        statement = statement.where(jobs.c.state.in_(states))
    return [record_of(row) for row in connection.execute(statement)]


def unfinished(connection: Connection, device: str = "") -> list[JobRecord]:
    """Oldest first."""
    statement = select(jobs).where(jobs.c.state.not_in(ENDED)).order_by(jobs.c.created_utc_ns)
    if device:
        statement = statement.where(jobs.c.device == device)
    return [record_of(row) for row in connection.execute(statement)]


def in_other_journals(connection: Connection, device: str, journal_id: str) -> list[JobRecord]:
    """Unfinished jobs that the device confirmed in a journal that it no longer has."""
    lost = (
        (jobs.c.device == device)
        & jobs.c.state.not_in(ENDED)
        & jobs.c.journal_id.not_in(("", journal_id))
    )
    return [record_of(row) for row in connection.execute(select(jobs).where(lost))]


def find(connection: Connection, job_id: str) -> JobRecord | None:
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    return None if row is None else record_of(row)


def require(connection: Connection, reference: str) -> JobRecord:
    """By id, by the unique beginning of an id, or the newest of that name.

    Raises NotFound, or InvalidRequest when a beginning is not unique.
    """
    if named := _newest(connection, jobs.c.name == reference):
        return named[0]
    if not (found := _newest(connection, _starts_with(reference))):
        raise NotFound(
            f"There is no job {reference!r} in this fleet.",
            fix="See what there is: `nanofleet job list`.",
            field="job",
        )
    if len(found) > 1:
        raise InvalidRequest(
            f"{len(found)} jobs start with {reference!r}.",
            fix=f"Write more of the id, such as {found[0].id}.",
            field="job",
        )
    return found[0]


def _starts_with(reference: str) -> ColumnElement[bool]:
    text = reference.upper()
    return jobs.c.id.startswith(text, autoescape=True) if text else false()


def _newest(connection: Connection, condition: ColumnElement[bool]) -> list[JobRecord]:
    statement = select(jobs).where(condition).order_by(jobs.c.created_utc_ns.desc())
    return [record_of(row) for row in connection.execute(statement)]


def add_event(
    connection: Connection, device: str, journal_id: str, event: job_pb2.JobEvent
) -> bool:
    """False when the store has the event already."""
    statement = upsert(events).values(
        device=device,
        journal_id=journal_id,
        seq=event.seq,
        job_id=event.job_id,
        body=event.SerializeToString(),
    )
    return connection.execute(statement.on_conflict_do_nothing()).rowcount == 1


def events_of(connection: Connection, record: JobRecord) -> list[job_pb2.JobEvent]:
    """The job's events in the order in which they happened, on the device and in the journal that
    it is in now."""
    journal_id = select(jobs.c.journal_id).where(jobs.c.id == record.id).scalar_subquery()
    of_the_job = (events.c.job_id == record.id) & (events.c.device == record.device)
    in_its_journal = (events.c.journal_id == journal_id) | (journal_id == "")
    statement = select(events.c.body).where(of_the_job, in_its_journal).order_by(events.c.seq)
    return [job_pb2.JobEvent.FromString(body) for body in connection.scalars(statement)]


def record_of(row: Row[tuple[object, ...]]) -> JobRecord:
    return JobRecord(
        id=row.id,
        name=row.name,
        device=row.device,
        generation=row.generation,
        state=row.state,
        job=job_pb2.Job.FromString(row.job),
        created_utc_ns=row.created_utc_ns,
    )
