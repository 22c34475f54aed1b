"""What a rehearsal foretells, against what the job then takes: peak memory and duration.

Both are the real worker over the same data: RehearseTraining as ``nanofleet job plan`` has it, then
the whole job, with more steps. The samples differ in length, as people's do, and half of each is
labelled: a forecast that only knows one length would be told nothing.

"""

import asyncio
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent.workers.process import Launcher
from benchmarks import measuring, shapes
from benchmarks.measuring import ALL_SEVEN, ATTENTION, RunFailed, Task
from benchmarks.report import Row
from protos.nanofleet.v1 import job_pb2, worker_pb2

if TYPE_CHECKING:
    from benchmarks.training import Bench

# A token each.
_LETTERS = "$^~`@#%&*|"
_STEPS = 20
_DATASET_SAMPLES = 40
_EVALUATION = job_pb2.Evaluation(held_out_fraction=0.1, period_steps=10)
# The tokenizer's, around a prompt and its completion.
_MOST_ADDED_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was foretold and what happened. Errors are of the forecast, in percent, without sign."""

    predicted_peak_bytes: int
    peak_rss_bytes: int
    predicted_s: float
    duration_s: float

    @property
    def peak_error(self) -> float:
        return 100 * abs(self.predicted_peak_bytes / self.peak_rss_bytes - 1)

    @property
    def duration_error(self) -> float:
        return 100 * abs(self.predicted_s / self.duration_s - 1)

    def plain(self) -> Mapping[str, object]:
        errors = {"peak_error": self.peak_error, "duration_error": self.duration_error}
        return {**asdict(self), **errors}


def compare(base: Path, recipe: job_pb2.TrainSpec, scratch: Path) -> Outcome:
    """Rehearses the recipe's only stage, then runs it. Raises RunFailed."""
    folder = Path(tempfile.mkdtemp(prefix="forecast.", dir=scratch))
    try:
        dataset = folder / "dataset.jsonl"
        _write_dataset(dataset, recipe.sequence_length)

        def start(name: str) -> worker_pb2.StartTraining:
            return worker_pb2.StartTraining(
                job_id="01JD0000000000000000000000",
                job_name="benchmark",
                spec=recipe,
                base_path=str(base),
                dataset_paths=[str(dataset)],
                job_folder=str(folder / name),
                threads=recipe.threads,
            )

        rehearse = worker_pb2.RehearseTraining(start=start("rehearsal"))
        rehearsed = asyncio.run(_last(worker_pb2.TrainingCommand(rehearse=rehearse), folder))
        finished = asyncio.run(_last(worker_pb2.TrainingCommand(start=start("job")), folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    plan, result = rehearsed.rehearsed.plan, finished.finished.result
    return Outcome(plan.peak_bytes, result.peak_rss_bytes, plan.duration_s, result.duration_s)


def forecast(bench: "Bench") -> list[Row]:
    """Of the memory that happened 10 % may be foretold wrong, of the duration 20 %."""
    usual = Task(Path(), sequence_length=bench.tokens, accumulation=2, threads=2)
    packed = job_pb2.TrainSpec(packing=True, evaluation=_EVALUATION)
    budget = job_pb2.TrainSpec(memory_budget_bytes=bench.budget_bytes)
    cases = {
        "forecast, attention": _case(bench, "q8_0", usual, ATTENTION, job_pb2.TrainSpec()),
        "forecast, all seven, packed, evaluated": _case(bench, "q8_0", usual, ALL_SEVEN, packed),
        "forecast, in a budget": _case(bench, "q8_0", usual, ATTENTION, budget),
        "forecast, qint8": _case(bench, "qint8", usual, ATTENTION, job_pb2.TrainSpec()),
    }
    bench.alternate(cases)
    rows = []
    for label in cases:
        for what, key, at_most in (("peak", "peak_error", 10), ("duration", "duration_error", 20)):
            name, value = f"{label}: {what} is wrong by", bench.most(label, key)
            rows.append(Row(name, value, "%", at_most, note=bench.why(label)))
    return rows


def _case(
    bench: "Bench", file_type: str, task: Task, targets: tuple[str, ...], more: job_pb2.TrainSpec
) -> Callable[[], Iterable[Mapping[str, object]]]:
    """The recipe of ``task`` with the fields that ``more`` has."""

    def run() -> Iterable[Mapping[str, object]]:
        base = shapes.base(bench.models, bench.shape, file_type)
        recipe = measuring.specification(task)
        recipe.lora.targets[:] = targets
        recipe.stages[0].steps = _STEPS
        recipe.MergeFrom(more)
        return [compare(base, recipe, bench.models).plain()]

    return run


async def _last(command: worker_pb2.TrainingCommand, folder: Path) -> worker_pb2.TrainingReport:
    """Of a worker that ended well."""
    worker = await Launcher(folder, "benchmark").start(
        "agent.training.worker",
        worker_pb2.TrainingReport,
        folder / "worker.log",
        name="benchmark",
    )
    last = worker_pb2.TrainingReport()
    try:
        await worker.send(command)
        async for report in worker.reports():
            last = report
    finally:
        worker.finish()
        ended = await worker.wait(patience_s=60)
    if last.WhichOneof("report") not in ("finished", "rehearsed"):
        why = last.failed.message or ended.log_tail[-300:]
        raise RunFailed(f"The worker ended ({ended}): {why}")
    return last


def _write_dataset(path: Path, most_tokens: int) -> None:
    """From a quarter of ``most_tokens`` to nearly all of them."""
    choose = random.Random(1)
    with path.open("w") as file:
        for _ in range(_DATASET_SAMPLES):
            half = choose.randint(most_tokens // 4, most_tokens - _MOST_ADDED_TOKENS) // 2
            prompt, completion = ("".join(choose.choices(_LETTERS, k=half)) for _ in range(2))
            file.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
