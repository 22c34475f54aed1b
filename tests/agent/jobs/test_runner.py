"""The queue when its journal cannot be written."""

import asyncio
from pathlib import Path

import pytest

from agent.jobs.journal import Journal
from agent.jobs.leases import Leases
from agent.jobs.means import Means
from agent.jobs.patience import Patience
from agent.jobs.records import Records
from agent.jobs.runner import Runner
from agent.workers.process import Launcher
from artifacts.store import ArtifactStore
from protos.errors import DiskFull
from protos.nanofleet.v1 import job_pb2
from tests.agent.clocks import FakeClock
from tests.agent.jobs.samples import FIRST, spec_bytes


def fill(journal: Journal) -> None:
    while True:
        journal.log(FIRST, job_pb2.LogLine(text="something"))


async def test_a_full_disk_does_not_keep_the_queue_from_stopping(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", FakeClock())
    journal.submit(FIRST, 1, spec_bytes(), "operator/ann")
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(DiskFull):
        fill(journal)
    records = Records(journal)
    store = ArtifactStore(tmp_path / "artifacts", reserve_bytes=0)
    launcher = Launcher(tmp_path / "workers", "boot-1")
    runner = Runner(Means(records, store, launcher, tmp_path / "jobs", Leases(FakeClock())))
    queue = asyncio.create_task(runner.run())
    await asyncio.sleep(0)
    await records.read(journal.next_queued)  # behind the queue's own question, in the same thread
    await asyncio.wait_for(runner.stop(Patience(0.1, 0.1)), timeout=10)
    await asyncio.wait_for(queue, timeout=10)
    assert journal.job(FIRST).state == job_pb2.JOB_STATE_QUEUED
    await records.close()
