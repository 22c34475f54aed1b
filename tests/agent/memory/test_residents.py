"""A job that is stopped for its memory: who has decided so waits for it, and for nothing else."""

import asyncio
from pathlib import Path

from agent.memory.arbiter import Act, Decision, Policy
from agent.memory.budget import Budget
from agent.memory.claims import Claims
from agent.memory.residents import Reading, Residents
from protos.nanofleet.v1.job_pb2 import JobSpec
from tests.agent.jobs.samples import train_spec

GIB = 1 << 30
FLOOR_BYTES = GIB


class Trainee:
    """Takes its time to write a checkpoint, and then leaves."""

    yields = may_rest = True

    def __init__(self, residents: Residents) -> None:
        self.asked, self.has_saved = asyncio.Event(), asyncio.Event()
        self.told: list[Act] = []
        self._residents = residents

    async def suspend(self) -> None:
        """Nothing asks for it here."""

    async def resume(self) -> None:
        """Nor for this."""

    async def vacate(self) -> None:
        self.asked.set()
        await self.has_saved.wait()
        self._residents.leave_job()

    async def tell(self, decision: Decision) -> None:
        self.told.append(decision.act)

    async def tell_waiting(self, why: str) -> None:
        raise AssertionError(why)


async def test_the_next_decision_waits_until_the_job_has_left(tiny_base: Path) -> None:
    available = 8 * GIB

    def read() -> Reading:
        return Reading(available, None)

    residents = Residents(Claims(Budget(8 * GIB, 0, 0)), Policy(FLOOR_BYTES), read)
    trainee = Trainee(residents)
    await residents.enter_job(tiny_base, JobSpec(train=train_spec()), trainee)
    available = FLOOR_BYTES // 2
    board = asyncio.create_task(residents.run())
    await trainee.asked.wait()
    assert trainee.told == [Act.STOP_JOB]
    available = 8 * GIB
    entering = asyncio.create_task(
        residents.enter_model(tiny_base, train_spec().base_digest, 64, is_asked=True)
    )
    assert not (await asyncio.wait({entering}, timeout=0.05))[0], "the job still holds its memory"
    trainee.has_saved.set()
    await asyncio.wait_for(entering, timeout=30)
    board.cancel()
    await asyncio.wait({board})
    assert trainee.told == [Act.STOP_JOB]
