"""Sending a job: names to digests, a device, its files, ASSIGNED, then the job.

    job file ─ resolve ─▶ spec ─ place ─▶ device ─ push ─▶ files there ─ ASSIGNED ─▶ SubmitJob

ASSIGNED is in the store before the job is sent, under an id that is made here. If the answer is
lost, the same job with the same id is sent again, by the next ``refresh`` of any process, and the
device takes it once. A refusal is final: the job is kept as FAILED, with the device's words.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from artifacts import digest as digests
from artifacts import headroom
from artifacts.persisting import Point
from controller import clock, pictures, placement, preparing, selector, transfer, ulid
from controller.catalogue import Catalogue
from controller.device import Connections, DeviceConnection
from controller.placement import Candidate, Wanted
from controller.preparing import Preparation, Prepared
from controller.probe import Probe
from controller.records import (
    CatalogueEntry,
    DeviceRecord,
    DeviceStatus,
    JobRecord,
    PlanStep,
    Transfer,
)
from controller.store import Store
from controller.store import devices as stored_devices
from controller.store import jobs as stored_jobs
from controller.transfer import OnProgress, Upload
from protos.errors import (
    DiskFailed,
    InternalError,
    InUse,
    NanofleetError,
    Unreachable,
)
from protos.nanofleet.v1 import job_pb2
from protos.recipe import input_digests

if TYPE_CHECKING:
    from controller.jobfile import JobFile

# An agent that does not say so would run the job without a lease.
_LEASES = "jobs:lease"


@dataclass(frozen=True, slots=True)
class Dispatcher:
    store: Store
    catalogue: Catalogue
    connections: Connections
    probe: Probe
    preparation: Preparation
    utc_ns: Callable[[], int] = time.time_ns

    async def submit(self, job: "JobFile", on_progress: OnProgress | None) -> JobRecord:
        if job.on_lost == "move":
            clock.now()  # refused at once where there is none
        chosen, spec, _ = await self._prepared(job, on_progress)
        record = self._assign(chosen.record, spec, job.selector)
        return await self.send(record, self.connections.to(chosen.record), _journal_id(chosen))

    async def plan(
        self, job: "JobFile", on_progress: OnProgress | None
    ) -> AsyncGenerator[PlanStep, None]:
        """Rehearses the job on the device that it would be sent to. Nothing is assigned."""
        chosen, spec, sent = await self._prepared(job, on_progress)
        yield PlanStep(chosen.record.name, _files(sent))
        connection = self.connections.to(chosen.record)
        content = spec.SerializeToString(deterministic=True)
        request = job_pb2.PlanJobRequest(spec=content)
        responses = connection.stream(connection.jobs.PlanJob, request)
        async with aclosing(responses):
            async for response in responses:
                match response.WhichOneof("response"):
                    case "plan":
                        yield PlanStep(chosen.record.name, response.plan)
                    case "check":
                        yield PlanStep(chosen.record.name, response.check)
                    case "decided":
                        yield PlanStep(chosen.record.name, response.decided)

    async def _prepared(
        self, job: "JobFile", on_progress: OnProgress | None
    ) -> tuple[DeviceStatus, job_pb2.JobSpec, list[Transfer]]:
        """The device, which has all that the job needs, the job's spec, and what was sent."""
        prepared = await self.preparation.prepared(job)
        chosen = await self._place(_wanted(job, prepared))
        connection = self.connections.to(chosen.record)
        sent = [
            await Upload(connection, self.catalogue.parcel(entry), on_progress).run()
            for entry in prepared.needed
        ]
        return chosen, prepared.spec, sent

    async def send(
        self, record: JobRecord, connection: DeviceConnection, journal_id: str
    ) -> JobRecord:
        """SubmitJob, for the first or for another time. Raises what the device refuses with."""
        with self.store.read() as transaction:
            spec = stored_jobs.spec_bytes(transaction, record.id)
        request = job_pb2.SubmitJobRequest(
            job_id=record.id, generation=record.generation, spec=spec
        )
        try:
            response = await connection.call(connection.jobs.SubmitJob, request)
        except NanofleetError as error:
            if error.retryable or isinstance(error, InternalError | DiskFailed):
                raise _undecided(record, error) from error
            self._note(pictures.failed(record.job, f"{record.device} refused it: {error}"), "")
            raise
        return self._note(response.job, journal_id)

    async def ensure_sent(self, record: JobRecord) -> None:
        """Sends an assignment that the device has not confirmed; Unreachable when it cannot."""
        if record.state != job_pb2.JOB_STATE_UNSPECIFIED:
            return
        with self.store.read() as transaction:
            device = stored_devices.require(transaction, record.device)
        status = await self.probe.status(device)
        if not status.reachable:
            raise Unreachable(status.problem)
        await self.resend(status)

    async def resend(self, status: DeviceStatus) -> None:
        """What is assigned to the device and was never confirmed; a refusal is noted."""
        with self.store.read() as transaction:
            waiting = stored_jobs.unfinished(transaction, status.record.name)
        connection = self.connections.to(status.record)
        for record in waiting:
            if record.state != job_pb2.JOB_STATE_UNSPECIFIED:
                continue
            try:
                await self.push_again(record, connection)
                await self.send(record, connection, _journal_id(status))
            except NanofleetError as error:
                if error.retryable:
                    raise
                self._note(pictures.failed(record.job, f"It could not be sent: {error}"), "")

    def check_unneeded(self, entry: CatalogueEntry) -> None:
        """InUse while an assignment that may have to be sent again needs the artifact."""
        with self.store.read() as transaction:
            unfinished = stored_jobs.unfinished(transaction)
        for record in unfinished:
            waiting = record.state == job_pb2.JOB_STATE_UNSPECIFIED
            if waiting and entry.digest in input_digests(record.job.spec):
                raise InUse(
                    f"{entry.name or entry.digest} cannot be removed.",
                    why=f"Job {record.id} needs it, and {record.device} has not confirmed the job.",
                    fix="Wait until the device is back, or remove the device.",
                )

    async def push_again(self, record: JobRecord, connection: DeviceConnection) -> None:
        """Its files; the device may have lost them since."""
        for digest in input_digests(record.job.spec):
            parcel = self.catalogue.parcel(self.catalogue.resolve(digest, None))
            await Upload(connection, parcel, None).run()

    async def find_other(
        self, spec: job_pb2.JobSpec, selector_text: str, had_it: frozenset[str]
    ) -> DeviceStatus:
        """Another device for a job; raises why there is none."""
        needed = [self.catalogue.resolve(digest, None) for digest in input_digests(spec)]
        wanted = Wanted(
            selector=selector.parse(selector_text),
            sizes={entry.digest: entry.size_bytes for entry in needed},
            engine=preparing.engine_of(spec),
            capabilities=(*preparing.capabilities_of(spec, needed[0]), _LEASES),
            had_it=had_it,
        )
        return await self._place(wanted)

    async def _place(self, wanted: Wanted) -> DeviceStatus:
        statuses = await self.probe.statuses(self._asked(wanted.device))
        candidates = await asyncio.gather(*(self._candidate(wanted, each) for each in statuses))
        decision = placement.choose(wanted, candidates)
        if not decision.device:
            raise placement.refusal(decision)
        return next(found for found in statuses if found.record.name == decision.device)

    def _asked(self, device: str) -> list[DeviceRecord]:
        with self.store.read() as transaction:
            if device:
                return [stored_devices.require(transaction, device)]
            return stored_devices.every(transaction)

    async def _candidate(self, wanted: Wanted, status: DeviceStatus) -> Candidate:
        if not status.reachable:
            return Candidate(status)
        connection = self.connections.to(status.record)
        try:
            found = {digest: await transfer.stat(connection, digest) for digest in wanted.sizes}
        except NanofleetError as error:
            return Candidate(DeviceStatus(status.record, False, None, str(error)))
        held = frozenset(digest for digest, answer in found.items() if answer.present)
        with self.store.read() as transaction:
            before = len(stored_jobs.unfinished(transaction, status.record.name))
        return Candidate(status, held, before)

    def _assign(self, device: DeviceRecord, spec: job_pb2.JobSpec, selector: str) -> JobRecord:
        content = spec.SerializeToString(deterministic=True)
        job_id, generation = ulid.new(self.utc_ns), 1
        job = job_pb2.Job(
            id=job_id,
            generation=generation,
            spec=spec,
            spec_digest=digests.of_bytes(content),
            message=f"assigned to {device.name}",
        )
        record = JobRecord(
            id=job_id,
            name=spec.name,
            device=device.name,
            generation=generation,
            state=job.state,
            job=job,
            created_utc_ns=self.utc_ns(),
        )
        with self.store.write(Point.FLEET_ASSIGNED) as transaction:
            stored_jobs.assign(transaction, record, selector)
        return record

    def _note(self, job: job_pb2.Job, journal_id: str) -> JobRecord:
        with self.store.write(Point.FLEET_CONFIRMED) as transaction:
            stored_jobs.confirm(transaction, job, journal_id)
            return stored_jobs.require(transaction, job.id)


def _wanted(job: "JobFile", prepared: Prepared) -> Wanted:
    leases = (_LEASES,) if job.on_lost == "move" else ()
    return Wanted(
        device=job.device,
        selector=selector.parse(job.selector),
        sizes={entry.digest: entry.size_bytes for entry in prepared.needed},
        engine=preparing.engine_of(prepared.spec),
        capabilities=(*preparing.capabilities_of(prepared.spec, prepared.needed[0]), *leases),
    )


def _files(sent: Sequence[Transfer]) -> job_pb2.PlanCheck:
    """What had to go to the device."""
    moved = sum(each.sent_bytes for each in sent)
    there = sum(each.size_bytes for each in sent) - moved
    return job_pb2.PlanCheck(
        name="files",
        found=f"{headroom.readable(moved)} sent, {headroom.readable(there)} were there already",
        took_s=sum(each.seconds for each in sent),
    )


def _journal_id(status: DeviceStatus) -> str:
    return status.device.journal_id if status.device else ""


def _undecided(record: JobRecord, error: NanofleetError) -> NanofleetError:
    return Unreachable(
        f"Job {record.id} is assigned to {record.device}, which has not confirmed it: {error.what}",
        why=error.why,
        fix="It is sent again whenever jobs are listed or watched; do not submit it anew.",
        reason=error.reason,
    )
