"""Jobs that move: two real agents, and a clock of the controller that the test moves."""

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller import Fleet, parse_job
from controller.demo.processes import free_port
from controller.device import DeviceConnection
from controller.failover import FailOver
from controller.following import Follower
from controller.jobfile import JobFile
from controller.records import JobRecord
from controller.store import leases as stored_leases
from protos.errors import InvalidRequest
from protos.lease import Instant
from protos.nanofleet.v1 import job_pb2
from tests.controller.agents import Agent

RUNNING, FAILED = job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_FAILED
CANCELED = job_pb2.JOB_STATE_CANCELED


def moving(dataset: Path, name: str = "moving", **changes: object) -> JobFile:
    train = {"base": "tiny", "dataset": str(dataset), "steps": 100_000, "sequence_length": 64}
    fields = {"name": name, "on_lost": "move", "lost_after_minutes": 10, **changes}
    return parse_job({**fields, "train": {**train, "accumulation": 1}})


@dataclass
class Clock:
    now_s: float = 1000.0
    boot_id: str = "boot-1"
    # By so much each reading moves it.
    reading_s: float = 0.0

    def __call__(self) -> Instant:
        self.now_s += self.reading_s
        return Instant(self.boot_id, round(self.now_s * 1e9))


@dataclass
class Site:
    fleet: Fleet
    clock: Clock
    agents: dict[str, Agent]

    def agent_of(self, reference: str = "moving") -> Agent:
        """Of the device where the job is now: which one it is depends on their memory."""
        return self.agents[self.fleet.job(reference).device]

    async def started(self, reference: str = "moving") -> JobRecord:
        """Once it has made a step where it is now."""
        async for event in self.fleet.watch(reference):
            if event.HasField("progress"):
                break
        return self.fleet.job(reference)

    async def there(self, device: str, job_id: str) -> job_pb2.Job:
        """What the device itself says of the job."""
        connection: DeviceConnection = self.fleet._to(device)
        request = job_pb2.GetJobRequest(job_id=job_id)
        return (await connection.call(connection.jobs.GetJob, request)).job


@pytest.fixture
async def site(empty_fleet: Fleet, tiny_base: Path, tmp_path: Path) -> AsyncIterator[Site]:
    fleet, clock = empty_fleet, Clock()
    fleet._fail_over = FailOver(fleet._dispatcher, clock)
    fleet._follower = Follower(
        fleet._store, fleet._connections, fleet._dispatcher.ensure_sent, fleet._fail_over
    )
    await fleet.import_model(tiny_base, name="tiny")
    agents = {name: Agent(name, tmp_path / name, free_port()) for name in ("kitchen", "porch")}
    for agent in agents.values():
        await agent.join(fleet)
        agent.start()
    yield Site(fleet, clock, agents)
    for agent in agents.values():
        agent.stop()


async def test_a_job_moves_when_its_lease_is_over_and_counts_once(
    site: Site, dataset: Path
) -> None:
    fleet, clock = site.fleet, site.clock
    submitted = await fleet.submit(moving(dataset))
    first = await site.started()
    assert (first.device, first.generation, first.state) == (submitted.device, 1, RUNNING)
    assert first.job.spec.lease_s == 600

    lost = site.agent_of()
    lost.kill()
    clock.now_s += 600
    assert lost.name in await fleet.refresh()
    assert fleet.job("moving").device == lost.name, "a margin, for clocks of other speeds"
    clock.boot_id = "boot-2"
    clock.now_s = 10**6
    await fleet.refresh()
    assert fleet.job("moving").device == lost.name, "a restarted controller knows of no grant"
    clock.now_s += 600 + 7
    await fleet.refresh()
    moved = fleet.job("moving")
    assert (moved.id, moved.generation) == (submitted.id, 2)
    assert moved.device != lost.name
    async for event in fleet.watch("moving"):
        assert event.generation == 2
        if event.HasField("progress"):
            break

    lost.start()
    assert await fleet.refresh() == {}
    assert (await site.there(lost.name, submitted.id)).state == CANCELED
    assert (await site.there(moved.device, submitted.id)).state == RUNNING
    assert fleet.job("moving").state == RUNNING
    with fleet._store.read() as transaction:
        assert stored_leases.left_on(transaction) == []
        (left,) = stored_leases.left_by(transaction, submitted.id)
    assert (left.device, left.generation) == (lost.name, 1)

    # Lost as well: there is nobody left who has not had it.
    site.agent_of().kill()
    clock.now_s += 10_000
    said = (await fleet.refresh())[moved.device]
    assert f"Job moving waits for {moved.device}" in said
    assert "has had the job already" in said
    assert fleet.job("moving").device == moved.device
    site.agent_of().start()
    await site.started()
    await fleet.cancel("moving")
    assert (await fleet.wait("moving", 60)).state == CANCELED


async def test_a_follower_goes_along_with_its_job(site: Site, dataset: Path) -> None:
    await site.fleet.submit(moving(dataset))
    lost = site.agent_of()
    interruptions: list[str] = []
    seen: list[tuple[int, int]] = []
    async for event in site.fleet.watch(
        "moving", on_interruption=lambda error: interruptions.append(str(error))
    ):
        seen.append((event.generation, event.seq))
        if event.HasField("progress") and event.generation == 1 and not site.clock.reading_s:
            lost.kill()
            # A grant may be on its way just now, and counts from later.
            site.clock.reading_s = 500
        if event.HasField("progress") and event.generation == 2 and site.clock.reading_s:
            site.clock.reading_s = 0
            await site.fleet.cancel("moving")
    assert site.fleet.job("moving").state == CANCELED
    assert seen == sorted(set(seen)), "each once, in order"
    assert seen[0] == (1, 1)
    assert [generation for generation, _ in seen].count(2) >= 3
    assert interruptions


async def test_a_device_that_lost_its_journal(site: Site, dataset: Path) -> None:
    """Its jobs are decided by their policy: what must run once is given up, what may move begins
    anew, there."""
    fleet = site.fleet
    await fleet.submit(moving(dataset))
    running = await site.started()
    flashed = site.agent_of()
    pinned = await fleet.submit(
        moving(dataset, "pinned", on_lost="wait", lost_after_minutes=None, device=flashed.name)
    )
    await fleet.refresh()
    flashed.kill()
    for path in flashed.state.glob("journal.db*"):
        path.unlink()
    shutil.rmtree(flashed.state / "jobs")
    flashed.start()
    assert await fleet.refresh() == {}
    given_up = fleet.job(pinned.id)
    assert given_up.state == FAILED
    assert "re-flashed" in given_up.job.message
    assert fleet.events(pinned.id), "what was collected before is still told"
    again = await site.started()
    assert (again.device, again.generation) == (running.device, 2)
    fleet.remove_device(flashed.name)
    removed = await fleet.wait("moving", 1)
    assert removed.state == FAILED
    assert "removed from the fleet" in removed.job.message


def test_a_job_for_one_device_cannot_move(dataset: Path) -> None:
    with pytest.raises(InvalidRequest, match="`on_lost: move` needs other devices"):
        moving(dataset, device="kitchen")
    with pytest.raises(InvalidRequest, match="`lost_after_minutes` is for"):
        moving(dataset, on_lost="wait")
    assert moving(dataset, lost_after_minutes=None).lease_s == 1800
    assert moving(dataset, lost_after_minutes=0.5).lease_s == 30
