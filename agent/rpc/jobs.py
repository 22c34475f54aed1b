"""JobService: requests to the desk, events from the records."""

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing

from agent.jobs.desk import Desk
from agent.jobs.records import Records
from agent.jobs.rehearsal import Rehearsals
from agent.jobs.spec import checked_id
from agent.rpc.access import Context, peer
from protos.errors import Forbidden, NanofleetError
from protos.identity import Identity, Role
from protos.lease import Instant
from protos.nanofleet.v1 import job_pb2, job_pb2_grpc

_LOG = logging.getLogger(__name__)

_DEFAULT_LIMIT = 100
_MOST_JOBS = 1000


class JobService(job_pb2_grpc.JobServiceServicer):
    def __init__(self, desk: Desk, records: Records, rehearsals: Rehearsals) -> None:
        self._desk = desk
        self._records = records
        self._rehearsals = rehearsals

    async def SubmitJob(  # noqa: N802
        self, request: job_pb2.SubmitJobRequest, context: Context
    ) -> job_pb2.SubmitJobResponse:
        caller = peer(context)
        job = await self._desk.submit(
            request.job_id, request.generation, request.spec, f"{caller.role.value}/{caller.name}"
        )
        return job_pb2.SubmitJobResponse(job=job)

    async def GetJob(  # noqa: N802
        self, request: job_pb2.GetJobRequest, context: Context
    ) -> job_pb2.GetJobResponse:
        journal = self._records.journal
        job = await self._records.read(journal.job, checked_id(request.job_id))
        return job_pb2.GetJobResponse(job=job)

    async def ListJobs(  # noqa: N802
        self, request: job_pb2.ListJobsRequest, context: Context
    ) -> job_pb2.ListJobsResponse:
        limit = min(request.limit or _DEFAULT_LIMIT, _MOST_JOBS)
        entries = await self._records.read(
            self._records.journal.entries, tuple(request.states), limit
        )
        return job_pb2.ListJobsResponse(jobs=[entry.job for entry in entries])

    async def CancelJob(  # noqa: N802
        self, request: job_pb2.CancelJobRequest, context: Context
    ) -> job_pb2.CancelJobResponse:
        job = await self._desk.cancel(request.job_id, request.generation)
        return job_pb2.CancelJobResponse(job=job)

    async def PauseJob(  # noqa: N802
        self, request: job_pb2.PauseJobRequest, context: Context
    ) -> job_pb2.PauseJobResponse:
        return job_pb2.PauseJobResponse(job=await self._desk.pause(request.job_id))

    async def ResumeJob(  # noqa: N802
        self, request: job_pb2.ResumeJobRequest, context: Context
    ) -> job_pb2.ResumeJobResponse:
        return job_pb2.ResumeJobResponse(job=await self._desk.resume(request.job_id))

    async def WatchJob(  # noqa: N802
        self, request: job_pb2.WatchJobRequest, context: Context
    ) -> AsyncIterator[job_pb2.WatchJobResponse]:
        """The journal's id comes first, alone: a caller learns it before anything happens."""
        job_id = checked_id(request.job_id) if request.job_id else ""
        journal_id = self._records.journal_id
        after_seq = request.after_seq if request.journal_id == journal_id else 0
        if request.acknowledge:
            await self._acknowledge(after_seq, peer(context))
        if job_id:
            await self._records.read(self._records.journal.job, job_id)
        yield job_pb2.WatchJobResponse(journal_id=journal_id)
        follow = self._records.replay if request.replay_only else self._records.watch
        async for events in follow(after_seq, job_id):
            yield job_pb2.WatchJobResponse(journal_id=journal_id, events=events)

    async def _acknowledge(self, seq: int, caller: Identity) -> None:
        """A full disk keeps nobody from reading: the next stream says it again."""
        if caller.role is not Role.CONTROLLER:
            raise Forbidden(
                f"{caller.role.value} {caller.name} may not acknowledge events.",
                why="Only the fleet's controller keeps a copy of them for everybody.",
            )
        try:
            await self._records.write(self._records.journal.retention.acknowledge, seq)
        except NanofleetError as error:
            _LOG.warning("not acknowledged up to %d: %s", seq, error)

    async def PlanJob(  # noqa: N802
        self, request: job_pb2.PlanJobRequest, context: Context
    ) -> AsyncIterator[job_pb2.PlanJobResponse]:
        async with aclosing(self._rehearsals.plan(request.spec)) as responses:
            async for response in responses:
                yield response

    async def RenewLeases(  # noqa: N802
        self, request: job_pb2.RenewLeasesRequest, context: Context
    ) -> job_pb2.RenewLeasesResponse:
        stamp = Instant(request.boot_id, request.boottime_ns)
        grants = {grant.job_id: grant.generation for grant in request.grants}
        leases = await self._desk.renew_leases(stamp, grants)
        return job_pb2.RenewLeasesResponse(
            leases=[job_pb2.Lease(job_id=job, until_boottime_ns=end) for job, end in leases.items()]
        )
