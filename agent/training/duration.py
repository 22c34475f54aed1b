"""How long a training will take, from a few of its steps and the tokens of its data.

A pass through the model costs its work, and what it costs whatever is in it (above all, the weights
become floating point once). Work is counted in tokens through the layers; a labelled token goes
through the output head, too:

    work      = tokens + share * labelled,  share = 2 head / (passes * layers)     (their weights)
    passes    = 2 + (1 - stored layers / layers) * share of gate and up in a layer's weights
    a pass    = pace * (work + overhead)

A training step passes forward and backward, which cost the same because the base has no gradients,
and computes gate and up again in each layer that is not stored. ``overhead``, in the unit of work,
is what the rehearsed passes show: the slope and intercept of their times over their work. The pace
is that of whole steps, the optimizer included, of the very stage where some of it were rehearsed;
an evaluation has a pace of its own, because it passes forward only and one sample at a time.

Early stopping is not foreseen: with it, the job takes this long at most.
"""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.memory.plan import Plan
from agent.memory.shape import Shape
from agent.training.token_file import Totals
from protos.nanofleet.v1 import job_pb2

# Below this spread of the work, relative to its mean, times say nothing about the overhead.
_LEAST_SPREAD = 0.2
# Passes that the overhead is told from: all pairs of them are compared.
_MOST_PASSES = 100


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


@dataclass(frozen=True, slots=True)
class Pass:
    """A micro-step, or a held-out sample forward."""

    tokens: int
    labelled: int
    took_s: float


@dataclass(slots=True)
class Paces:
    """What was timed, by stage (from 0). The process's first step, which reads the weights into
    memory, counts only where there is no other."""

    steps: int = 0
    # Of held-out samples.
    evaluations: list[Pass] = field(default_factory=list)
    _step: list[Pass] = field(default_factory=list)
    _steps: dict[int, list[list[Pass]]] = field(default_factory=dict)

    def note(self, one: Pass) -> None:
        """A micro-step."""
        self._step.append(one)

    def end_step(self, stage: int) -> None:
        """The micro-steps since the last call were an optimizer step."""
        if self.steps == 1:
            self._steps.clear()
        self._steps.setdefault(stage, []).append(self._step)
        self._step = []
        self.steps += 1

    def note_evaluation(self, one: Pass) -> None:
        """A held-out sample."""
        self.evaluations.append(one)

    def of(self, stage: int) -> Sequence[Sequence[Pass]]:
        """The steps of the stage; of all stages, when none of it was timed."""
        return self._steps.get(stage) or self.all

    @property
    def all(self) -> Sequence[Sequence[Pass]]:
        return list(itertools.chain.from_iterable(self._steps.values()))

    def has(self, stage: int) -> bool:
        return stage in self._steps

    def tokens_per_s(self) -> float:
        """Over all stages."""
        rates = [
            sum(one.tokens for one in step) / max(sum(one.took_s for one in step), 1e-9)
            for step in self.all
        ]
        return statistics.median(rates or [0.0])


@dataclass(frozen=True, slots=True)
class Forecast:
    """``label_share``: the work of a labelled token in the head, in tokens through the layers;
    ``overhead``: that of a pass with nothing in it."""

    paces: Paces
    label_share: float
    overhead: float

    def stages(
        self, spec: job_pb2.TrainSpec, plan: Plan, data: Sequence[StageData]
    ) -> list[job_pb2.StagePlan]:
        planned = []
        for number, (stage, found) in enumerate(zip(spec.stages, data, strict=True)):
            samples = stage.steps * spec.accumulation
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
                    duration_s=self._training_s(number, spec, plan, found)
                    + self._evaluation_s(spec, stage.steps, found),
                )
            )
        return planned

    def _training_s(
        self, number: int, spec: job_pb2.TrainSpec, plan: Plan, data: StageData
    ) -> float:
        steps = self.paces.of(number)
        if not steps:
            return 0.0
        pace = statistics.median(
            sum(one.took_s for one in step) / sum(self._cost(one) for one in step) for step in steps
        )
        totals = data.totals
        passes = spec.accumulation * totals.examples / totals.samples
        if plan.packing and self.paces.has(number):
            passes = statistics.mean(len(step) for step in steps)
        elif plan.packing:
            together = spec.accumulation * totals.tokens / totals.samples
            passes = max(1.0, together / spec.sequence_length)
        work = spec.accumulation * self._mean_work(data) + passes * self.overhead
        return spec.stages[number].steps * work * pace

    def _evaluation_s(self, spec: job_pb2.TrainSpec, steps: int, data: StageData) -> float:
        timed = self.paces.evaluations
        if not timed:
            return 0.0
        pace = statistics.median(one.took_s / self._cost(one) for one in timed)
        samples = evaluations(spec.evaluation, steps) * data.held_out
        return samples * (self._mean_work(data) + self.overhead) * pace

    def _mean_work(self, data: StageData) -> float:
        """Of a sample."""
        totals = data.totals
        return (totals.tokens + self.label_share * totals.labelled) / totals.samples

    def _cost(self, one: Pass) -> float:
        return one.tokens + self.label_share * one.labelled + self.overhead


def forecast(paces: Paces, plan: Plan, shape: Shape) -> Forecast:
    label_share = _label_share(plan, shape)
    passes = list(itertools.chain.from_iterable(paces.all))
    passes = passes[:: -(-len(passes) // _MOST_PASSES) or 1]
    points = [(one.tokens + label_share * one.labelled, one.took_s) for one in passes]
    return Forecast(paces, label_share, _overhead(points))


def evaluations(evaluation: job_pb2.Evaluation, steps: int) -> int:
    """How often the held-out samples of a stage are asked: by the period, and at its end."""
    if not evaluation.period_steps:
        return 0
    return -(-steps // evaluation.period_steps)


def _overhead(points: Sequence[tuple[float, float]]) -> float:
    """Of (work, seconds): intercept over slope, by the median of all pairs' slopes, which hiccups
    of the board do not move."""
    works = [work for work, _ in points]
    if not works or max(works) - min(works) < _LEAST_SPREAD * statistics.mean(works):
        return 0.0
    slope = statistics.median(
        (after_s - before_s) / (after - before)
        for (before, before_s), (after, after_s) in itertools.combinations(points, 2)
        if after != before
    )
    if slope <= 0:
        # As good as all of a pass is overhead.
        return max(works) * _MOST_PASSES
    return max(0.0, statistics.median(took_s - slope * work for work, took_s in points)) / slope


def _label_share(plan: Plan, shape: Shape) -> float:
    """The head is passed twice, for loss and gradient."""
    layer = sum(rows * columns for rows, columns in shape.projections.values())
    head = shape.vocabulary * shape.hidden
    return 2 * head / (_passes(plan, shape) * shape.layers * layer)


def _passes(plan: Plan, shape: Shape) -> float:
    """Of a training step, counted in passes forward."""
    sizes = {name: rows * columns for name, (rows, columns) in shape.projections.items()}
    share = (sizes["gate_proj"] + sizes["up_proj"]) / sum(sizes.values())
    return 2 + (1 - min(plan.stored_layers, shape.layers) / shape.layers) * share
