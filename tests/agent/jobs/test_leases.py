"""Jobs with a lease on a device: they wait for it, and everything else goes on around them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.jobs import states
from agent.jobs.desk import Desk
from agent.jobs.journal import Journal
from agent.jobs.leases import Leases
from agent.jobs.means import Means
from agent.jobs.records import Records
from agent.jobs.runner import Runner
from agent.workers.process import Launcher
from artifacts.store import ArtifactStore
from protos.errors import InvalidRequest, NotFound
from protos.lease import Instant
from protos.nanofleet.v1 import artifact_pb2, job_pb2
from tests.agent.clocks import FakeClock
from tests.agent.jobs.samples import FIRST, SECOND, spec_bytes, train_spec

TERM_S = 60
MOVING = job_pb2.JobSpec(name="moving", train=train_spec(), lease_s=TERM_S).SerializeToString()


class Device:
    def __init__(self, root: Path) -> None:
        self.clock = FakeClock(now_ns=10**12)
        self.journal = Journal(root / "journal.db", self.clock)
        self.records = Records(self.journal)
        store = ArtifactStore(root / "artifacts", reserve_bytes=0)
        for kind, content in (
            (artifact_pb2.ARTIFACT_KIND_BASE_MODEL, b"base"),
            (artifact_pb2.ARTIFACT_KIND_DATASET, b"dataset"),
        ):
            (root / "file").write_bytes(content)
            store.add_file(root / "file", kind)
        self.leases = Leases(self.clock)
        jobs, launcher = root / "jobs", Launcher(root / "workers", "boot-1")
        runner = Runner(Means(self.records, store, launcher, jobs, self.leases))
        self.desk = Desk(self.records, store, runner, jobs, self.leases, lambda *_: None)

    async def renew(
        self, age_s: float = 0, boot_id: str = "boot-1", **grants: int
    ) -> dict[str, int]:
        stamp = Instant(boot_id, self.clock.now_ns - round(age_s * 1e9))
        return await self.desk.renew_leases(stamp, grants)

    def next_job(self) -> str:
        entry = self.journal.next_queued(self.leases.may_run)
        return entry.job.id if entry else ""


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Device]:
    made = Device(tmp_path)
    await made.desk.submit(FIRST, 2, MOVING, "controller/lab")
    await made.desk.submit(SECOND, 1, spec_bytes(), "controller/lab")
    yield made
    await made.records.close()


async def test_a_job_without_its_lease_waits_and_holds_up_nobody(device: Device) -> None:
    assert device.next_job() == SECOND
    assert await device.renew(**{FIRST: 2, SECOND: 1}) == {FIRST: device.clock.now_ns + 60 * 10**9}
    assert device.next_job() == FIRST
    device.clock.now_ns += 60 * 10**9
    assert device.next_job() == SECOND


@pytest.mark.parametrize(
    ("age_s", "boot_id", "generation"),
    [(60, "boot-1", 2), (-1, "boot-1", 2), (0, "boot-0", 2), (0, "boot-1", 1), (0, "boot-1", 3)],
    ids=["too old", "from the future", "another boot", "an older assignment", "a newer one"],
)
async def test_what_grants_nothing(
    device: Device, age_s: float, boot_id: str, generation: int
) -> None:
    await device.renew(age_s, boot_id, **{FIRST: generation})
    assert device.next_job() == SECOND


async def test_an_old_grant_that_comes_again_shortens_nothing(device: Device) -> None:
    first = await device.renew(**{FIRST: 2})
    assert await device.renew(age_s=30, **{FIRST: 2}) == first


async def test_a_job_that_has_moved_is_cancelled_only_in_its_older_generation(
    device: Device,
) -> None:
    assert (await device.desk.cancel(FIRST, 1)).state == states.QUEUED
    assert (await device.desk.cancel(FIRST, 2)).state == states.CANCELED
    with pytest.raises(NotFound):
        await device.desk.cancel("01JD00000000000000000000C3", 1)


async def test_a_lease_of_years_is_refused(device: Device) -> None:
    spec = job_pb2.JobSpec(name="x", train=train_spec(), lease_s=10**9).SerializeToString()
    with pytest.raises(InvalidRequest, match="lease_s is 1000000000") as refused:
        await device.desk.submit("01JD00000000000000000000C3", 1, spec, "")
    assert refused.value.field == "lease_s"
