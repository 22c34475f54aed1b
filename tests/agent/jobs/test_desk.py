"""A job that is not accepted leaves nothing behind."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.jobs.desk import Desk
from agent.jobs.journal import Journal
from agent.jobs.leases import Leases
from agent.jobs.means import Means
from agent.jobs.records import Records
from agent.jobs.runner import Runner, pin_owner
from agent.workers.process import Launcher
from artifacts.store import ArtifactStore
from protos.errors import DiskFull, NotFound
from protos.nanofleet.v1 import artifact_pb2, job_pb2
from tests.agent.clocks import FakeClock
from tests.agent.jobs.samples import FIRST, SECOND, spec_bytes


class Device:
    def __init__(self, root: Path) -> None:
        self.journal = Journal(root / "journal.db", FakeClock())
        self.records = Records(self.journal)
        self.store = ArtifactStore(root / "artifacts", reserve_bytes=0)
        launcher = Launcher(root / "workers", "boot-1")
        jobs, leases = root / "jobs", Leases(FakeClock())
        runner = Runner(Means(self.records, self.store, launcher, jobs, leases))
        self.desk = Desk(self.records, self.store, runner, jobs, leases, lambda *_: None)

    def add(self, root: Path, content: bytes, kind: "artifact_pb2.ArtifactKind.ValueType") -> None:
        (root / "file").write_bytes(content)
        self.store.add_file(root / "file", kind)

    def pins(self) -> list[set[str]]:
        return [set(artifact.pins) for artifact in self.store.list()]

    def fill(self) -> None:
        """The first job's log, until the journal takes nothing more."""
        pages = self.journal._db.execute("PRAGMA page_count").fetchone()[0]
        self.journal._db.execute(f"PRAGMA max_page_count={pages}")
        with contextlib.suppress(DiskFull):
            while True:
                self.journal.log(FIRST, job_pb2.LogLine(text="something"))

    async def submit(self, job_id: str) -> job_pb2.Job:
        return await self.desk.submit(job_id, 1, spec_bytes(), "operator/ann")


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Device]:
    made = Device(tmp_path)
    made.add(tmp_path, b"base", artifact_pb2.ARTIFACT_KIND_BASE_MODEL)
    yield made
    await made.records.close()


async def test_a_job_that_cannot_be_journalled_lets_go_of_its_artifacts(
    device: Device, tmp_path: Path
) -> None:
    device.add(tmp_path, b"dataset", artifact_pb2.ARTIFACT_KIND_DATASET)
    await device.submit(FIRST)
    device.fill()
    with pytest.raises(DiskFull):
        await device.submit(SECOND)
    assert device.pins() == [{pin_owner(FIRST)}] * 2


async def test_a_job_that_lacks_an_artifact_pins_none(device: Device) -> None:
    with pytest.raises(NotFound):
        await device.submit(FIRST)
    assert device.pins() == [set()]


async def test_a_submission_that_is_given_up_leaves_a_job_with_pins_or_neither(
    device: Device, tmp_path: Path
) -> None:
    device.add(tmp_path, b"dataset", artifact_pb2.ARTIFACT_KIND_DATASET)
    for turns in range(40):
        job_id = f"{FIRST[:-2]}{turns:02}"
        asked = asyncio.create_task(device.submit(job_id))
        for _ in range(turns // 4):
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])
        await device.records.read(device.journal.newest_seq)  # behind what is still under way
        known = {entry.job.id for entry in device.journal.entries()}
        held = set.union(*device.pins())
        assert held == {pin_owner(known_id) for known_id in known}


async def test_the_same_job_twice_at_once_is_one_with_its_pins(
    device: Device, tmp_path: Path
) -> None:
    device.add(tmp_path, b"dataset", artifact_pb2.ARTIFACT_KIND_DATASET)
    first, again = await asyncio.gather(device.submit(FIRST), device.submit(FIRST))
    assert first == again
    assert device.pins() == [{pin_owner(FIRST)}] * 2
