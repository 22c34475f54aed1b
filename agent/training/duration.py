"""How long a training will take, from a few of its steps and the tokens of its data.

Time is counted by real tokens: a stage takes its tokens times the seconds a token took in the
rehearsed steps of that very stage, whose samples are drawn as the job's are. An evaluation passes
each held-out sample forward only. A training step passes forward and backward, which cost the same
because the base has no gradients, and computes gate and up again in each layer that is not stored:

    passes     = 2 + (1 - stored layers / layers) * share of gate and up in a layer's weights
    evaluation = held-out tokens * seconds per token / passes

Early stopping is not foreseen: with it, the job takes this long at most.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.memory.plan import Plan
from agent.memory.shape import Shape
from agent.training.token_file import Totals
from protos.nanofleet.v1 import job_pb2, worker_pb2


@dataclass(frozen=True, slots=True)
class StageData:
    totals: Totals
    # Tokens of the longest sample.
    longest: int
    held_out: int

    @property
    def trained(self) -> int:
        """Samples that are trained on."""
        return self.totals.samples - self.held_out

    @property
    def mean_tokens(self) -> float:
        return self.totals.tokens / self.totals.samples


# Steps of a stage that read the weights into memory and warm up.
_WARM_UP = 2


@dataclass(slots=True)
class StepTimes:
    """Takes the session's reports in as they come. A stage's first steps count only where it has no
    others. Of the rest the median counts, which a hiccup of the board does not move."""

    threads: int = 0
    data_type: str = ""
    last: job_pb2.TrainProgress = field(default_factory=job_pb2.TrainProgress)
    # Seconds for a real token in each step, by stage.
    _paces: dict[int, list[float]] = field(default_factory=dict)

    def started(self, started: worker_pb2.TrainingStarted) -> None:
        self.threads, self.data_type = started.threads, started.data_type

    def note(self, progress: job_pb2.TrainProgress) -> None:
        if progress.tokens_per_s > 0:
            self._paces.setdefault(progress.stage, []).append(1 / progress.tokens_per_s)
        self.last.CopyFrom(progress)

    def seconds_per_token(self, stage: int) -> float:
        """``stage`` counts from 1."""
        paces = self._paces.get(stage, [])
        return statistics.median(paces[_WARM_UP:] or paces or [0.0])

    def tokens_per_s(self) -> float:
        """Over all stages."""
        warm = [pace for paces in self._paces.values() for pace in paces[_WARM_UP:]]
        return 1 / statistics.median(warm) if warm else self.last.tokens_per_s


def stage_plans(
    spec: job_pb2.TrainSpec, plan: Plan, shape: Shape, data: Sequence[StageData], times: StepTimes
) -> list[job_pb2.StagePlan]:
    planned = []
    for number, (stage, found) in enumerate(zip(spec.stages, data, strict=True), start=1):
        token_s = times.seconds_per_token(number)
        samples = stage.steps * spec.accumulation
        passes = _passes(plan, shape)
        evaluated = evaluations(spec.evaluation, stage.steps) * found.held_out
        counted = samples + evaluated / passes
        share = found.trained / found.totals.samples
        planned.append(
            job_pb2.StagePlan(
                dataset_name=stage.dataset_name,
                samples=found.trained,
                tokens=round(found.totals.tokens * share),
                labelled_tokens=round(found.totals.labelled * share),
                longest_tokens=found.longest,
                held_out_samples=found.held_out,
                steps=stage.steps,
                epochs=samples / found.trained,
                duration_s=counted * found.mean_tokens * token_s,
            )
        )
    return planned


def _passes(plan: Plan, shape: Shape) -> float:
    """Of a training step, counted in passes forward."""
    sizes = {name: rows * columns for name, (rows, columns) in shape.projections.items()}
    share = (sizes["gate_proj"] + sizes["up_proj"]) / sum(sizes.values())
    return 2 + (1 - min(plan.stored_layers, shape.layers) / shape.layers) * share


def evaluations(evaluation: job_pb2.Evaluation, steps: int) -> int:
    """How often the held-out samples of a stage are asked: by the period, and at its end."""
    if not evaluation.period_steps:
        return 0
    return -(-steps // evaluation.period_steps)
