"""Workers that the kernel really kills for want of memory: their control group is too small."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.workers import limits
from protos.nanofleet.v1 import job_pb2
from tests.agent.daemon import Daemon, Stubs
from tests.agent.kitchen import Kitchen, ended, submit

# Of version 1 and 2 of the interface.
_ROOTS = (Path("/sys/fs/cgroup/memory/nanofleet"), Path("/sys/fs/cgroup/nanofleet"))
_LIMITS = ("memory.limit_in_bytes", "memory.max")
_LITTLE_BYTES = 48 << 20


@pytest.fixture
async def stubs(kitchen: Kitchen) -> AsyncIterator[Stubs]:
    found = limits.find()
    if isinstance(found, limits.Absent):
        pytest.skip(found.why)
    async with kitchen.daemon.stubs() as connected:
        await kitchen.stock(connected)
        yield connected


def squeeze(daemon: Daemon) -> None:
    """Leaves the next training worker of this agent less than PyTorch needs to be loaded."""
    name = f"training-{daemon.state.stat().st_ino}"
    while not (groups := [root / name for root in _ROOTS if _pids(root / name)]):
        time.sleep(0.01)
    (group,) = groups
    limit = next(group / name for name in _LIMITS if (group / name).exists())
    pids = _pids(group)
    limit.write_text(str(_LITTLE_BYTES))
    while {*pids} & {*_pids(group)}:
        time.sleep(0.01)


def _pids(group: Path) -> list[str]:
    try:
        return (group / "cgroup.procs").read_text().split()
    except FileNotFoundError:
        return []


async def test_the_first_kill_costs_stored_layers_and_not_the_job(
    kitchen: Kitchen, stubs: Stubs
) -> None:
    await submit(stubs, kitchen.spec(stored_layers=2))
    await asyncio.to_thread(squeeze, kitchen.daemon)
    job = await ended(stubs)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job.message
    first, second = job.attempts
    assert first.cause == job_pb2.CAUSE_OOM
    assert second.state == job_pb2.JOB_STATE_SUCCEEDED
    log = (kitchen.daemon.state / "jobs" / job.id / "worker.log").read_text()
    assert "with 0 stored layers" in log


async def test_the_second_kill_ends_it_with_what_to_do(kitchen: Kitchen, stubs: Stubs) -> None:
    await submit(stubs, kitchen.spec(stored_layers=2))
    await asyncio.to_thread(squeeze, kitchen.daemon)
    await asyncio.to_thread(squeeze, kitchen.daemon)
    job = await ended(stubs)
    assert job.state == job_pb2.JOB_STATE_FAILED, job.attempts
    assert [attempt.cause for attempt in job.attempts] == [job_pb2.CAUSE_OOM] * 2
    assert "memory_budget" in job.message
