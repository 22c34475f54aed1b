"""Stages and evaluation: what goes on from one to the next, and a cut anywhere changes nothing."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from agent.training import checkpoint, graph, token_file
from agent.training.checkpoint import Checkpoint, CheckpointFolder, Settings
from agent.training.failures import TrainingFailure
from agent.training.recipe import held_out_split
from agent.training.samples import Samples, TokenSample
from agent.training.token_file import Example
from agent.training.trainer import FinishedStep, Progress, Trainer
from agent.training.weights import MappedWeights
from artifacts.base_model import BaseModel
from protos.nanofleet.v1 import job_pb2
from protos.recipe import held_out_samples
from tests.agent.training.driver import recipe

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


def two_stages(**changes: object) -> job_pb2.TrainSpec:
    """3 steps of 2 packed samples, then 4 at another rate; evaluated every 2 steps."""
    spec = recipe(steps=3, lora_dropout=0.2, packing=True, **changes)
    second = spec.stages.add()
    second.CopyFrom(spec.stages[0])
    second.steps, second.learning_rate = 4, 2e-2
    spec.evaluation.CopyFrom(job_pb2.Evaluation(held_out_fraction=0.25, period_steps=2))
    return spec


@pytest.fixture
def stages(tmp_path: Path) -> list[Samples]:
    found = []
    for stage in range(2):
        generator = torch.Generator().manual_seed(stage)
        path = tmp_path / f"tokens-{stage}.bin"
        samples = []
        for prompt, answer in ((5, 4), (30, 41), (12, 7), (50, 20), (9, 3), (20, 9), (70, 30)):
            tokens = torch.randint(10, 640, (prompt + answer,), generator=generator).tolist()
            samples.append([Example(tokens, [False] * prompt + [True] * answer)])
        totals = token_file.write(path, bytes(32), samples)
        found.append(Samples(path, totals, seed=7, stage=stage, held_out=2))
    return found


class Run:
    """A trainer, and all that it said."""

    def __init__(
        self,
        base: BaseModel,
        stages: Sequence[Samples],
        spec: job_pb2.TrainSpec,
        progress: Progress | None = None,
    ) -> None:
        model = graph.build(base, MappedWeights(base, torch.float32), spec)
        self.model = model
        self.trainer = Trainer(model, stages, spec, progress, packing=spec.packing)
        self.steps: list[FinishedStep] = []
        self.evaluated: list[job_pb2.Evaluated] = []

    def work(self) -> None:
        """A micro-step, or an evaluation; asked in between, as for the time to go."""
        trainer = self.trainer
        assert trainer.samples_left > 0 or trainer.evaluation_due
        if trainer.evaluation_due:
            losses = [trainer.held_out_loss(number) for number in range(trainer.held_out_count)]
            summed = sum(loss for loss, _, _ in losses)
            tokens = sum(labelled for _, _, labelled in losses)
            self.evaluated.append(trainer.note_evaluation(summed, tokens, 0.5))
        elif finished := trainer.micro_step():
            self.steps.append(finished)

    def finish(self) -> "Run":
        while not self.trainer.finished:
            self.work()
        return self

    def adapter(self) -> dict[str, torch.Tensor]:
        return {n: p.detach().clone() for n, p in self.model.parameters.items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(t, second[n]) for n, t in first.items()
    )


def test_a_cut_anywhere_changes_nothing(
    base: BaseModel, stages: list[Samples], tmp_path: Path
) -> None:
    """Also in the middle of a packed step, of an evaluation, and between the stages."""
    spec = two_stages()
    straight = Run(base, stages, spec)
    works = 0
    while not straight.trainer.finished:
        straight.work()
        works += 1
    assert [step.number for step in straight.steps] == [1, 2, 3, 4, 5, 6, 7]
    assert [step.stage for step in straight.steps] == [1, 1, 1, 2, 2, 2, 2]
    assert [(e.stage, e.step) for e in straight.evaluated] == [(1, 2), (1, 3), (2, 5), (2, 7)]
    # More than one pack in a step, fewer than its samples: cuts fall inside and packs are packed.
    assert 7 < straight.trainer.progress.micro_steps < 14
    settings = Settings(checkpoint.recipe_digest(spec), 1, "float32", True, 4096)
    for cut in range(works + 1):
        first = Run(base, stages, spec)
        for _ in range(cut):
            first.work()
        if first.trainer.evaluation_due:
            # Killed in the middle of it.
            first.trainer.held_out_loss(0)
        if not first.trainer.finished:
            done = sum(step.number > 0 for step in first.steps)
            assert first.trainer.samples_left <= (7 - done) * 2
        folder = CheckpointFolder(tmp_path / str(cut))
        folder.save(Checkpoint(settings, first.trainer.progress, first.trainer.state()))
        found = folder.newest(settings.recipe_digest)
        assert found is not None
        assert found.settings == settings
        torch.manual_seed(cut)
        second = Run(base, stages, spec, found.progress)
        second.trainer.restore(found.state)
        second.finish()
        assert first.steps + second.steps == straight.steps
        assert first.evaluated + second.evaluated == straight.evaluated
        assert same(second.trainer.state(), straight.trainer.state())


def test_the_best_adapter_is_the_result(base: BaseModel, stages: list[Samples]) -> None:
    """A rate that is far too high makes it worse after the first evaluation."""
    spec = two_stages(learning_rate=1e-3, schedule=job_pb2.SCHEDULE_CONSTANT)
    spec.stages[1].learning_rate = 3.0
    spec.stages[1].steps = 20
    spec.evaluation.period_steps = 1
    spec.evaluation.patience = 3
    run = Run(base, stages, spec)
    adapters = []
    while not run.trainer.finished:
        before = len(run.evaluated)
        adapter = run.adapter()
        run.work()
        if len(run.evaluated) > before:
            adapters.append(adapter)
    last = [(e, a) for e, a in zip(run.evaluated, adapters, strict=True) if e.stage == 2]
    assert run.trainer.progress.stopped_early
    assert len(last) < 20
    best, adapter = min(last, key=lambda pair: pair[0].loss)
    assert [e.loss for e, _ in last[-3:]] > [best.loss] * 3
    assert best.best
    assert not last[-1][0].best
    assert run.trainer.progress.best is not None
    assert run.trainer.progress.best.to_proto(best=True) == best
    assert same(run.adapter(), adapter)
    # Early, and so with fewer steps than were asked for.
    assert run.trainer.step == 3 + len(last)


def test_an_evaluation_is_the_mean_over_labelled_tokens_without_dropout(
    base: BaseModel, stages: list[Samples]
) -> None:
    run = Run(base, stages, two_stages())
    while not run.trainer.evaluation_due:
        run.work()
    random_state = torch.get_rng_state()
    first = [run.trainer.held_out_loss(number) for number in range(2)]
    assert [run.trainer.held_out_loss(number) for number in range(2)] == first
    assert torch.equal(torch.get_rng_state(), random_state)
    run.work()
    (found,) = run.evaluated
    tokens = sum(labelled for _, _, labelled in first)
    assert found.tokens == tokens
    assert found.samples == 2
    assert found.loss == pytest.approx(sum(loss for loss, _, _ in first) / tokens)
    assert found.perplexity == pytest.approx(torch.tensor(found.loss).exp().item(), rel=1e-5)


def test_what_is_held_out_is_never_trained_on(stages: list[Samples]) -> None:
    def content(sample: Sequence[TokenSample]) -> tuple[int, ...]:
        (example,) = sample
        return tuple(example.tokens.tolist())

    (first, second) = stages
    for samples in stages:
        held_out = {content(samples.held_out(number)) for number in range(2)}
        trained = {content(samples.at(number)) for number in range(50)}
        assert len(held_out) == 2
        assert len(trained) == samples.trained_count == 5
        assert not held_out & trained
        labels = sum(len(one.labelled) for number in range(5) for one in samples.at(number))
        assert samples.trained_labels == labels
    # The order differs; which of equally many samples are held out does not.
    assert torch.equal(first._held_out, second._held_out)


@pytest.mark.parametrize(
    ("samples", "fraction", "count"), [(100, 0.1, 10), (3, 0.1, 1), (1, 0.1, 1), (5, 0.0, 0)]
)
def test_at_least_one_is_held_out(samples: int, fraction: float, count: int) -> None:
    assert held_out_samples(samples, fraction) == count


def test_a_dataset_of_one_sample_cannot_be_split() -> None:
    spec = two_stages(dataset_name="tiny.jsonl")
    with pytest.raises(TrainingFailure, match=r"tiny\.jsonl has 1 sample: none is left") as caught:
        held_out_split(spec, 0, 1)
    assert caught.value.cause == job_pb2.CAUSE_BAD_DATA
    assert held_out_split(spec, 0, 8) == 2


def test_divergence_counts_steps_over_all_stages(base: BaseModel, stages: list[Samples]) -> None:
    spec = two_stages(gradient_clip=0.0, warmup_fraction=0.0)
    spec.stages[1].learning_rate = 1e30
    with pytest.raises(TrainingFailure, match=r"became (nan|inf) in step 5 of 7") as caught:
        Run(base, stages, spec).finish()
    assert "Lower the learning rate (1e+30)" in caught.value.message
