"""One micro-step after another: loss, gradients, and an optimizer step when enough are summed.

Everything that decides the next number is in the model's adapters, the optimizer, torch's random
state and Progress; ``state`` and ``restore`` move exactly that in and out of a checkpoint. The loss
of a step is the mean over its labelled tokens, whichever micro-step they are in, so that short
answers weigh as much as their tokens and no more.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from agent.training.failures import TrainingFailure, bad_spec
from agent.training.graph import TrainedModel
from agent.training.optimizer import AdamW
from agent.training.samples import Samples
from agent.training.schedule import learning_rate
from protos.nanofleet.v1 import job_pb2

_RANDOM_STATE = "random_state"


@dataclass(slots=True)
class Progress:
    """How far the training is. ``step_loss`` and ``step_tokens`` are of the unfinished step."""

    micro_steps: int = 0
    step_loss: float = 0.0
    step_tokens: int = 0
    first_loss: float = math.nan
    last_loss: float = math.nan
    trained_tokens: int = 0
    active_s: float = 0.0

    def to_json(self) -> dict[str, float | int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """``number`` counts from 1; ``gradient_norm`` is before clipping."""

    number: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int


class Trainer:
    def __init__(
        self,
        model: TrainedModel,
        samples: Samples,
        spec: job_pb2.TrainSpec,
        progress: Progress | None = None,
    ) -> None:
        self.progress = progress or Progress()
        self._model = model
        self._samples = samples
        self._spec = spec
        self._stage = spec.stages[0]
        self._optimizer = AdamW(model.parameters, spec.weight_decay)

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.progress.micro_steps // self._spec.accumulation

    @property
    def finished(self) -> bool:
        return self.step >= self._stage.steps

    def micro_step(self) -> FinishedStep | None:
        """Trains on the next sample; the step, if this was its last. Raises TrainingFailure."""
        progress = self.progress
        sample = self._samples.at(progress.micro_steps)
        loss = self._model.summed_loss(sample) / self._labelled_in_step()
        self._check_finite(loss.item(), "loss")
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        progress.step_loss += loss.item()
        progress.step_tokens += len(sample.tokens)
        progress.trained_tokens += len(sample.tokens)
        finished = None
        if (progress.micro_steps + 1) % self._spec.accumulation == 0:
            finished = self._optimizer_step()
        progress.micro_steps += 1
        return finished

    def state(self) -> dict[str, Tensor]:
        """Everything but Progress, as tensors by name; not copied."""
        found = {_RANDOM_STATE: torch.get_rng_state()}
        for name, parameter in self._model.parameters.items():
            found[f"adapter.{name}"] = parameter.detach()
            found[f"first_moment.{name}"] = self._optimizer.first_moments[name]
            found[f"second_moment.{name}"] = self._optimizer.second_moments[name]
            if parameter.grad is not None:
                found[f"gradient.{name}"] = parameter.grad
        return found

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of ``state``, for a Trainer made with the Progress of that moment."""
        for name, parameter in self._model.parameters.items():
            parameter.copy_(state[f"adapter.{name}"])
            self._optimizer.first_moments[name].copy_(state[f"first_moment.{name}"])
            self._optimizer.second_moments[name].copy_(state[f"second_moment.{name}"])
            gradient = state.get(f"gradient.{name}")
            parameter.grad = None if gradient is None else gradient.clone()
        self._optimizer.steps = self.step
        torch.set_rng_state(state[_RANDOM_STATE])

    def _optimizer_step(self) -> FinishedStep:
        progress, step = self.progress, self.step
        norm = self._optimizer.clip(self._spec.gradient_clip)
        self._check_finite(norm, "gradient")
        rate = learning_rate(self._stage, step)
        self._optimizer.step(rate)
        self._optimizer.clear()
        if step == 0:
            progress.first_loss = progress.step_loss
        progress.last_loss = progress.step_loss
        finished = FinishedStep(step + 1, progress.step_loss, rate, norm, progress.step_tokens)
        progress.step_loss, progress.step_tokens = 0.0, 0
        return finished

    def _labelled_in_step(self) -> int:
        first = self.step * self._spec.accumulation
        return sum(
            self._samples.labelled_count(number)
            for number in range(first, first + self._spec.accumulation)
        )

    def _check_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise self._diverged(what, value)

    def _diverged(self, what: str, value: float) -> TrainingFailure:
        return bad_spec(
            f"The {what} became {value} in step {self.step + 1} of {self._stage.steps}: the "
            f"training diverged. Lower the learning rate ({self._stage.learning_rate:g}), or set "
            "gradient_clip and a warm-up."
        )
