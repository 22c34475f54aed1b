"""The loop around the trainer: obeys between micro-steps, saves by the clock, tells how it goes.

             ┌───────────── PAUSE: TrainingPaused ─────────────┐
             │                                                 ▼
micro-step, micro-step, …  ◀── RESUME: TrainingResumed ──  waits, memory released;
     │             │                                       after a while a checkpoint
     │ finished    │ STOP, or the agent is gone                │ STOP
     ▼             ▼                                           ▼
checkpoint     checkpoint ─────────────────────────────▶ ends, goes on in a later attempt
"""

import enum
from collections.abc import Callable

from agent.training.commands import Commands, Order
from agent.training.trainer import FinishedStep, Trainer
from agent.workers.residency import Residency
from protos.nanofleet.v1 import job_pb2, worker_pb2
from protos.recipe import total_steps

# Pauses for one inference request are shorter, and wear no flash.
PAUSE_CHECKPOINT_AFTER_S = 5.0

Report = Callable[[worker_pb2.TrainingReport], None]


class Outcome(enum.Enum):
    FINISHED = "finished"
    STOPPED = "stopped"


class Loop:
    """``save`` writes a checkpoint and returns its size; ``release`` gives back memory that is not
    needed in a pause; ``clock`` is in seconds and never goes back."""

    def __init__(
        self,
        trainer: Trainer,
        spec: job_pb2.TrainSpec,
        commands: Commands,
        report: Report,
        *,
        save: Callable[[], int],
        release: Callable[[], None],
        residency: Callable[[], Residency],
        gpu_bytes: Callable[[], int] = lambda: 0,
        clock: Callable[[], float],
    ) -> None:
        self._trainer = trainer
        self._spec = spec
        self._commands = commands
        self._report = report
        self._save = save
        self._release = release
        self._residency = residency
        self._gpu_bytes = gpu_bytes
        self._clock = clock
        self._saved_at_s = clock()
        self._saved_work = trainer.progress.work
        self._step_s = 0.0
        self._step_micro_steps = 0
        # Without those of an earlier process, which timed them itself.
        self._step_tokens = 0

    def run(self) -> Outcome:
        """Until the last step or an order to stop; a checkpoint is on disk then."""
        outcome = Outcome.FINISHED
        while not self._trainer.finished:
            if self._obey() is Outcome.STOPPED:
                outcome = Outcome.STOPPED
                break
            if self._trainer.evaluation_due:
                if self._evaluate() is Outcome.STOPPED:
                    outcome = Outcome.STOPPED
                    break
            else:
                self._micro_step()
            if 0 < self._spec.checkpoint_period_s <= self._clock() - self._saved_at_s:
                self._checkpoint()
        self._checkpoint()
        return outcome

    def _obey(self) -> Outcome | None:
        while order := self._commands.next():
            if order is Order.STOP:
                return Outcome.STOPPED
            if order is Order.PAUSE and self._pause() is Outcome.STOPPED:
                return Outcome.STOPPED
        return None

    def _pause(self) -> Outcome | None:
        step = self._trainer.step
        self._release()
        self._report(
            worker_pb2.TrainingReport(paused=worker_pb2.TrainingPaused(step=step)),
        )
        order = self._commands.next(PAUSE_CHECKPOINT_AFTER_S)
        if order is None:
            self._checkpoint()
        while order not in (Order.RESUME, Order.STOP):
            order = self._commands.next(None)
        if order is Order.STOP:
            return Outcome.STOPPED
        self._report(
            worker_pb2.TrainingReport(resumed=worker_pb2.TrainingResumed(step=step)),
        )
        return None

    def _micro_step(self) -> None:
        began_s = self._clock()
        tokens_before = self._trainer.progress.trained_tokens
        finished = self._trainer.micro_step()
        took_s = self._clock() - began_s
        self._trainer.progress.active_s += took_s
        self._step_s += took_s
        self._step_tokens += self._trainer.progress.trained_tokens - tokens_before
        self._step_micro_steps += 1
        if finished is not None:
            self._report(worker_pb2.TrainingReport(progress=self._progress(finished)))
            self._step_s, self._step_micro_steps, self._step_tokens = 0.0, 0, 0

    def _evaluate(self) -> Outcome | None:
        """Obeys between samples. One that is broken off leaves no trace, and is done again."""
        summed_loss, tokens, took_s = 0.0, 0, 0.0
        for number in range(self._trainer.held_out_count):
            if self._obey() is Outcome.STOPPED:
                return Outcome.STOPPED
            began_s = self._clock()
            loss, labelled = self._trainer.held_out_loss(number)
            summed_loss, tokens = summed_loss + loss, tokens + labelled
            took_s += self._clock() - began_s
        evaluated = self._trainer.note_evaluation(summed_loss, tokens, took_s)
        self._report(worker_pb2.TrainingReport(evaluated=evaluated))
        return None

    def _progress(self, finished: FinishedStep) -> job_pb2.TrainProgress:
        progress, memory = self._trainer.progress, self._residency()
        took_s = progress.active_s + progress.evaluation_s
        return job_pb2.TrainProgress(
            step=finished.number,
            total_steps=total_steps(self._spec),
            stage=finished.stage,
            total_stages=len(self._spec.stages),
            loss=finished.loss,
            learning_rate=finished.learning_rate,
            gradient_norm=finished.gradient_norm,
            tokens_per_s=self._step_tokens / max(self._step_s, 1e-9),
            micro_step_s=self._step_s / self._step_micro_steps,
            anonymous_bytes=memory.anonymous_bytes,
            file_bytes=memory.file_bytes,
            time_to_go_s=self._trainer.samples_left * took_s / progress.samples,
            peak_rss_bytes=memory.peak_rss_bytes,
            peak_gpu_bytes=self._gpu_bytes(),
        )

    def _checkpoint(self) -> None:
        """Not when nothing happened since the last one."""
        if self._trainer.progress.work == self._saved_work:
            return
        size_bytes = self._save()
        self._saved_at_s = self._clock()
        self._saved_work = self._trainer.progress.work
        saved = job_pb2.CheckpointSaved(step=self._trainer.step, size_bytes=size_bytes)
        self._report(worker_pb2.TrainingReport(checkpoint=saved))
