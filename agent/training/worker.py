"""The training worker: a process for one attempt of one job.

    python -m agent.training.worker --commands FD --reports FD --parent PID

Reads StartTraining, then obeys pause, resume and stop between micro-steps. Its last report is
TrainingFinished, TrainingStopped or WorkerFailed. RehearseTraining tries it all out instead (see
preflight.py), as obediently, and ends with TrainingRehearsed. It attaches to its agent before
anything heavy is imported, and has the dataset tokenised by a child that is gone before torch is
loaded.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from agent.training import preparation, recipe, token_file
from agent.training.failures import explain
from agent.workers import attempt
from agent.workers.attempt import Orders
from agent.workers.beat import Beat
from agent.workers.channel import FrameWriter
from agent.workers.commands import Commands
from artifacts import base_model, durable
from artifacts.base_model import BaseModel
from protos.nanofleet.v1 import job_pb2, worker_pb2

# For specs that name it not.
_UNNAMED = "dataset"

# Read by libraries when they are loaded.
_ENVIRONMENT = {
    # A missing file would be asked for over the network, ten times.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    # OpenMP's threads wait for the next product by spinning. Unbounded, that takes the cores from
    # inference: 2.7 tokens/s instead of 28.
    "GOMP_SPINCOUNT": "2000",
    # oneDNN and torch's layer over it keep a prepared product, with its memory, for each shape that
    # they have met, and each length of a sample is one: of 1,024 the peak grows to a multiple of
    # the forecast. A pass has fewer than 32; with 16 a tenth of the time goes into making them.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "LRU_CACHE_CAPACITY": "32",
}


def main(argv: Sequence[str] | None = None) -> int:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return attempt.run(argv, _train, explain)


def _train(first: worker_pb2.TrainingCommand, orders: Orders, reports: FrameWriter) -> None:
    is_rehearsal = first.WhichOneof("command") == "rehearse"
    start = first.rehearse.start if is_rehearsal else first.start
    commands = Commands(orders, start.lease_until_boottime_ns)
    commands.listen()
    base = base_model.read(Path(start.base_path))
    recipe.check(start.spec, base)
    durable.make_folder(Path(start.job_folder))
    try:
        if is_rehearsal:
            _rehearse(start, base, commands, reports)
        else:
            _attempt(start, base, commands, reports)
    except preparation.Stopped:
        stopped = worker_pb2.TrainingStopped(step=0, lease_ended=commands.lease_ended)
        reports.write(worker_pb2.TrainingReport(stopped=stopped))


def _attempt(
    start: worker_pb2.StartTraining, base: BaseModel, commands: Commands, reports: FrameWriter
) -> None:
    began_s = time.monotonic()
    tokens = _all_tokens(start, commands, reports)
    tokenised_s = time.monotonic() - began_s
    # Not before: see the top.
    from agent.training.preflight import Rehearsal
    from agent.training.session import Session

    rehearsal = None
    if start.rehearse:
        rehearsal = Rehearsal(start, base, tokens, tokenised_s, reports.write)
    Session(start, base, tokens, reports.write, rehearsal).run(commands)


def _rehearse(
    start: worker_pb2.StartTraining, base: BaseModel, commands: Commands, reports: FrameWriter
) -> None:
    began_s = time.monotonic()
    tokens = _all_tokens(start, commands, reports)
    tokenised_s = time.monotonic() - began_s
    from agent.training.loop import Outcome
    from agent.training.preflight import Rehearsal, shortened
    from agent.training.session import Session

    def report_some(report: worker_pb2.TrainingReport) -> None:
        """The others are of a job, which this is not."""
        if report.WhichOneof("report") in ("log", "beat", "paused", "resumed", "stopped"):
            reports.write(report)

    rehearsal = Rehearsal(start, base, tokens, tokenised_s, reports.write)
    trial = shortened(start, [totals.samples for _, totals in tokens])
    if Session(trial, base, tokens, report_some, rehearsal).run(commands) is Outcome.FINISHED:
        rehearsal.conclude(trial)


def _all_tokens(
    start: worker_pb2.StartTraining, commands: Commands, reports: FrameWriter
) -> list[tuple[Path, token_file.Totals]]:
    """Of each stage."""
    stages = range(len(start.spec.stages))
    return [_tokens(start, number, commands, reports) for number in stages]


def tokens_file(stage: int) -> str:
    """Its name in the job's folder; stages count from 0."""
    return f"tokens-{stage}.bin"


def _tokens(
    start: worker_pb2.StartTraining, number: int, commands: Commands, reports: FrameWriter
) -> tuple[Path, token_file.Totals]:
    """The tokens file of a stage is made once for all attempts."""
    spec, stage = start.spec, start.spec.stages[number]
    path = Path(start.job_folder) / tokens_file(number)
    key = token_file.key_of(spec.base_digest, stage.dataset_digest, spec.sequence_length)
    if totals := token_file.read_totals(path, key):
        return path, totals
    _log(reports, "Tokenising the dataset with the base model's own tokenizer.")
    name = stage.dataset_name or _UNNAMED
    totals = preparation.prepare_in_child(
        Path(start.base_path),
        Path(start.dataset_paths[number]),
        path,
        key,
        spec.sequence_length,
        name,
        commands.should_stop,
        Beat(reports.write),
    )
    if totals.examples > totals.samples:
        _log(
            reports,
            f"{name}: {totals.samples:,} samples are read as {totals.examples:,} examples, because "
            "the base model's chat template writes earlier turns otherwise once later ones follow. "
            "A step takes longer by that; what it learns from is the same.",
        )
    return path, totals


def _log(reports: FrameWriter, text: str) -> None:
    reports.write(worker_pb2.TrainingReport(log=job_pb2.LogLine(text=text)))


if __name__ == "__main__":
    sys.exit(main())
