"""A real training worker in a process of its own, driven over its pipe as the agent does it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agent.workers.channel import FrameReader, FrameWriter
from protos.nanofleet.v1 import job_pb2, worker_pb2

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BASE_DIGEST = "sha256:" + "b" * 64
DATASET_DIGEST = "sha256:" + "d" * 64


def recipe(**changes: object) -> job_pb2.TrainSpec:
    """A whole recipe for the tiny model; ``changes`` are fields of TrainSpec, of its only stage, or
    of its LoRA with the prefix ``lora_``."""
    spec = job_pb2.TrainSpec(
        base_digest=BASE_DIGEST,
        lora=job_pb2.LoraSpec(rank=4, alpha=8, targets=TARGETS, dropout=0),
        sequence_length=160,
        accumulation=2,
        stages=[
            job_pb2.TrainStage(
                dataset_digest=DATASET_DIGEST,
                steps=4,
                learning_rate=1e-2,
                schedule=job_pb2.SCHEDULE_COSINE,
                warmup_fraction=0.1,
            )
        ],
        gradient_clip=1.0,
        seed=7,
        threads=1,
    )
    for name, value in changes.items():
        target = spec.lora if name.startswith("lora_") else spec
        field = name.removeprefix("lora_")
        if field == "targets":
            target.ClearField(field)
            target.targets.extend(value)
        else:
            of_stage = field in job_pb2.TrainStage.DESCRIPTOR.fields_by_name
            setattr(spec.stages[0] if of_stage else target, field, value)
    return spec


class Worker:
    """A context manager; at its end the process is gone, whatever it was doing.

    ``dataset``: that of all stages, or one for each. ``rehearse``: a job that rehearses itself;
    ``plan``: a rehearsal alone; ``device``: as in StartTraining.
    """

    def __init__(
        self,
        base: Path,
        dataset: Path | Sequence[Path],
        folder: Path,
        spec: job_pb2.TrainSpec,
        threads: int = 1,
        *,
        rehearse: bool = False,
        plan: bool = False,
        device: str = "cpu",
    ) -> None:
        datasets = [dataset] * len(spec.stages) if isinstance(dataset, Path) else dataset
        self.start = worker_pb2.StartTraining(
            job_id="01JD0000000000000000000000",
            job_name="persona",
            spec=spec,
            base_path=str(base),
            dataset_paths=[str(path) for path in datasets],
            job_folder=str(folder),
            threads=threads,
            device=device,
            rehearse=rehearse,
        )
        self._plan = plan
        self._log = folder.with_name(f"{folder.name}.log")

    def __enter__(self) -> "Worker":
        commands, self._commands = os.pipe()
        self._reports, reports = os.pipe()
        command = [sys.executable, "-m", "agent.training.worker", "--parent", str(os.getpid())]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--commands", str(commands), "--reports", str(reports)],
                pass_fds=(commands, reports),
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},
            )
        os.close(commands)
        os.close(reports)
        self._writer = FrameWriter(self._commands)
        self._reader = FrameReader(self._reports, worker_pb2.TrainingReport)
        if self._plan:
            self.send(rehearse=worker_pb2.RehearseTraining(start=self.start))
        else:
            self.send(start=self.start)
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self.process.kill()
        self.process.wait()
        self._reader._file.close()

    def send(self, **command: object) -> None:
        self._writer.write(worker_pb2.TrainingCommand(**command))

    def reports(self) -> Iterator[worker_pb2.TrainingReport]:
        """Until the worker closes its end; without its beats, which come by the clock."""
        while (report := self._reader.read()) is not None:
            if not report.HasField("beat"):
                yield report

    def until(
        self, wanted: Callable[[worker_pb2.TrainingReport], bool]
    ) -> list[worker_pb2.TrainingReport]:
        """The reports up to the wanted one, which must come."""
        seen = []
        for report in self.reports():
            seen.append(report)
            if wanted(report):
                return seen
        raise AssertionError(f"the worker ended after {seen[-3:]}\n{self.log()}")

    def finish(self) -> list[worker_pb2.TrainingReport]:
        """All reports until the process has ended."""
        seen = list(self.reports())
        self.process.wait()
        return seen

    def log(self) -> str:
        return self._log.read_text()


def losses(reports: list[worker_pb2.TrainingReport]) -> dict[int, str]:
    """Exactly, by step."""
    found = [r.progress for r in reports if r.WhichOneof("report") == "progress"]
    return {progress.step: progress.loss.hex() for progress in found}


def failure(reports: list[worker_pb2.TrainingReport]) -> worker_pb2.WorkerFailed:
    """The last report, which must be one."""
    last = reports[-1]
    assert last.WhichOneof("report") == "failed", last
    return last.failed
