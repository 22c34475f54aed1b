"""A device with a base model and a dataset on it, and what is asked of its jobs."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

from artifacts import digest
from protos.nanofleet.v1 import artifact_pb2, job_pb2
from protos.nanofleet.v1.job_pb2 import JobEvent, SubmitJobRequest, WatchJobRequest
from tests.agent.daemon import Daemon, Stubs
from tests.agent.jobs.samples import FIRST, spec_bytes, train_spec

BASE = artifact_pb2.ARTIFACT_KIND_BASE_MODEL
DATASET = artifact_pb2.ARTIFACT_KIND_DATASET
# Steps of a job that a test ends: no machine is so fast that it ends by itself before.
ENDLESS = 100_000


class Kitchen:
    def __init__(self, daemon: Daemon, base: Path, data: Path) -> None:
        self.daemon = daemon
        self.base = base
        self.data = data

    async def stock(self, stubs: Stubs) -> None:
        for path, kind in ((self.base, BASE), (self.data, DATASET)):
            await stubs.put(digest.of_file(path), path.read_bytes(), kind)

    def spec(self, **changes: object) -> bytes:
        own = {
            "base_digest": digest.of_file(self.base),
            "dataset_digest": digest.of_file(self.data),
        }
        return spec_bytes(train_spec(**{**own, **changes}))


async def submit(
    stubs: Stubs, spec: bytes, job_id: str = FIRST, generation: int = 1
) -> job_pb2.Job:
    request = SubmitJobRequest(job_id=job_id, generation=generation, spec=spec)
    return (await stubs.jobs.SubmitJob(request)).job


async def events(
    stubs: Stubs, job_id: str = FIRST, after_seq: int = 0, journal_id: str = ""
) -> AsyncIterator[JobEvent]:
    request = WatchJobRequest(job_id=job_id, after_seq=after_seq, journal_id=journal_id)
    async for response in stubs.jobs.WatchJob(request):
        for event in response.events:
            yield event


async def until(stubs: Stubs, wanted: Callable[[JobEvent], bool], job_id: str = FIRST) -> JobEvent:
    async for event in events(stubs, job_id):
        if wanted(event):
            return event
    raise AssertionError("the job ended before it happened")


async def ended(stubs: Stubs, job_id: str = FIRST) -> job_pb2.Job:
    async for _ in events(stubs, job_id):
        pass
    return (await stubs.jobs.GetJob(job_pb2.GetJobRequest(job_id=job_id))).job
