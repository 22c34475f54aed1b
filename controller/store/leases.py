"""What the store knows of jobs that may move: their newest grant, and the devices they have left.

A grant is written down before it is sent, in the transaction that looks whether the job is still
that device's: a process that was frozen in between cannot grant what another one has moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from controller.records import ENDED, JobRecord
from controller.store import jobs as stored_jobs
from controller.store.schema import jobs, left_behind
from protos.lease import Instant
from protos.nanofleet.v1 import job_pb2


@dataclass(frozen=True, slots=True)
class Leased:
    """A job that may move. ``granted`` is None while its device has never been granted it: then it
    cannot have started there."""

    record: JobRecord
    selector: str
    granted: Instant | None

    @property
    def term_s(self) -> int:
        return self.record.job.spec.lease_s


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """An assignment that was moved away, and that its device may still hold."""

    job_id: str
    generation: int
    device: str


def on_device(connection: Connection, device: str) -> list[Leased]:
    """Unfinished ones, oldest first."""
    statement = select(jobs).where(jobs.c.device == device, jobs.c.state.not_in(ENDED))
    rows = connection.execute(statement.order_by(jobs.c.created_utc_ns))
    found = [
        Leased(
            stored_jobs.record_of(row),
            row.selector,
            Instant(row.granted_boot_id, row.granted_ns) if row.granted_boot_id else None,
        )
        for row in rows
    ]
    return [leased for leased in found if leased.term_s]


def note_grants(connection: Connection, job_ids: Sequence[str], now: Instant) -> None:
    statement = update(jobs).where(jobs.c.id.in_(job_ids))
    connection.execute(statement.values(granted_boot_id=now.boot_id, granted_ns=now.boottime_ns))


def move(connection: Connection, record: JobRecord, device: str, message: str) -> JobRecord:
    """ASSIGNED again, to another device, in the next generation; what the old one tells of it from
    here on changes nothing."""
    connection.execute(
        insert(left_behind).values(
            job_id=record.id, generation=record.generation, device=record.device, canceled=False
        )
    )
    return reassign(connection, record, device, message)


def reassign(connection: Connection, record: JobRecord, device: str, message: str) -> JobRecord:
    """The same to a device that cannot know of the job: it lost its journal, or is another one."""
    picture = job_pb2.Job(
        id=record.id,
        generation=record.generation + 1,
        spec=record.job.spec,
        spec_digest=record.job.spec_digest,
        message=message,
    )
    connection.execute(
        update(jobs)
        .where(jobs.c.id == record.id)
        .values(
            device=device,
            generation=picture.generation,
            state=picture.state,
            job=picture.SerializeToString(),
            journal_id="",
            granted_boot_id="",
            granted_ns=0,
        )
    )
    return stored_jobs.require(connection, record.id)


def left_by(connection: Connection, job_id: str) -> list[LeftBehind]:
    """Where the job was before, oldest first."""
    statement = select(left_behind).where(left_behind.c.job_id == job_id)
    rows = connection.execute(statement.order_by(left_behind.c.generation))
    return [LeftBehind(row.job_id, row.generation, row.device) for row in rows]


def left_on(connection: Connection, device: str = "") -> list[LeftBehind]:
    """What the device (empty: any) may still hold, and has to be told to cancel."""
    statement = select(left_behind).where(left_behind.c.canceled.is_(False))
    if device:
        statement = statement.where(left_behind.c.device == device)
    return [LeftBehind(r.job_id, r.generation, r.device) for r in connection.execute(statement)]


def note_canceled(connection: Connection, left: LeftBehind) -> None:
    same = (left_behind.c.job_id == left.job_id) & (left_behind.c.generation == left.generation)
    connection.execute(update(left_behind).where(same).values(canceled=True))
