"""A rehearsal with real workers, before a real arbiter: it rests, goes on, and is stopped."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.jobs.journal import Journal
from agent.jobs.leases import Leases
from agent.jobs.means import Means, PowerMeter
from agent.jobs.records import Records
from agent.jobs.rehearsal import Rehearsals
from agent.jobs.trial import Trial
from agent.memory.arbiter import Policy
from agent.memory.budget import Budget
from agent.memory.claims import Claims
from agent.memory.residents import Reading, Residents, Trainee
from agent.workers.process import Launcher
from artifacts.store import ArtifactStore
from protos.errors import Busy
from protos.nanofleet.v1 import artifact_pb2
from protos.nanofleet.v1.job_pb2 import JobSpec, OperatingLimits, PlanJobResponse
from tests.agent.clocks import FakeClock
from tests.agent.jobs.samples import generate_spec, train_spec

HOT = "The board is at 91.2 °C, more than 90 °C."
GB = 10**9


class Board:
    """What the arbiter sees. It becomes hot (``then_rest``) when the rehearsal has its memory."""

    def __init__(self, tmp_path: Path) -> None:
        self.rest = ""
        self.available_bytes = 8 * GB
        self.then_rest = HOT
        self.specs: list[JobSpec] = []
        self.trial: Trial | None = None
        self._seen_hot = False
        self._acted_on = asyncio.Event()
        self.residents = Residents(
            Claims(Budget(16 * GB, 0, 0)),
            Policy(floor_bytes=GB),
            read=lambda: Reading(self.available_bytes, None),
            rest=self._look,
        )
        self.store = ArtifactStore(tmp_path / "artifacts", reserve_bytes=0)
        self.records = Records(Journal(tmp_path / "journal.db", FakeClock()))
        means = Means(
            self.records,
            self.store,
            Launcher(tmp_path / "workers", "boot-1"),
            tmp_path / "jobs",
            Leases(FakeClock()),
            enter=self._enter,
            leave=self.residents.leave_job,
            rest=lambda spec: self.rest,
        )
        self.scratch = tmp_path / "rehearsal"
        (tmp_path / "workers").mkdir()
        self.rehearsals = Rehearsals(means, self.scratch, asyncio.Lock(), lambda job: None)

    async def _enter(self, base: Path, spec: JobSpec, trainee: Trainee) -> None:
        """The arbiter has suspended it before it has a worker."""
        assert isinstance(trainee, Trial)
        self.trial = trainee
        self.specs.append(spec)
        await self.residents.enter_job(base, spec, trainee)
        self.rest = self.then_rest
        if self.rest:
            await self._acted_on.wait()

    def _look(self, spec: JobSpec) -> str:
        """Whoever looks again has acted on what was seen before."""
        if self._seen_hot:
            self._acted_on.set()
        self._seen_hot |= bool(self.rest)
        return self.rest

    async def rests(self) -> None:
        """Returns when the worker does."""
        assert self.trial is not None
        await self.trial._rests.wait()

    def add(self, path: Path, kind: "artifact_pb2.ArtifactKind.ValueType") -> str:
        return str(self.store.add_file(path, kind).digest)


@pytest.fixture
async def board(tmp_path: Path) -> AsyncIterator[Board]:
    made = Board(tmp_path)
    looking = asyncio.create_task(made.residents.run())
    yield made
    looking.cancel()
    await asyncio.wait({looking})
    await made.records.close()


@pytest.fixture(params=["train", "generate"])
def spec(
    request: pytest.FixtureRequest, board: Board, tiny_base: Path, tiny_dataset: Path,
    tmp_path: Path,
) -> JobSpec:  # fmt: skip
    base = board.add(tiny_base, artifact_pb2.ARTIFACT_KIND_BASE_MODEL)
    limits = OperatingLimits(hours=["00:00-00:01"], rest_s=30)
    if request.param == "train":
        data = board.add(tiny_dataset, artifact_pb2.ARTIFACT_KIND_DATASET)
        train = train_spec(base_digest=base, dataset_digest=data, steps=1000)
        return JobSpec(name="persona", train=train, limits=limits)
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"topic": "sea", "question": "Where?"}\n' * 3000)
    packed = tmp_path / "questions.zst"
    from artifacts import dataset

    dataset.compress(questions, packed)
    data = board.add(packed, artifact_pb2.ARTIFACT_KIND_DATASET)
    asked = generate_spec(base_digest=base, dataset_digest=data)
    return JobSpec(name="teach", generate=asked, limits=limits)


async def planned(board: Board, spec: JobSpec) -> AsyncIterator[PlanJobResponse]:
    async for response in board.rehearsals.plan(spec.SerializeToString()):
        yield response


async def test_it_rests_with_the_device_and_says_so(board: Board, spec: JobSpec) -> None:
    told, seen = [], []
    async for response in planned(board, spec):
        seen.append(response.WhichOneof("response"))
        if response.HasField("decided"):
            told.append(response.decided)
            await board.rests()
            board.rest = ""
    assert [(one.act, one.holds) for one in told] == [
        ("suspend the job", True),
        ("resume the job", False),
    ]
    assert told[0].reason == HOT
    assert told[1].reason.startswith("What it rested for is over.")
    assert seen[-1] == "plan"
    assert not board.specs[0].HasField("limits"), "nobody waits for the job's own hours"
    assert not board.scratch.exists()


async def test_a_worker_that_computes_rests_at_its_next_step(
    board: Board, tiny_base: Path, tiny_dataset: Path
) -> None:
    base = board.add(tiny_base, artifact_pb2.ARTIFACT_KIND_BASE_MODEL)
    data = board.add(tiny_dataset, artifact_pb2.ARTIFACT_KIND_DATASET)
    # Far more micro-steps than the arbiter takes to look.
    train = train_spec(base_digest=base, dataset_digest=data, steps=1000, accumulation=2000)
    board.then_rest = ""
    plan = board.rehearsals.plan(JobSpec(name="persona", train=train).SerializeToString())
    told = []
    async for response in plan:
        if response.check.name == "memory":
            board.rest = HOT
        elif response.HasField("decided"):
            told.append(response.decided.act)
            board.rest = ""
        if len(told) == 2:
            break
    assert told == ["suspend the job", "resume the job"]
    await plan.aclose()
    assert not board.scratch.exists()


async def test_a_board_without_memory_stops_it(board: Board, spec: JobSpec) -> None:
    async def short_of_memory() -> None:
        async for response in planned(board, spec):
            if response.decided.holds:
                board.available_bytes = GB // 2

    with pytest.raises(Busy, match="rehearsal was stopped") as stopped:
        await short_of_memory()
    assert stopped.value.why == (
        "500 MB of memory are available, 1,000 MB must be; it starts again when there is room."
    )
    assert not board.scratch.exists()
    # And the device is free for the next one.
    board.available_bytes, board.rest, board.then_rest = 8 * GB, "", ""
    assert [one async for one in planned(board, spec)][-1].HasField("plan")


async def test_a_client_that_leaves_in_a_rest_ends_it(board: Board, spec: JobSpec) -> None:
    plan = board.rehearsals.plan(spec.SerializeToString())
    async for response in plan:
        if response.HasField("decided"):
            break
    await plan.aclose()
    assert not board.scratch.exists()
    with pytest.raises(Busy, match="rests now"):
        await anext(board.rehearsals.plan(spec.SerializeToString()))


def test_what_is_drawn_in_a_rest_is_not_the_workers() -> None:
    now_s, energy_j = 0.0, 100.0
    meter = PowerMeter(lambda: energy_j, lambda: now_s)
    assert meter.power_w() is None
    now_s, energy_j = 10.0, 170.0
    assert meter.power_w() == 7.0
    meter.rest()
    now_s, energy_j = 1000.0, 1170.0
    meter.rest()
    meter.go_on()
    meter.go_on()
    now_s, energy_j = 1010.0, 1260.0
    assert meter.power_w() == 8.0
    assert PowerMeter(lambda: None, lambda: now_s).power_w() is None
