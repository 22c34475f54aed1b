"""The rehearsal of a training: everything that happens in its hours, in a minute, before them.

    data          each stage's dataset, tokenised with the base model's own tokenizer
    memory        the plan and its forecast; as much memory really taken and written to
    training      ten optimizer steps, timed
    checkpoint    what was saved, read back: bitwise what was exported at the same step
    adapter       the export: PEFT's files, and the same weights for llama.cpp

A job rehearses itself: its own first steps are timed, and once they are done it stops and tries out
the rest (``Loop`` has the order of it), so that no step is wasted. ``job plan`` runs the same
session over the same data, cut short and in a scratch folder. In both, the agent lets llama.cpp
speak with the trial adapter while the trainer's memory is given back.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.memory.forecast import RUNTIME, Forecast
from agent.memory.plan import Facts, Plan, forecast_of
from agent.memory.shape import shape_of
from agent.training import comparison, duration, room, token_file
from agent.training.duration import Paces, StageData
from agent.training.export import ADAPTER_FILE
from agent.training.recipe import held_out_split
from agent.training.token_file import Totals
from agent.workers import own_log
from artifacts import adapter
from artifacts.base_model import BaseModel
from protos.nanofleet.v1 import job_pb2, worker_pb2

# Optimizer steps; in `job plan` of all stages together, and of each at least some.
STEPS = 10
_FEWEST_STEPS = 4
# Held-out samples that are passed forward to see how long it takes.
EVALUATED_SAMPLES = 8
# A job that has less before it is its own rehearsal.
LONG_S = 60.0
# Below a job's folder, and gone after the rehearsal.
TRIAL = "trial"

Report = Callable[[worker_pb2.TrainingReport], None]


class Rehearsal:
    """Of one job: ``start`` is what it was asked to do, ``tokens`` what its datasets were made
    into, in ``tokenised_s``."""

    def __init__(
        self,
        start: worker_pb2.StartTraining,
        base: BaseModel,
        tokens: Sequence[tuple[Path, Totals]],
        tokenised_s: float,
        report: Report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._base = base
        self._tokenised_s = tokenised_s
        self._report = report
        self._clock = clock
        self._data = [
            StageData(
                totals,
                token_file.longest(path, totals),
                held_out_split(start.spec, number, totals.samples),
            )
            for number, (path, totals) in enumerate(tokens)
        ]
        self._plan = Plan()
        self._facts = Facts()
        self._threads, self._data_type = 0, ""
        self._last = job_pb2.TrainProgress()
        self._is_over = not start.rehearse
        self.paces = Paces()

    def due(self) -> bool:
        """Whether the job has now made its first steps. Says so once."""
        is_due = not self._is_over and self.paces.steps >= STEPS
        self._is_over = self._is_over or is_due
        return is_due

    def settle(self, plan: Plan, facts: Facts, threads: int, data_type: str) -> None:
        """With what the session runs."""
        self._plan, self._facts = plan, facts
        self._threads, self._data_type = threads, data_type

    def check_data(self) -> None:
        stages = zip(self._start.spec.stages, self._data, strict=True)
        found = "; ".join(_said_of_data(stage, data) for stage, data in stages)
        self._passed("data", found, self._tokenised_s)

    def check_memory(self) -> None:
        """Before the session takes its own. Raises TrainingFailure when it is not there."""
        began_s = self._clock()
        forecast = self._memory()
        taken_bytes = forecast.anonymous_bytes - forecast.part_bytes(RUNTIME)
        room.take(taken_bytes)
        packed = ", samples packed" if self._plan.packing else ""
        self._passed(
            "memory",
            f"a peak of {forecast.peak_bytes / 1e6:,.0f} MB is predicted, with "
            f"{self._plan.stored_layers} stored layers and {self._plan.chunk_rows:,} rows of the "
            f"head at a time{packed}; {taken_bytes / 1e6:,.0f} MB were taken and given back",
            began_s,
        )

    def end_step(self, progress: job_pb2.TrainProgress) -> None:
        """Takes in a step of the session, after its passes."""
        self.paces.end_step(progress.stage - 1)
        self._last.CopyFrom(progress)

    def check_training(self) -> None:
        steps, rate = self.paces.steps, self.paces.tokens_per_s()
        took_s = sum(one.took_s for step in self.paces.all for one in step)
        found = f"{steps} steps, {rate:,.0f} tokens/s; loss {self._last.loss:.3f}"
        self._say("training", found, took_s)

    def check_checkpoint(self, spec: job_pb2.TrainSpec, folder: Path, trial: Path) -> None:
        """The newest in the job's ``folder``, against the adapter in ``trial``; both are of the
        session, and its ``spec``. Raises TrainingFailure."""
        began_s = self._clock()
        compared = comparison.checkpoint_with_export(spec, folder, trial)
        self._passed("checkpoint", f"{compared} tensors read back bitwise as exported", began_s)

    def check_adapter(self, trial: Path, convert: Callable[[], None]) -> Path:
        """The file for llama.cpp, which ``convert`` makes of PEFT's."""
        began_s = self._clock()
        convert()
        path = trial / adapter.GGUF
        found = f"converted for llama.cpp, {path.stat().st_size / 1e6:,.1f} MB"
        self._passed("adapter", found, began_s)
        return path

    def plan(self) -> job_pb2.JobPlan:
        """What the job will take, by what was timed so far."""
        memory = self._memory()
        shape = shape_of(self._base)
        forecast = duration.forecast(self.paces, self._plan, shape)
        stages = forecast.stages(self._start.spec, self._plan, self._data)
        parts = [(part.name, part.size_bytes) for part in memory.anonymous if part.size_bytes]
        parts += [("libraries", memory.libraries_bytes), ("base model", memory.weights_bytes)]
        return job_pb2.JobPlan(
            memory=[job_pb2.MemoryPart(name=name, size_bytes=size) for name, size in parts],
            peak_bytes=memory.peak_bytes,
            measured_peak_bytes=self._last.peak_rss_bytes,
            stored_layers=self._plan.stored_layers,
            head_rows=self._plan.chunk_rows,
            packing=self._plan.packing,
            stages=stages,
            duration_s=sum(stage.duration_s for stage in stages),
            tokens_per_s=self.paces.tokens_per_s(),
            threads=self._threads,
            data_type=self._data_type,
        )

    def conclude(self, trial: worker_pb2.StartTraining) -> None:
        """After the session of `job plan`, which ``trial`` started: of what it left behind."""
        self.check_training()
        folder = Path(trial.job_folder)
        adapter.unpack(folder / ADAPTER_FILE, folder / TRIAL)
        self.check_checkpoint(trial.spec, folder, folder / TRIAL)
        path = self.check_adapter(folder / TRIAL, lambda: None)
        done = worker_pb2.TrainingRehearsed(plan=self.plan(), adapter_path=str(path))
        self._report(worker_pb2.TrainingReport(rehearsed=done))

    def _memory(self) -> Forecast:
        return forecast_of(self._base, self._start.spec, self._plan, self._facts)

    def _passed(self, name: str, found: str, began_s: float) -> None:
        self._say(name, found, self._clock() - began_s)

    def _say(self, name: str, found: str, took_s: float) -> None:
        own_log.say(f"{name}: {found}")
        check = job_pb2.PlanCheck(name=name, found=found, took_s=took_s)
        self._report(worker_pb2.TrainingReport(check=check))


def shortened(start: worker_pb2.StartTraining, samples: Sequence[int]) -> worker_pb2.StartTraining:
    """The same job with ten steps, or at least four for each stage, and an evaluation of some
    samples at the end of each. ``samples`` are those of the stages' datasets."""
    trial = worker_pb2.StartTraining()
    trial.CopyFrom(start)
    steps = max(_FEWEST_STEPS, -(-STEPS // len(trial.spec.stages)))
    for stage in trial.spec.stages:
        stage.steps = min(stage.steps, steps)
    if trial.spec.HasField("evaluation"):
        asked = trial.spec.evaluation
        few = EVALUATED_SAMPLES / max(samples)
        asked.held_out_fraction = min(asked.held_out_fraction, few)
        asked.period_steps = steps
    return trial


def _said_of_data(stage: job_pb2.TrainStage, data: StageData) -> str:
    totals = data.totals
    held_out = f", {data.held_out} of them held out" if data.held_out else ""
    return (
        f"{stage.dataset_name or 'dataset'}: {totals.samples:,} samples{held_out}, "
        f"{totals.tokens:,} tokens, {totals.labelled:,} of them labelled; the longest sample has "
        f"{data.longest:,}"
    )
