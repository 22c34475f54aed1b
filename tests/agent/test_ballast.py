"""The room that is kept for a start on a full disk."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.ballast import FILE, SIZE_BYTES, Ballast
from agent.clock import Clock, SystemClock
from agent.jobs import states
from agent.jobs.journal import Journal
from protos.errors import DiskFull
from protos.nanofleet.v1 import job_pb2
from tests import disks
from tests.agent.authority import Authority
from tests.agent.clocks import FakeClock
from tests.agent.daemon import Daemon
from tests.agent.jobs.samples import FIRST, spec_bytes


class Disk:
    def __init__(self, free_bytes: int) -> None:
        self.free_bytes = free_bytes

    def __call__(self, folder: Path) -> int:
        return self.free_bytes


def test_it_is_made_where_there_is_room(tmp_path: Path) -> None:
    disk = Disk(2 * SIZE_BYTES)
    ballast = Ballast(tmp_path, disk)
    ballast.restore()
    assert list(tmp_path.iterdir()) == []
    disk.free_bytes = 100 * SIZE_BYTES
    ballast.restore()
    assert (tmp_path / FILE).stat().st_blocks * 512 >= SIZE_BYTES


def test_it_is_given_up_only_when_it_is_needed(tmp_path: Path) -> None:
    disk = Disk(100 * SIZE_BYTES)
    ballast = Ballast(tmp_path, disk)
    ballast.give_up_if_needed()
    ballast.restore()
    disk.free_bytes = SIZE_BYTES
    ballast.give_up_if_needed()
    assert (tmp_path / FILE).exists()
    disk.free_bytes = SIZE_BYTES - 1
    ballast.give_up_if_needed()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.small_disk(tmp_path / "disk", 16 << 20) as folder:
        yield folder


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()], ids=["same boot", "another boot"])
async def test_an_agent_starts_with_no_byte_free_and_a_job_to_settle(
    small_disk: Path, authority: Authority, clock: Clock
) -> None:
    daemon = Daemon(small_disk / "state", authority)
    daemon.start()
    daemon.stop()
    journal = Journal(daemon.state / "journal.db", clock)
    journal.submit(FIRST, 1, spec_bytes(), "operator/ann")
    journal.apply(FIRST, states.Started())
    journal.close()
    full = disks.fill(small_disk)
    try:
        daemon.start()
        async with daemon.stubs() as stubs:
            job = (await stubs.jobs.GetJob(job_pb2.GetJobRequest(job_id=FIRST))).job
        assert job.attempts[0].state == job_pb2.JOB_STATE_FAILED
        assert not (daemon.state / FILE).exists()
        full.unlink()
        daemon.stop()
        daemon.start()
        assert (daemon.state / FILE).exists()
    finally:
        daemon.kill()


def test_without_it_a_start_says_what_is_wrong_and_loses_nothing(small_disk: Path) -> None:
    """SQLite calls it an I/O error, and nobody shall move the journal away for that."""
    path = small_disk / "journal.db"
    journal = Journal(path, FakeClock())
    journal.submit(FIRST, 1, spec_bytes(), "operator/ann")
    journal.close()
    full = disks.fill(small_disk)
    with pytest.raises(DiskFull, match="the disk is full"):
        Journal(path, FakeClock())
    full.unlink()
    again = Journal(path, FakeClock())
    assert again.job(FIRST).id == FIRST
    again.close()
