"""What the kinds of jobs differ in, for an attempt: its worker, what that is told, what it makes.

An attempt starts, follows and ends a worker in one way, whatever it works at.
"""

from abc import ABC, abstractmethod
from pathlib import Path

from agent.jobs import results, spec
from agent.jobs.means import BATCH_MODULE, TRAINING_MODULE, Means
from artifacts.store import ArtifactStore
from protos.nanofleet.v1.job_pb2 import JobSpec
from protos.nanofleet.v1.telemetry_pb2 import WorkerSample
from protos.nanofleet.v1.worker_pb2 import TrainingCommand, TrainingFinished, TrainingReport


class Work(ABC):
    """``module`` and ``name`` of its worker, and what its steps are called."""

    module: str
    name: str
    step: str
    kind: "WorkerSample.Kind.ValueType"
    # For a person, where the worker died for want of memory; empty: as the cause's policy says.
    out_of_memory: str = ""
    # Whether requests come first even where both would fit: it pauses while there are any.
    makes_way: bool = False

    def __init__(self, job: JobSpec) -> None:
        self.spec = job

    @property
    def holds_memory(self) -> bool:
        """Whether a request that does not fit beside it is refused."""
        return False

    @abstractmethod
    async def command(
        self, means: Means, job_id: str, folder: Path, *, is_rehearsed: bool
    ) -> TrainingCommand:
        """What the worker is started with."""

    @abstractmethod
    def lease(self, command: TrainingCommand, until_boottime_ns: int) -> None:
        """Puts into what the worker is started with when the job's lease ends; 0: it has none."""

    @abstractmethod
    def begun(self, report: TrainingReport) -> str:
        """A line of the log, from the worker's report that it has begun."""

    @abstractmethod
    def keep(self, store: ArtifactStore, finished: TrainingFinished) -> str:
        """Puts what was made into the store, its digest into the result; a sentence about it.
        Blocking."""


class Training(Work):
    module, name, step = TRAINING_MODULE, "training", "step"
    kind = WorkerSample.KIND_TRAINING

    def __init__(self, job: JobSpec, *, takes_least: bool) -> None:
        todo = JobSpec()
        todo.CopyFrom(job)
        if takes_least:
            todo.train.CopyFrom(spec.least_memory(job.train))
        super().__init__(todo)
        self._takes_least = takes_least

    @property
    def holds_memory(self) -> bool:
        return self.spec.train.holds_memory

    async def command(
        self, means: Means, job_id: str, folder: Path, *, is_rehearsed: bool
    ) -> TrainingCommand:
        start = await means.start_of(self.spec.name, self.spec.train, folder)
        start.job_id, start.rehearse = job_id, not is_rehearsed
        start.least_memory = self._takes_least
        return TrainingCommand(start=start)

    def lease(self, command: TrainingCommand, until_boottime_ns: int) -> None:
        command.start.lease_until_boottime_ns = until_boottime_ns

    def begun(self, report: TrainingReport) -> str:
        started = report.started
        at = started.resumed_at_step
        begin = f"resuming after step {at}" if at else "new"
        return (
            f"Training, {begin}: {started.samples} samples, {started.labelled_tokens} labelled"
            f" tokens, {started.threads} threads, {started.data_type}. {started.device_reason}"
        )

    def keep(self, store: ArtifactStore, finished: TrainingFinished) -> str:
        result = finished.result
        results.keep(store, Path(finished.adapter_path), result)
        return f"The loss went from {result.first_loss:.3f} to {result.final_loss:.3f}."


class Generating(Work):
    module, name, step = BATCH_MODULE, "batch", "prompt"
    kind = WorkerSample.KIND_GENERATING
    out_of_memory = (
        "The worker ran out of memory; lower context_length, or free memory on the device."
    )
    makes_way = True

    async def command(
        self, means: Means, job_id: str, folder: Path, *, is_rehearsed: bool
    ) -> TrainingCommand:
        start = await means.generating(self.spec.generate, folder)
        start.job_id = job_id
        return TrainingCommand(generate=start)

    def lease(self, command: TrainingCommand, until_boottime_ns: int) -> None:
        command.generate.lease_until_boottime_ns = until_boottime_ns

    def begun(self, report: TrainingReport) -> str:
        started = report.generating
        begin = f"after prompt {started.done_prompts}" if started.done_prompts else "new"
        threads = f"{started.threads} thread" + ("s" if started.threads != 1 else "")
        return f"Generating, {begin}: {started.total_prompts} prompts, {threads}."

    def keep(self, store: ArtifactStore, finished: TrainingFinished) -> str:
        made = finished.result.generated
        results.keep_dataset(store, Path(finished.dataset_path), finished.result)
        dropped = sum(count.answers for count in made.faults if count.dropped)
        left_out = f"; {dropped} were left out" if dropped else ""
        return f"{made.kept} answers to {made.prompts} prompts{left_out}."


def work_of(job: JobSpec, *, takes_least: bool = False) -> Work:
    """``takes_least``: the attempt before ran out of memory. A generation has nothing smaller that
    would give the same result, and is tried once more as it is."""
    return Generating(job) if job.HasField("generate") else Training(job, takes_least=takes_least)
