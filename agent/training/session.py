"""One attempt of a training, from the tokens file to the packed adapter.

Only imported once the tokenizer's process is gone: from here on torch and Transformers are loaded.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from agent.training import checkpoint, heap, precision
from agent.training.checkpoint import Checkpoint, CheckpointFolder, Settings
from agent.training.commands import Commands
from agent.training.export import export
from agent.training.failures import TrainingFailure, explain
from agent.training.graph import TrainedModel, build
from agent.training.loop import Loop, Outcome, Report
from agent.training.samples import Samples
from agent.training.token_file import Totals
from agent.training.trainer import Progress, Trainer
from agent.training.weights import MappedWeights
from agent.workers import residency
from agent.workers.residency import AnonymousPeak
from artifacts import digest
from artifacts.base_model import BaseModel
from protos.nanofleet.v1 import job_pb2, worker_pb2
from protos.recipe import total_steps

CHECKPOINTS = "checkpoints"


class Session:
    """``tokens`` was made from the dataset of ``start`` and holds ``totals``."""

    def __init__(
        self,
        start: worker_pb2.StartTraining,
        base: BaseModel,
        tokens: Path,
        totals: Totals,
        report: Report,
    ) -> None:
        self._start = start
        self._spec = start.spec
        self._base = base
        self._samples = Samples(tokens, totals, start.spec.seed)
        self._report = report
        self._checkpoints = CheckpointFolder(Path(start.job_folder) / CHECKPOINTS)

    def run(self, commands: Commands) -> Outcome:
        """Reports everything up to TrainingFinished or TrainingStopped."""
        recipe = checkpoint.recipe_digest(self._spec)
        found = self._checkpoints.newest(recipe)
        for problem in self._checkpoints.problems:
            self._log(problem)
        settings = found.settings if found else self._new_settings(recipe)
        torch.set_num_threads(settings.threads)
        weights = MappedWeights(self._base, precision.TYPES[settings.data_type])
        with AnonymousPeak() as peak:
            model = build(self._base, weights, self._spec)
            trainer = self._trainer(model, found)
            self._report_started(settings, trainer)
            with self._naming_checkpoint():
                outcome = self._loop(trainer, settings, commands, weights).run()
                if outcome is Outcome.FINISHED:
                    path = export(
                        self._start, self._base, model, trainer.progress, total_steps(self._spec)
                    )
            peak.note(residency.measure())
        if outcome is Outcome.STOPPED:
            stopped = worker_pb2.TrainingStopped(step=trainer.step)
            self._report(worker_pb2.TrainingReport(stopped=stopped))
        else:
            self._report_finished(path, trainer.progress, peak.peak_bytes)
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
        step = int(good.stem) // self._spec.accumulation
        return f"The checkpoint of step {step} was kept: {good}."

    def _new_settings(self, recipe: str) -> Settings:
        threads = self._start.threads or len(os.sched_getaffinity(0))
        torch.set_num_threads(threads)
        data_type = precision.choose(self._base.embedding_length)
        return Settings(recipe, threads, precision.NAMES[data_type])

    def _trainer(self, model: TrainedModel, found: Checkpoint | None) -> Trainer:
        if found is None:
            return Trainer(model, self._samples, self._spec, Progress())
        trainer = Trainer(model, self._samples, self._spec, found.progress)
        trainer.restore(found.state)
        return trainer

    def _loop(
        self, trainer: Trainer, settings: Settings, commands: Commands, weights: MappedWeights
    ) -> Loop:
        def save() -> int:
            return self._checkpoints.save(Checkpoint(settings, trainer.progress, trainer.state()))

        def release() -> None:
            weights.scratch.release()
            heap.give_back()

        return Loop(
            trainer,
            self._spec,
            commands,
            self._report,
            save=save,
            release=release,
            residency=residency.measure,
            clock=time.monotonic,
        )

    def _report_started(self, settings: Settings, trainer: Trainer) -> None:
        if settings.threads != (self._start.threads or settings.threads):
            self._log(
                f"Going on with {settings.threads} threads, as in the checkpoint: another number "
                "would give other losses."
            )
        started = worker_pb2.TrainingStarted(
            resumed_at_step=trainer.step,
            threads=settings.threads,
            data_type=settings.data_type,
            samples=self._samples.totals.samples,
            labelled_tokens=self._samples.totals.labelled,
        )
        self._report(worker_pb2.TrainingReport(started=started))

    def _report_finished(self, path: Path, progress: Progress, anonymous_peak: int) -> None:
        result = job_pb2.JobResult(
            adapter_digest=digest.of_file(path),
            adapter_size_bytes=path.stat().st_size,
            first_loss=progress.first_loss,
            final_loss=progress.last_loss,
            steps=total_steps(self._spec),
            trained_tokens=progress.trained_tokens,
            duration_s=progress.active_s,
            tokens_per_s=progress.trained_tokens / max(progress.active_s, 1e-9),
            peak_rss_bytes=residency.measure().peak_rss_bytes,
            peak_anonymous_bytes=anonymous_peak,
        )
        finished = worker_pb2.TrainingFinished(adapter_path=str(path), result=result)
        self._report(worker_pb2.TrainingReport(finished=finished))

    def _log(self, text: str) -> None:
        self._report(worker_pb2.TrainingReport(log=job_pb2.LogLine(text=text)))
