"""What every attempt of a device uses, and the rehearsals of jobs, too."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.jobs.leases import Leases
from agent.jobs.records import Records
from agent.memory.residents import Trainee
from agent.workers.limits import Group
from agent.workers.process import Launcher
from agent.workers.watchdog import Limits
from artifacts.digest import Digest
from artifacts.store import ArtifactStore
from protos.nanofleet.v1.job_pb2 import (
    Circumstances,
    Conditions,
    GenerateSpec,
    JobPlan,
    JobSpec,
    TrainSpec,
)
from protos.nanofleet.v1.worker_pb2 import StartGenerating, StartTraining
from protos.recipe import base_digest

TRAINING_MODULE = "agent.training.worker"
BATCH_MODULE = "agent.batch.worker"


async def _enter_nothing(base: Path, spec: JobSpec, trainee: Trainee) -> None:
    pass


async def _change_nothing() -> Sequence[str]:
    return ()


async def _never() -> None:
    await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class Means:
    records: Records
    store: ArtifactStore
    launcher: Launcher
    jobs: Path  # the folder of the jobs' folders
    leases: Leases
    threads: int = 0  # 0: as many as there are cores
    device: str = ""  # "cpu", "cuda"; empty: the worker chooses
    usable_bytes: int = 0  # what the board has for workers
    energy_j: Callable[[], float | None] = lambda: None
    is_simulated: bool = False  # the board that this is the energy of
    # Begins to look at the board; what it returns ends that, and tells what was seen.
    observe: Callable[[], Callable[[], Circumstances | None]] = lambda: lambda: None
    serves: bool = True  # llama.cpp is installed
    watch: Limits = field(default_factory=Limits)  # of workers, past which they hang
    # A fresh control group for the worker of this name.
    limit: Callable[[str], Group | None] = lambda worker: None
    # Called around each attempt, with the job's base model: room is made for it, and given back.
    enter: Callable[[Path, JobSpec, Trainee], Awaitable[None]] = _enter_nothing
    leave: Callable[[], None] = lambda: None
    # Why a job must not compute now by the operating limits, and which of its own have no effect.
    rest: Callable[[JobSpec], str] = lambda spec: ""
    without_effect: Callable[[JobSpec], Sequence[str]] = lambda spec: ()
    # Around a job's worker: the power mode that the operator wants; both say what they did.
    take_power: Callable[[], Awaitable[Sequence[str]]] = _change_nothing
    give_power_back: Callable[[], Awaitable[Sequence[str]]] = _change_nothing
    # How the board and the job's worker were when telemetry last looked.
    conditions: Callable[[str], Conditions] = lambda job_id: Conditions()
    # What the worker was seen to take of anonymous memory.
    measured: Callable[[int], None] = lambda size_bytes: None
    # What it is expected to take beyond its forecast, as others did.
    above_bytes: Callable[[], int] = lambda: 0
    # Return when a request to the served model is under way, and when none is any more.
    requested: Callable[[], Awaitable[None]] = _never
    unrequested: Callable[[], Awaitable[None]] = _never
    # Of a worker that generates: as the served model has them.
    engine: str = ""
    engine_cache: Path | None = None
    engine_threads: int = 1

    @property
    def worker_threads(self) -> int:
        return self.threads or len(os.sched_getaffinity(0))

    def base(self, spec: JobSpec) -> Path:
        return self.store.path(Digest(base_digest(spec)))

    async def generating(self, spec: GenerateSpec, folder: Path) -> StartGenerating:
        """What the worker of a batch generation is told."""

        def path(digest: str) -> str:
            return str(self.store.path(Digest(digest))) if digest else ""

        digests = (spec.base_digest, spec.dataset_digest, spec.adapter_digest)
        base, dataset, adapter = await asyncio.to_thread(lambda: [path(each) for each in digests])
        return StartGenerating(
            spec=spec,
            base_path=base,
            dataset_path=dataset,
            adapter_path=adapter,
            job_folder=str(folder),
            threads=spec.threads or self.engine_threads,
            engine=self.engine,
            cache_folder=str(self.engine_cache or ""),
        )

    async def start_of(self, name: str, train: TrainSpec, folder: Path) -> StartTraining:
        """What the training worker is told of the job called ``name``, in its ``folder``."""

        def paths() -> tuple[Path, Sequence[Path]]:
            stages = [self.store.path(Digest(stage.dataset_digest)) for stage in train.stages]
            return self.store.path(Digest(train.base_digest)), stages

        base, datasets = await asyncio.to_thread(paths)
        return StartTraining(
            job_name=name,
            spec=train,
            base_path=str(base),
            dataset_paths=[str(path) for path in datasets],
            job_folder=str(folder),
            threads=train.threads or self.worker_threads,
            device=self.device,
        )


class PowerMeter:
    """The board's mean power from its making on, rests left out."""

    def __init__(
        self,
        energy_j: Callable[[], float | None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._energy_j = energy_j
        self._clock_s = clock_s
        self._took_s = self._spent_j = 0.0
        # Time and the meter's reading; None: it rests.
        self._since: tuple[float, float | None] | None = None
        self.go_on()

    def go_on(self) -> None:
        if self._since is None:
            self._since = self._clock_s(), self._energy_j()

    def rest(self) -> None:
        """What is drawn until ``go_on`` is not the worker's."""
        since, self._since = self._since, None
        after_j = self._energy_j()
        if since is not None and since[1] is not None and after_j is not None:
            self._took_s += self._clock_s() - since[0]
            self._spent_j += after_j - since[1]

    def power_w(self) -> float | None:
        """None where the board does not measure it."""
        if self._since is not None:
            self.rest()
            self.go_on()
        return self._spent_j / self._took_s if self._took_s > 0 else None


def completed(plan: JobPlan, means: Means, power_w: float | None) -> JobPlan:
    """The plan with what only the agent knows."""
    plan.usable_bytes = means.usable_bytes
    plan.calibrated_peak_bytes = plan.peak_bytes + means.above_bytes()
    if power_w is not None:
        plan.energy_j = power_w * plan.duration_s
        plan.simulated = means.is_simulated
    return plan
