"""One micro-step after another: loss, gradients, and an optimizer step when enough are summed.

    stage 1: step, step, …, evaluation, step, …, evaluation ─▶ stage 2: …  ─▶ finished
             with the adapter before it, and a fresh optimizer     (its best adapter, if evaluated)

Everything that decides the next number is in the model's adapters, the optimizer, torch's random
state and Progress; ``state`` and ``restore`` move exactly that in and out of a checkpoint. The loss
of a step is the mean over its labelled tokens, whichever micro-step they are in, so that short
answers weigh as much as their tokens and no more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from agent.training.failures import TrainingFailure, bad_spec
from agent.training.graph import TrainedModel
from agent.training.optimizer import AdamW
from agent.training.packing import packs
from agent.training.samples import Samples, TokenSample
from agent.training.schedule import learning_rate
from protos.nanofleet.v1 import job_pb2

_RANDOM_STATE = "random_state"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """``loss``: mean in nats over ``tokens`` labelled tokens of ``samples`` held-out samples.
    ``step`` is of all stages; ``stage`` counts from 1."""

    step: int
    stage: int
    loss: float
    tokens: int
    samples: int
    took_s: float

    def to_proto(self, *, best: bool) -> job_pb2.Evaluated:
        try:
            perplexity = math.exp(self.loss)
        except OverflowError:
            perplexity = math.inf
        return job_pb2.Evaluated(perplexity=perplexity, best=best, **asdict(self))


@dataclass(slots=True)
class Progress:
    """How far the training is: the cursor is (stage, stage_step, step_micro_steps), each counted
    from 0. ``step_loss`` and ``step_tokens`` are of the unfinished step; ``best`` is of the stage,
    and once all have ended of the last one."""

    stage: int = 0
    stage_step: int = 0
    step_micro_steps: int = 0
    # Over all stages; the samples are those of finished steps.
    steps: int = 0
    micro_steps: int = 0
    samples: int = 0
    evaluations: int = 0
    step_loss: float = 0.0
    step_tokens: int = 0
    first_loss: float = math.nan
    last_loss: float = math.nan
    trained_tokens: int = 0
    active_s: float = 0.0
    evaluation_s: float = 0.0
    # The stage's step of the last evaluation, and how many in a row were no better.
    evaluated_step: int = 0
    no_better: int = 0
    best: Evaluation | None = None
    stopped_early: bool = False

    @property
    def work(self) -> int:
        """Rises with whatever is done, and so orders checkpoints."""
        return self.micro_steps + self.evaluations

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> "Progress":
        """Raises TypeError for fields that are not its own."""
        progress = cls(**fields)  # type: ignore[arg-type]
        if isinstance(progress.best, dict):
            progress.best = Evaluation(**progress.best)
        return progress


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """``number`` counts from 1 over all stages, ``stage`` from 1; ``gradient_norm`` is before
    clipping."""

    number: int
    stage: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int


class Trainer:
    """``stages`` are the samples of each stage of the recipe."""

    def __init__(
        self,
        model: TrainedModel,
        stages: Sequence[Samples],
        spec: job_pb2.TrainSpec,
        progress: Progress | None = None,
        *,
        packing: bool = False,
    ) -> None:
        self.progress = progress or Progress()
        self._model = model
        self._samples = stages
        self._spec = spec
        self._packing = packing
        self._optimizer = AdamW(model.parameters, spec.weight_decay)
        self._best: dict[str, Tensor] = {}
        self._packs: list[list[TokenSample]] = []
        self._labelled = 0

    @property
    def step(self) -> int:
        """Optimizer steps done, of all stages."""
        return self.progress.steps

    @property
    def finished(self) -> bool:
        return self.progress.stage >= len(self._spec.stages)

    @property
    def samples_left(self) -> int:
        """Of steps that are not finished, and at most: a stage may end early."""
        steps = sum(stage.steps for stage in self._spec.stages[self.progress.stage :])
        return (steps - self.progress.stage_step) * self._spec.accumulation

    @property
    def next_tokens(self) -> tuple[int, int]:
        """Of the next micro-step: its tokens, and how many of them are labelled."""
        pack = self._step_packs()[self.progress.step_micro_steps]
        return sum(len(one.tokens) for one in pack), sum(len(one.labelled) for one in pack)

    @property
    def evaluation_due(self) -> bool:
        """A pure function of the cursor: an evaluation that was broken off is due again."""
        progress = self.progress
        if self.finished or not self._spec.HasField("evaluation"):
            return False
        at_step_end = progress.step_micro_steps == 0 and progress.stage_step > 0
        is_period = progress.stage_step % self._spec.evaluation.period_steps == 0
        is_last = progress.stage_step >= self._stage.steps
        is_new = progress.evaluated_step != progress.stage_step
        return at_step_end and is_new and (is_period or is_last)

    @property
    def held_out_count(self) -> int:
        """Samples of the stage's evaluation."""
        return self._samples[self.progress.stage].held_out_count

    def held_out_loss(self, number: int) -> tuple[float, int, int]:
        """The loss summed over one held-out sample's labelled tokens; its tokens, and how many of
        them are labelled."""
        examples = self._samples[self.progress.stage].held_out(number)
        with torch.no_grad():
            summed_loss = sum(self._model.summed_loss(example).item() for example in examples)
        tokens = sum(len(example.tokens) for example in examples)
        return summed_loss, tokens, sum(len(example.labelled) for example in examples)

    def note_evaluation(self, summed_loss: float, tokens: int, took_s: float) -> job_pb2.Evaluated:
        """Takes in a whole evaluation: keeps the adapter if it is the best of its stage, ends the
        stage if it was the last one. Raises TrainingFailure."""
        progress, asked = self.progress, self._spec.evaluation
        found = Evaluation(
            progress.steps,
            progress.stage + 1,
            summed_loss / tokens,
            tokens,
            self.held_out_count,
            took_s,
        )
        self._check_finite(found.loss, "held-out loss", progress.steps)
        is_best = progress.best is None or found.loss < progress.best.loss
        progress.evaluated_step = progress.stage_step
        progress.evaluations += 1
        progress.evaluation_s += took_s
        if is_best:
            progress.best, progress.no_better = found, 0
            self._best = {n: p.detach().clone() for n, p in self._model.parameters.items()}
        else:
            progress.no_better += 1
        is_over = progress.stage_step >= self._stage.steps
        if not is_over and 0 < asked.patience <= progress.no_better:
            is_over = progress.stopped_early = True
        if is_over:
            self._end_stage()
        return found.to_proto(best=is_best)

    def micro_step(self) -> FinishedStep | None:
        """Trains on the next examples; the step, if these were its last. Raises TrainingFailure."""
        progress = self.progress
        step = self._step_packs()
        pack = step[progress.step_micro_steps]
        loss = self._model.summed_loss(*pack) / self._labelled
        self._check_finite(loss.item(), "loss", progress.steps + 1)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        tokens = sum(len(sample.tokens) for sample in pack)
        progress.step_loss += loss.item()
        progress.step_tokens += tokens
        progress.trained_tokens += tokens
        finished = self._optimizer_step() if progress.step_micro_steps + 1 == len(step) else None
        progress.micro_steps += 1
        if finished is None:
            progress.step_micro_steps += 1
        return finished

    def state(self) -> dict[str, Tensor]:
        """Everything but Progress, as tensors by name; not copied."""
        found = {_RANDOM_STATE: torch.get_rng_state()}
        found |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        for name, parameter in self._model.parameters.items():
            found[f"adapter.{name}"] = parameter.detach()
            found[f"first_moment.{name}"] = self._optimizer.first_moments[name]
            found[f"second_moment.{name}"] = self._optimizer.second_moments[name]
            if parameter.grad is not None:
                found[f"gradient.{name}"] = parameter.grad
        return found

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of ``state``, for a Trainer made with the Progress of that moment. Takes one
        tensor at a time, so that a mapping may read them from a file as they are asked for."""
        for name, parameter in self._model.parameters.items():
            parameter.copy_(state[f"adapter.{name}"])
            self._optimizer.first_moments[name].copy_(state[f"first_moment.{name}"])
            self._optimizer.second_moments[name].copy_(state[f"second_moment.{name}"])
            has_gradient = f"gradient.{name}" in state
            parameter.grad = state[f"gradient.{name}"].clone() if has_gradient else None
            if f"best.{name}" in state:
                self._best[name] = state[f"best.{name}"].clone()
        self._optimizer.steps = self.progress.stage_step
        torch.set_rng_state(state[_RANDOM_STATE])

    @property
    def _stage(self) -> job_pb2.TrainStage:
        return self._spec.stages[self.progress.stage]

    def _step_packs(self) -> list[list[TokenSample]]:
        """The examples of the step's samples, by micro-step."""
        if not self._packs:
            count = self._spec.accumulation
            samples = self._samples[self.progress.stage]
            first = self.progress.stage_step * count
            numbers = range(first, first + count)
            step = [example for number in numbers for example in samples.at(number)]
            lengths = [len(example.tokens) for example in step]
            limit = self._spec.sequence_length if self._packing else 0
            self._packs = [[step[n] for n in pack] for pack in packs(lengths, limit)]
            self._labelled = sum(len(example.labelled) for example in step)
        return self._packs

    def _optimizer_step(self) -> FinishedStep:
        progress = self.progress
        norm = self._optimizer.clip(self._spec.gradient_clip)
        self._check_finite(norm, "gradient", progress.steps + 1)
        rate = learning_rate(self._stage, progress.stage_step)
        self._optimizer.step(rate)
        self._optimizer.clear()
        if progress.steps == 0:
            progress.first_loss = progress.step_loss
        progress.last_loss = progress.step_loss
        progress.steps += 1
        progress.stage_step += 1
        progress.samples += self._spec.accumulation
        finished = FinishedStep(
            progress.steps,
            progress.stage + 1,
            progress.step_loss,
            rate,
            norm,
            progress.step_tokens,
        )
        progress.step_loss, progress.step_tokens, progress.step_micro_steps = 0.0, 0, 0
        self._packs = []
        if progress.stage_step >= self._stage.steps and not self._spec.HasField("evaluation"):
            self._end_stage()
        return finished

    @torch.no_grad()
    def _end_stage(self) -> None:
        """The next one begins with the best adapter and an optimizer that knows nothing."""
        progress = self.progress
        for name, tensor in self._best.items():
            self._model.parameters[name].copy_(tensor)
        self._best, self._packs = {}, []
        progress.stage += 1
        progress.stage_step = progress.evaluated_step = progress.no_better = 0
        if not self.finished:
            progress.best = None
        self._optimizer.reset()

    def _check_finite(self, value: float, what: str, step: int) -> None:
        if not math.isfinite(value):
            raise self._diverged(what, value, step)

    def _diverged(self, what: str, value: float, step: int) -> TrainingFailure:
        total = sum(stage.steps for stage in self._spec.stages)
        return bad_spec(
            f"The {what} became {value} in step {step} of {total}: the training diverged. Lower "
            f"the learning rate ({self._stage.learning_rate:g}), or set gradient_clip and a "
            "warm-up."
        )
