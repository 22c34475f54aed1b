"""One attempt of a training, from the tokens file to the packed adapter.

Only imported once the tokenizer's process is gone: from here on torch is loaded.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from agent.memory import torch_build
from agent.memory.plan import Facts, Plan, choose, least
from agent.training import checkpoint, device, heap, libraries, precision, token_file
from agent.training.checkpoint import Checkpoint, CheckpointFolder, Settings
from agent.training.export import convert, export, write_peft
from agent.training.failures import TrainingFailure, explain
from agent.training.graph import TrainedModel, build
from agent.training.loop import Loop, Outcome, Report
from agent.training.preflight import TRIAL, Rehearsal
from agent.training.recipe import held_out_split
from agent.training.samples import Samples
from agent.training.token_file import Totals
from agent.training.trainer import Progress, Trainer
from agent.training.weights import MappedWeights
from agent.workers import own_log, residency
from agent.workers.beat import Beat
from agent.workers.commands import Commands
from agent.workers.residency import AnonymousPeak
from artifacts import digest
from artifacts.base_model import BaseModel
from protos.nanofleet.v1 import job_pb2, worker_pb2


class Session:
    """``tokens``: the tokens file of each stage of ``start``, and what it holds. ``rehearsal``: of
    a job that has had none."""

    def __init__(
        self,
        start: worker_pb2.StartTraining,
        base: BaseModel,
        tokens: Sequence[tuple[Path, Totals]],
        report: Report,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        self._start = start
        self._rehearsal = rehearsal
        self._spec = job_pb2.TrainSpec()
        self._spec.CopyFrom(start.spec)
        self._longest = max(token_file.longest(path, totals) for path, totals in tokens)
        self._base = base
        self._samples = [
            Samples(
                path,
                totals,
                start.spec.seed,
                stage=number,
                held_out=held_out_split(start.spec, number, totals.samples),
            )
            for number, (path, totals) in enumerate(tokens)
        ]
        self._send = report
        self._folder = Path(start.job_folder)
        self._checkpoints = CheckpointFolder(self._folder / checkpoint.FOLDER)

    def run(self, commands: Commands) -> Outcome:
        """Reports everything up to TrainingFinished or TrainingStopped."""
        recipe = checkpoint.recipe_digest(self._spec)
        found = self._checkpoints.newest(recipe)
        for problem in self._checkpoints.problems:
            goes_on = "The one before it is used" if found else "There is none before it"
            self._log(f"{problem}. {goes_on}.")
        if self._rehearsal and not found:
            self._rehearsal.check_data()
        if found:
            settings, where = found.settings, self._where(found.settings)
        else:
            settings, where = self._new_settings(recipe)
        torch.set_num_threads(settings.threads)
        # Chosen in each attempt anew: it changes no number.
        plan = self._plan(settings.data_type, where.device)
        self._spec.stored_layers = plan.stored_layers
        if self._start.least_memory:
            settings = self._with_least(settings, plan)
        if self._rehearsal:
            running = replace(plan, packing=settings.packing, chunk_rows=settings.chunk_rows)
            self._rehearsal.settle(
                running,
                self._facts(settings.data_type, where.device),
                settings.threads,
                settings.data_type,
            )
            if not found:
                self._rehearsal.check_memory()
        weights = MappedWeights(self._base, precision.TYPES[settings.data_type], where.device)
        with AnonymousPeak() as peak:
            model = build(self._base, weights, self._spec, settings.chunk_rows)
            trainer = self._trainer(model, settings, found)
            # Its file is mapped as long as it is held, and its pages would stay in memory.
            del found
            self._report_started(settings, trainer, where)
            libraries.leave_unused()
            with self._naming_checkpoint():
                outcome = self._loop(model, trainer, settings, commands, weights).run()
                path = None
                if outcome is Outcome.FINISHED:
                    model.release()
                    weights.scratch.release()
                    facts = (self._start, self._base, model, trainer.progress, trainer.step)
                    path = export(*facts, may_publish=lambda: not commands.lease_ended)
            peak.note(residency.measure())
        if path is None:
            outcome = Outcome.STOPPED
            ended = commands.lease_ended
            stopped = worker_pb2.TrainingStopped(step=trainer.step, lease_ended=ended)
            self._report(worker_pb2.TrainingReport(stopped=stopped))
        else:
            self._report_finished(path, trainer.progress, peak.peak_bytes, where)
        return outcome

    @contextmanager
    def _naming_checkpoint(self) -> Iterator[None]:
        """Says of a failure what it has left of the training."""
        try:
            yield
        except Exception as error:
            failed = explain(error)
            raise TrainingFailure(failed.cause, f"{failed.message} {self._kept()}") from error

    def _kept(self) -> str:
        good = self._checkpoints.good
        if good is None:
            return "No checkpoint had been written."
        return f"The checkpoint of step {self._checkpoints.good_step} was kept: {good}."

    def _new_settings(self, recipe: str) -> tuple[Settings, device.Choice]:
        threads = self._start.threads or len(os.sched_getaffinity(0))
        torch.set_num_threads(threads)
        where = device.choose(self._start.device)
        data_type = precision.choose(self._base.embedding_length, where.device)
        name = precision.NAMES[data_type]
        plan = self._plan(name, where.device)
        numbers = (plan.packing, plan.chunk_rows)
        return Settings(recipe, threads, name, *numbers, where.device.type), where

    def _where(self, settings: Settings) -> device.Choice:
        """As in the checkpoint, if that is still there: a lost GPU must not end the job."""
        where = device.choose(settings.device)
        if where.device.type != settings.device:
            self._log(f"{where.why} The checkpoint is of {settings.device}: losses may differ.")
        return where

    def _plan(self, data_type: str, where: torch.device) -> Plan:
        """Within the recipe's memory budget; raises OutOfMemory when there is none."""
        facts = self._facts(data_type, where)
        if self._start.least_memory:
            return least(self._base, self._spec, facts)
        return choose(self._base, self._spec, facts)

    def _with_least(self, settings: Settings, plan: Plan) -> Settings:
        """Packing stays as in the checkpoint, whose cursor counts by it."""
        self._log(
            "The attempt before ran out of memory. This one takes the least: no stored layers,"
            f" {plan.chunk_rows} rows of the head at a time. Losses may differ by rounding."
        )
        return replace(settings, chunk_rows=min(settings.chunk_rows, plan.chunk_rows))

    def _facts(self, data_type: str, where: torch.device) -> Facts:
        size = precision.TYPES[data_type].itemsize
        return Facts(size, self._longest, device.shares_memory(where), torch_build.installed())

    def _trainer(
        self, model: TrainedModel, settings: Settings, found: Checkpoint | None
    ) -> Trainer:
        progress = found.progress if found else Progress()
        trainer = Trainer(model, self._samples, self._spec, progress, packing=settings.packing)
        if found:
            trainer.restore(found.state)
        return trainer

    def _loop(
        self,
        model: TrainedModel,
        trainer: Trainer,
        settings: Settings,
        commands: Commands,
        weights: MappedWeights,
    ) -> Loop:
        def save() -> int:
            return self._checkpoints.save(Checkpoint(settings, trainer.progress, trainer.state()))

        def release() -> None:
            model.release()
            weights.scratch.release()
            heap.give_back()
            libraries.leave_unused()

        @contextmanager
        def trial(rehearsal: Rehearsal) -> Iterator[Path]:
            folder = self._folder / TRIAL
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                write_peft(folder, self._base, model, self._spec)
                rehearsal.check_checkpoint(self._spec, self._folder, folder)
                yield rehearsal.check_adapter(folder, lambda: convert(folder, self._base.path))
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        return Loop(
            trainer,
            self._spec,
            commands,
            self._report,
            save=save,
            release=release,
            residency=residency.measure,
            gpu_bytes=lambda: device.peak_bytes(weights.scratch.device),
            clock=time.monotonic,
            beat=Beat(self._send),
            rehearsal=self._rehearsal,
            trial=trial,
        )

    def _report_started(self, settings: Settings, trainer: Trainer, where: device.Choice) -> None:
        if settings.threads != (self._start.threads or settings.threads):
            self._log(
                f"Going on with {settings.threads} threads, as in the checkpoint: another number "
                "would give other losses."
            )
        started = worker_pb2.TrainingStarted(
            resumed_at_step=trainer.step,
            threads=settings.threads,
            data_type=settings.data_type,
            samples=sum(samples.trained_count for samples in self._samples),
            labelled_tokens=sum(samples.trained_labels for samples in self._samples),
            device=where.device.type,
            device_reason=where.why,
        )
        self._report(worker_pb2.TrainingReport(started=started))

    def _report_finished(
        self, path: Path, progress: Progress, anonymous_peak: int, where: device.Choice
    ) -> None:
        result = job_pb2.JobResult(
            adapter_digest=digest.of_file(path),
            adapter_size_bytes=path.stat().st_size,
            first_loss=progress.first_loss,
            final_loss=progress.last_loss,
            steps=progress.steps,
            trained_tokens=progress.trained_tokens,
            duration_s=progress.active_s + progress.evaluation_s,
            tokens_per_s=progress.trained_tokens / max(progress.active_s, 1e-9),
            peak_rss_bytes=residency.measure().peak_rss_bytes,
            peak_anonymous_bytes=anonymous_peak,
            peak_gpu_bytes=device.peak_bytes(where.device),
            stopped_early=progress.stopped_early,
            best=progress.best.to_proto(best=True) if progress.best else None,
        )
        finished = worker_pb2.TrainingFinished(adapter_path=str(path), result=result)
        self._report(worker_pb2.TrainingReport(finished=finished))

    def _report(self, report: worker_pb2.TrainingReport) -> None:
        """To the agent; and what is worth reading as a line of the worker's own log."""
        if line := told(report):
            own_log.say(line)
        self._send(report)

    def _log(self, text: str) -> None:
        self._report(worker_pb2.TrainingReport(log=job_pb2.LogLine(text=text)))


def told(report: worker_pb2.TrainingReport) -> str:
    """A step or an evaluation as a line of text; empty for other reports."""
    match report.WhichOneof("report"):
        case "progress":
            step = report.progress
            stage = f" (stage {step.stage}/{step.total_stages})" if step.total_stages > 1 else ""
            return (
                f"step {step.step}/{step.total_steps}{stage}  loss {step.loss:.6f}"
                f"  learning rate {step.learning_rate:.3g}"
                f"  gradient norm {step.gradient_norm:.4g}  {step.tokens_per_s:.1f} tokens/s"
            )
        case "evaluated":
            found = report.evaluated
            return (
                f"held-out loss {found.loss:.6f} after step {found.step}"
                f"  perplexity {found.perplexity:.4g}  {found.tokens} tokens of {found.samples}"
                f" samples{'  best' if found.best else ''}"
            )
    return ""
