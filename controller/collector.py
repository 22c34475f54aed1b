"""Copies the journals of devices into the store, each event once, in order, without a gap.

The device's journal is the truth about execution; the store's picture of a job follows from its
events. Event, picture and cursor are one transaction: after a crash at any point the same events
come again and change nothing. All jobs of a device share its journal and therefore one cursor, so
a stream always carries the events of all of them, whoever is watched.

    device journal   1 2 3 4 5 6 7 …           a stream starts behind the cursor
    store            1 2 3 4 ▲                  ▲ cursor (journal_id, seq)

An event of an older generation is kept and changes no job. A device with another ``journal_id`` was
re-flashed: its events start anew, and its unfinished jobs are gone; nobody can say how far they
came. A job that must not run twice (`on_lost: wait`) is failed with that message; one that may
(`move`) is assigned to the same device again, in the next generation.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing

from sqlalchemy import Connection

from artifacts.persisting import Point
from controller import pictures
from controller.device import DeviceConnection
from controller.store import Store
from controller.store import devices as stored_devices
from controller.store import jobs as stored_jobs
from controller.store import leases as stored_leases
from controller.store.devices import Cursor
from protos.nanofleet.v1 import job_pb2

_LOST = (
    "The device has another journal than when it took the job: it was re-flashed, or its state "
    "folder was deleted. What became of the job is not known; submit it again."
)


_AGAIN = "assigned again: the device has lost its journal, and the job with it"


async def collect(store: Store, connection: DeviceConnection) -> None:
    """Everything that is journalled on the device now."""
    with store.read() as transaction:
        cursor = stored_devices.cursor(transaction, connection.name)
    request = _behind(cursor)
    request.replay_only = True
    async for batch in connection.stream(connection.jobs.WatchJob, request):
        await _keep(store, connection, batch)


async def follow(
    store: Store, connection: DeviceConnection, cursor: Cursor
) -> AsyncGenerator[Sequence[job_pb2.JobEvent], None]:
    """Events behind the cursor, then live ones; each is in the store before it is handed on."""
    async with aclosing(connection.stream(connection.jobs.WatchJob, _behind(cursor))) as batches:
        async for batch in batches:
            await _keep(store, connection, batch)
            yield batch.events


def _behind(cursor: Cursor) -> job_pb2.WatchJobRequest:
    """The cursor acknowledges: what is before it is in the store, and synced."""
    return job_pb2.WatchJobRequest(
        journal_id=cursor.journal_id, after_seq=cursor.seq, acknowledge=cursor.seq > 0
    )


async def _keep(
    store: Store, connection: DeviceConnection, batch: job_pb2.WatchJobResponse
) -> None:
    ended = await _ended(store, connection, batch.events)
    with store.write(Point.FLEET_COLLECTED) as transaction:
        apply(transaction, connection.name, batch, ended)


def apply(
    transaction: Connection,
    device: str,
    batch: job_pb2.WatchJobResponse,
    ended: Mapping[str, job_pb2.Job],
) -> None:
    """One batch into the store. ``ended`` has the device's last word on jobs that end in it."""
    cursor = stored_devices.cursor(transaction, device)
    if cursor.journal_id != batch.journal_id:
        _declare_lost(transaction, device, batch.journal_id)
        cursor = Cursor(batch.journal_id, 0)
    for event in batch.events:
        if stored_jobs.add_event(transaction, device, batch.journal_id, event):
            _apply_event(transaction, device, batch.journal_id, event, ended)
    newest = max((event.seq for event in batch.events), default=0)
    stored_devices.set_cursor(
        transaction, device, Cursor(batch.journal_id, max(cursor.seq, newest))
    )


def _apply_event(
    transaction: Connection,
    device: str,
    journal_id: str,
    event: job_pb2.JobEvent,
    ended: Mapping[str, job_pb2.Job],
) -> None:
    record = stored_jobs.find(transaction, event.job_id)
    if record is None or record.device != device or record.generation != event.generation:
        return
    job = pictures.after(record.job, event)
    if pictures.has_ended(job) and event.job_id in ended:
        job = ended[event.job_id]
    stored_jobs.picture(transaction, job, journal_id)


def _declare_lost(transaction: Connection, device: str, journal_id: str) -> None:
    for record in stored_jobs.in_other_journals(transaction, device, journal_id):
        if record.job.spec.lease_s:
            stored_leases.reassign(transaction, record, device, _AGAIN)
        else:
            stored_jobs.fail(transaction, record, _LOST)


async def _ended(
    store: Store, connection: DeviceConnection, events: Iterable[job_pb2.JobEvent]
) -> dict[str, job_pb2.Job]:
    """The device's own picture of our jobs that end in these events: log tails, peaks, result.

    Asked for before the batch is applied, so that a link that breaks now changes nothing.
    """
    ends = {event.job_id: event.generation for event in events if pictures.ends(event)}
    with store.read() as transaction:
        ours = {job_id: stored_jobs.find(transaction, job_id) for job_id in ends}
    found = {}
    for job_id, record in ours.items():
        if record is not None and record.generation == ends[job_id]:
            request = job_pb2.GetJobRequest(job_id=job_id)
            response = await connection.call(connection.jobs.GetJob, request)
            found[job_id] = response.job
    return found
