"""The real training worker, run as the agent runs it, and watched from outside.

CPU time is the process's own user and system time between two progress reports: it includes what
the loop does around a micro-step and, unlike wall time, hardly moves when others use the machine.
Memory is what the kernel counted for the whole worker, imports included; the tokenizer's child is
a process of its own that is gone before training starts.
"""

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agent.workers import limits
from agent.workers.process import Launcher
from protos.nanofleet.v1 import job_pb2, worker_pb2

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_SEVEN = (*ATTENTION, "gate_proj", "up_proj", "down_proj")

# Neither in the tiny tokenizer's alphabet nor merged: a byte, and so a token, each.
_LETTERS = "$^~`@#%&*|"
# The tokenizer adds one at the beginning and one at the end of a text.
_ADDED_TOKENS = 2
_TICKS = os.sysconf("SC_CLK_TCK")


class RunFailed(Exception):
    """A run gave no figures; the text says why."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run of the worker. Each sample has exactly ``tokens`` tokens, all labelled but one."""

    base: Path
    tokens: int = 256
    samples: int = 4
    accumulation: int = 1
    threads: int = 1
    targets: Sequence[str] = ATTENTION
    packing: bool = False
    sequence_length: int = 256
    limit_bytes: int = 0  # hard, of the whole control group
    memory_budget_bytes: int = 0  # the worker stores as many layers as fit
    stop_after: int = 0  # steps; then the worker resumes in a second process
    device: str = "cpu"


@dataclass(slots=True)
class Run:
    """What one process showed. Times are of a step (``accumulation`` samples), the first excluded:
    it maps the file and fills the caches. Of a run that was stopped,
    the anonymous peak is the most that a progress report showed; of one that finished, what the
    worker itself watched."""

    peak_rss_bytes: int = 0
    peak_anonymous_bytes: int = 0
    # Of the control group, where there is one: the page cache that it brought in is counted.
    peak_group_bytes: int = 0
    # What torch took on a GPU.
    peak_gpu_bytes: int = 0
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    tokens: int = 0
    data_type: str = ""

    def plain(self) -> Mapping[str, object]:
        return asdict(self)


def train(task: Task, scratch: Path) -> list[Run]:
    """The runs of the processes that ``task`` takes: one, or two with ``stop_after``."""
    folder = Path(tempfile.mkdtemp(prefix="job.", dir=scratch))
    try:
        dataset = folder / "dataset.jsonl"
        _write_dataset(dataset, task.tokens, max(8, task.accumulation))
        if not task.stop_after:
            return [asyncio.run(_run(task, dataset, folder, 0))]
        first = asyncio.run(_run(task, dataset, folder, task.stop_after))
        return [first, asyncio.run(_run(task, dataset, folder, 0))]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_process(module: str, *arguments: str) -> Mapping[str, object]:
    """The JSON that ``python -m module`` prints last. Raises RunFailed with its last words."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RunFailed((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    answer: Mapping[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def specification(task: Task) -> job_pb2.TrainSpec:
    stage = job_pb2.TrainStage(
        dataset_digest="sha256:" + "d" * 64,
        dataset_name="dataset.jsonl",
        steps=task.samples // task.accumulation,
        learning_rate=2e-4,
        schedule=job_pb2.SCHEDULE_CONSTANT,
    )
    return job_pb2.TrainSpec(
        base_digest="sha256:" + "b" * 64,
        lora=job_pb2.LoraSpec(rank=8, alpha=16, targets=task.targets),
        sequence_length=task.sequence_length,
        memory_budget_bytes=task.memory_budget_bytes,
        accumulation=task.accumulation,
        gradient_clip=0.3,
        seed=7,
        threads=task.threads,
        stages=[stage],
        packing=task.packing,
    )


async def _run(task: Task, dataset: Path, folder: Path, stop_after: int) -> Run:
    group = _limited(task.limit_bytes, folder.name) if task.limit_bytes else None
    launcher = Launcher(folder, "benchmark")
    worker = await launcher.start(
        "agent.training.worker",
        worker_pb2.TrainingReport,
        folder / "worker.log",
        name="benchmark",
        group=group,
    )
    start = worker_pb2.StartTraining(
        job_id="01JD0000000000000000000000",
        job_name="benchmark",
        spec=specification(task),
        base_path=str(task.base),
        dataset_paths=[str(dataset)],
        job_folder=str(folder / "job"),
        threads=task.threads,
        device=task.device,
    )
    run = Run()
    last = "nothing"
    try:
        await worker.send(worker_pb2.TrainingCommand(start=start))
        cpu_before: float | None = None
        steps = 0
        async for report in worker.reports():
            last = report.WhichOneof("report") or last
            if last == "started":
                run.data_type = report.started.data_type
                if report.started.device != task.device:
                    raise RunFailed(report.started.device_reason)
            elif last == "progress":
                spent_s, progress = cpu_s(worker.pid), report.progress
                if cpu_before is not None:
                    run.cpu_s.append(spent_s - cpu_before)
                    run.wall_s.append(progress.micro_step_s * _micro_steps(task))
                cpu_before, steps = spent_s, steps + 1
                run.peak_rss_bytes = progress.peak_rss_bytes
                run.peak_anonymous_bytes = max(run.peak_anonymous_bytes, progress.anonymous_bytes)
                run.peak_group_bytes = _peak_bytes(group) if group else 0
                if steps == stop_after:
                    await worker.send(worker_pb2.TrainingCommand(stop=worker_pb2.StopTraining()))
            elif last == "finished":
                result = report.finished.result
                run.peak_rss_bytes = result.peak_rss_bytes
                run.peak_anonymous_bytes = result.peak_anonymous_bytes
                run.peak_gpu_bytes = result.peak_gpu_bytes
                run.tokens = result.trained_tokens
            elif last == "failed":
                raise RunFailed(report.failed.message)
    finally:
        worker.finish()
        ended = await worker.wait(patience_s=60)
    if last not in ("finished", "stopped"):
        memory = " for memory" if ended.out_of_memory else ""
        raise RunFailed(f"The worker ended{memory} ({ended}) after {last}: {ended.log_tail[-300:]}")
    expected = task.samples * task.tokens
    if last == "finished" and run.tokens != expected:
        raise RunFailed(f"The worker trained on {run.tokens} tokens instead of {expected}.")
    return run


def _micro_steps(task: Task) -> int:
    """Of one step. Packed, samples fill micro-steps up to the sequence length."""
    if not task.packing:
        return task.accumulation
    together = max(1, task.sequence_length // task.tokens)
    return -(-task.accumulation // together)


def _limited(limit_bytes: int, name: str) -> limits.Group:
    found = limits.find()
    if isinstance(found, limits.Absent):
        raise RunFailed(f"No memory limit can be set: {found.why}.")
    return found.make(f"benchmark-{name}", limit_bytes)


def _peak_bytes(group: limits.Group) -> int:
    """In version 2 of the kernel's interface, or in version 1."""
    files = (group.folder / "memory.peak", group.folder / "memory.max_usage_in_bytes")
    return next((int(file.read_text()) for file in files if file.exists()), 0)


def cpu_s(pid: int) -> float:
    """User and system time; fields 14 and 15 of proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _write_dataset(path: Path, tokens: int, samples: int) -> None:
    choose = random.Random(1)
    with path.open("w") as file:
        for _ in range(samples):
            text = "".join(choose.choices(_LETTERS, k=tokens - _ADDED_TOKENS))
            file.write(json.dumps({"text": text}) + "\n")
