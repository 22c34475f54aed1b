"""The loop around the trainer: obeys between micro-steps, saves by the clock, tells how it goes.

             ┌───────────── PAUSE: TrainingPaused ─────────────┐
             │                                                 ▼
micro-step, micro-step, …  ◀── RESUME: TrainingResumed ──  waits, memory released;
     │             │                                       after a while a checkpoint
     │ finished    │ STOP, or the agent is gone                │ STOP
     ▼             ▼                                           ▼
checkpoint     checkpoint ─────────────────────────────▶ ends, goes on in a later attempt

A job that is rehearsed pauses once by itself. After its first steps it has a forecast, and if much
is left to do:

checkpoint ─▶ memory released ─▶ checkpoint read back, trial adapter made ─▶ TrainingRehearsed ─▶
waits, as above, for RESUME: llama.cpp has spoken with the adapter
"""

import enum
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from agent.training.duration import Pass
from agent.training.preflight import EVALUATED_SAMPLES, LONG_S, Rehearsal
from agent.training.trainer import FinishedStep, Trainer
from agent.workers.commands import Commands, Order
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
    needed in a pause; ``clock`` is in seconds and never goes back; ``beat`` is called before each
    pass. ``rehearsal`` times the steps, and has ``trial`` make an adapter of them, as the engine's
    own file."""

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
        beat: Callable[[], None] = lambda: None,
        rehearsal: Rehearsal | None = None,
        trial: Callable[[Rehearsal], AbstractContextManager[Path]] | None = None,
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
        self._beat = beat
        self._rehearsal = rehearsal
        self._trial = trial
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
                if self._rehearse() is Outcome.STOPPED:
                    outcome = Outcome.STOPPED
                    break
            if 0 < self._spec.checkpoint_period_s <= self._clock() - self._saved_at_s:
                self._checkpoint()
        self._checkpoint()
        return outcome

    def _obey(self) -> Outcome | None:
        """Between two passes, each of which is a sign of getting on."""
        self._beat()
        while order := self._commands.next():
            if order is Order.STOP:
                return Outcome.STOPPED
            if order is Order.PAUSE and self._pause() is Outcome.STOPPED:
                return Outcome.STOPPED
        return None

    def _pause(self) -> Outcome | None:
        self._release()
        paused = worker_pb2.TrainingPaused(step=self._trainer.step)
        self._report(worker_pb2.TrainingReport(paused=paused))
        return self._wait()

    def _rehearse(self) -> Outcome | None:
        """Once, after the first steps of a job that has not been rehearsed."""
        rehearsal = self._rehearsal
        if rehearsal is None or self._trainer.finished or not rehearsal.due():
            return None
        if not rehearsal.paces.evaluations and self._spec.HasField("evaluation"):
            for number in range(min(EVALUATED_SAMPLES, self._trainer.held_out_count)):
                self._held_out_loss(number)
        rehearsal.check_training()
        done = worker_pb2.TrainingRehearsed(plan=rehearsal.plan())
        progress = self._trainer.progress
        if done.plan.duration_s - progress.active_s - progress.evaluation_s < LONG_S:
            self._report(worker_pb2.TrainingReport(rehearsed=done))
            return None
        assert self._trial is not None
        self._checkpoint()
        self._release()
        with self._trial(rehearsal) as adapter:
            done.adapter_path = str(adapter)
            self._report(worker_pb2.TrainingReport(rehearsed=done))
            return self._wait()

    def _wait(self) -> Outcome | None:
        """With the memory released, until the agent wants the training to go on."""
        step = self._trainer.step
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
        tokens, labelled = self._trainer.next_tokens
        finished = self._trainer.micro_step()
        took_s = self._clock() - began_s
        self._trainer.progress.active_s += took_s
        self._step_s += took_s
        self._step_tokens += tokens
        self._step_micro_steps += 1
        if self._rehearsal:
            self._rehearsal.paces.note(Pass(tokens, labelled, took_s))
        if finished is not None:
            told = self._progress(finished)
            self._report(worker_pb2.TrainingReport(progress=told))
            if self._rehearsal:
                self._rehearsal.end_step(told)
            self._step_s, self._step_micro_steps, self._step_tokens = 0.0, 0, 0

    def _evaluate(self) -> Outcome | None:
        """Obeys between samples. One that is broken off leaves no trace, and is done again."""
        summed_loss, tokens, took_s = 0.0, 0, 0.0
        for number in range(self._trainer.held_out_count):
            if self._obey() is Outcome.STOPPED:
                return Outcome.STOPPED
            loss, one = self._held_out_loss(number)
            summed_loss, tokens = summed_loss + loss, tokens + one.labelled
            took_s += one.took_s
        evaluated = self._trainer.note_evaluation(summed_loss, tokens, took_s)
        self._report(worker_pb2.TrainingReport(evaluated=evaluated))
        return None

    def _held_out_loss(self, number: int) -> tuple[float, Pass]:
        began_s = self._clock()
        loss, tokens, labelled = self._trainer.held_out_loss(number)
        one = Pass(tokens, labelled, self._clock() - began_s)
        if self._rehearsal:
            self._rehearsal.paces.note_evaluation(one)
        return loss, one

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
