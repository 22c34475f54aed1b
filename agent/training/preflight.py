"""The rehearsal of a training: everything that happens in its hours, in a minute, before it.

    data          each stage's dataset, tokenised with the base model's own tokenizer
    memory        the plan and its forecast; as much memory really taken and written to
    training      ten optimizer steps, of each stage some, timed: the true session, cut short
    checkpoint    what was saved, read back: bitwise what the session exported
    adapter       the export: PEFT's files, and the same weights for llama.cpp

The agent lets llama.cpp speak with that adapter once this process, and its memory, is gone. It is
the job's own code over the job's own data in a scratch folder; only the steps are fewer, and the
evaluations are left out: their time follows from the steps'.
"""

import mmap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.memory.forecast import TRAINER_ANONYMOUS_BYTES, Forecast, training_forecast
from agent.memory.plan import Facts, Plan, choose
from agent.memory.shape import shape_of
from agent.training import duration, token_file
from agent.training.duration import StageData, StepTimes
from agent.training.failures import TrainingFailure
from agent.training.token_file import Totals
from artifacts import adapter
from artifacts.base_model import BaseModel
from protos.nanofleet.v1 import job_pb2, worker_pb2
from protos.recipe import held_out_samples, total_steps

# Optimizer steps, of all stages together.
STEPS = 10
_FEWEST_STEPS = 4
_PAGE_BYTES = 4096
_TRIAL = "trial"

Report = Callable[[worker_pb2.TrainingReport], None]
# Tokenises the dataset of the stage (from 0) into the job's folder; the path and the totals.
Tokenise = Callable[[int], tuple[Path, Totals]]
# Trains as the job would, from this command to its last report.
Train = Callable[[worker_pb2.StartTraining, Report], None]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    start: worker_pb2.StartTraining
    base: BaseModel
    report: Report
    clock: Callable[[], float] = time.monotonic

    def run(self, tokenise: Tokenise, train: Train) -> None:
        """Reports each check that passes, then TrainingRehearsed. Raises what the job would."""
        spec = self.start.spec
        began_s = self.clock()
        stages = [self._stage(number, tokenise) for number in range(len(spec.stages))]
        found = "; ".join(
            _said_of_data(stage, one) for stage, one in zip(spec.stages, stages, strict=True)
        )
        self._passed("data", found, began_s)
        began_s = self.clock()
        facts = Facts(self._element_bytes(), max(one.longest for one in stages))
        plan = choose(self.base, spec, facts)
        forecast = training_forecast(self.base, spec, plan, facts.element_bytes, facts.longest)
        taken_bytes = _take(forecast.anonymous_bytes - TRAINER_ANONYMOUS_BYTES)
        said = f"{_said_of(plan, forecast)}; {taken_bytes / 1e6:,.0f} MB were taken and given back"
        self._passed("memory", said, began_s)
        began_s = self.clock()
        times = StepTimes()
        trial = shortened(self.start)
        train(trial, self._noting(times))
        said = f"{total_steps(trial.spec)} steps, {times.tokens_per_s():,.0f} tokens/s"
        self._passed("training", f"{said}; loss {times.last.loss:.3f}", began_s)
        self._read_back(trial)
        self._rehearsed(plan, forecast, stages, times)

    def _element_bytes(self) -> int:
        """Of the frozen products, as the session will choose them. Imports torch: not before the
        tokenizer's process is gone."""
        from agent.training import precision

        return precision.choose(self.base.embedding_length).itemsize

    def _stage(self, number: int, tokenise: Tokenise) -> StageData:
        path, totals = tokenise(number)
        asked = self.start.spec.HasField("evaluation")
        fraction = self.start.spec.evaluation.held_out_fraction if asked else 0.0
        held_out = held_out_samples(totals.samples, fraction)
        if held_out >= totals.samples:
            name = self.start.spec.stages[number].dataset_name or "The dataset"
            raise TrainingFailure(
                job_pb2.CAUSE_BAD_DATA,
                f"{name} has {totals.samples} samples, and the evaluation holds {held_out} of them "
                "out: none is left to train on. Add samples, or leave the evaluation out.",
            )
        return StageData(totals, token_file.longest(path, totals), held_out)

    def _noting(self, times: StepTimes) -> Report:
        """The session's own reports end here; its log lines go on to the agent."""

        def report(report: worker_pb2.TrainingReport) -> None:
            match report.WhichOneof("report"):
                case "log":
                    self.report(report)
                case "started":
                    times.started(report.started)
                case "progress":
                    times.note(report.progress)

        return report

    def _read_back(self, trial: worker_pb2.StartTraining) -> None:
        from agent.training import comparison

        began_s = self.clock()
        folder = Path(trial.job_folder)
        adapter.unpack(folder / comparison.ADAPTER_FILE, folder / _TRIAL)
        compared = comparison.checkpoint_with_export(trial.spec, folder, folder / _TRIAL)
        self._passed("checkpoint", f"{compared} tensors read back bitwise as exported", began_s)
        began_s = self.clock()
        size_bytes = (folder / _TRIAL / adapter.GGUF).stat().st_size
        self._passed("adapter", f"converted for llama.cpp, {size_bytes / 1e6:,.1f} MB", began_s)

    def _rehearsed(
        self, plan: Plan, forecast: Forecast, stages: Sequence[StageData], times: StepTimes
    ) -> None:
        spec = self.start.spec
        planned = duration.stage_plans(spec, plan, shape_of(self.base), stages, times)
        duration_s = sum(stage.duration_s for stage in planned)
        parts = [*((part.name, part.size_bytes) for part in forecast.anonymous)]
        parts += [("libraries", forecast.libraries_bytes), ("base model", forecast.weights_bytes)]
        result = job_pb2.JobPlan(
            memory=[job_pb2.MemoryPart(name=name, size_bytes=size) for name, size in parts],
            peak_bytes=forecast.peak_bytes,
            measured_peak_bytes=times.last.peak_rss_bytes,
            stored_layers=plan.stored_layers,
            head_rows=plan.chunk_rows,
            packing=plan.packing,
            stages=planned,
            duration_s=duration_s,
            tokens_per_s=times.tokens_per_s(),
            threads=times.threads,
            data_type=times.data_type,
        )
        gguf = Path(self.start.job_folder) / _TRIAL / adapter.GGUF
        done = worker_pb2.TrainingRehearsed(plan=result, adapter_path=str(gguf))
        self.report(worker_pb2.TrainingReport(rehearsed=done))

    def _passed(self, name: str, found: str, began_s: float) -> None:
        check = job_pb2.PlanCheck(name=name, found=found, took_s=self.clock() - began_s)
        self.report(worker_pb2.TrainingReport(check=check))


def shortened(start: worker_pb2.StartTraining) -> worker_pb2.StartTraining:
    """The same job with ten steps, or at least four for each stage."""
    trial = worker_pb2.StartTraining()
    trial.CopyFrom(start)
    trial.spec.ClearField("evaluation")
    steps = max(_FEWEST_STEPS, -(-STEPS // len(trial.spec.stages)))
    for stage in trial.spec.stages:
        stage.steps = min(stage.steps, steps)
    return trial


def _take(size_bytes: int) -> int:
    """Takes that much memory, writes to each of its pages, and gives it back. Raises MemoryError,
    or is killed by the kernel, when it is not there."""
    size_bytes = max(size_bytes, _PAGE_BYTES)
    try:
        with mmap.mmap(-1, size_bytes) as taken:
            for place in range(0, size_bytes, _PAGE_BYTES):
                taken[place] = 1
    except OSError as error:
        raise MemoryError(str(error)) from error
    return size_bytes


def _said_of(plan: Plan, forecast: Forecast) -> str:
    packed = ", samples packed" if plan.packing else ""
    return (
        f"a peak of {forecast.peak_bytes / 1e6:,.0f} MB is predicted, with {plan.stored_layers} "
        f"stored layers and {plan.chunk_rows:,} rows of the head at a time{packed}"
    )


def _said_of_data(stage: job_pb2.TrainStage, data: StageData) -> str:
    totals = data.totals
    held_out = f", {data.held_out} of them held out" if data.held_out else ""
    return (
        f"{stage.dataset_name or 'dataset'}: {totals.samples:,} samples{held_out}, "
        f"{totals.tokens:,} tokens, {totals.labelled:,} of them labelled; the longest sample has "
        f"{data.longest:,}"
    )
