"""Forecasts from passes whose true cost is known."""

import random
from collections.abc import Sequence

import pytest

from agent.memory.plan import Plan
from agent.memory.shape import shape_of
from agent.training import duration
from agent.training.duration import Paces, Pass, StageData
from agent.training.token_file import Totals
from protos.nanofleet.v1 import job_pb2
from tests.agent.memory.models import gemma_3_1b

SHAPE = shape_of(gemma_3_1b())
TOKEN_S, PASS_S, OPTIMIZER_S = 0.01, 0.9, 0.05
# Of the head, in tokens through the layers: no layer is stored.
LABEL_SHARE = duration.forecast(Paces(), Plan(), SHAPE).label_share


class Device:
    """Times passes as a device would whose costs are these."""

    def __init__(self, lengths: Sequence[tuple[int, int]]) -> None:
        self.lengths = lengths
        self.random = random.Random(7)

    def took_s(self, tokens: int, labelled: int) -> float:
        return TOKEN_S * (tokens + LABEL_SHARE * labelled) + PASS_S

    def rehearse(self, paces: Paces, stage: int, steps: int, accumulation: int) -> None:
        for _ in range(steps):
            for number in range(accumulation):
                tokens, labelled = self.random.choice(self.lengths)
                last_s = OPTIMIZER_S if number + 1 == accumulation else 0
                first_s = 5.0 if paces.steps == 0 else 0
                took_s = self.took_s(tokens, labelled) + last_s + first_s
                paces.note(Pass(tokens, labelled, took_s))
            paces.end_step(stage)

    @property
    def data(self) -> StageData:
        tokens, labelled = (sum(column) for column in zip(*self.lengths, strict=True))
        count = len(self.lengths)
        return StageData(Totals(count, count, tokens, labelled), longest=256, held_out=0)

    def step_s(self, accumulation: int) -> float:
        """In the mean."""
        one = sum(self.took_s(*length) for length in self.lengths) / len(self.lengths)
        return accumulation * one + OPTIMIZER_S


CHATS = Device([(length, length // 3) for length in range(30, 200, 5)])
TEXTS = Device([(length, length - 1) for length in range(150, 250, 5)])


def spec(*steps: int, accumulation: int = 4) -> job_pb2.TrainSpec:
    stages = [job_pb2.TrainStage(steps=count) for count in steps]
    return job_pb2.TrainSpec(stages=stages, accumulation=accumulation, sequence_length=256)


def foretold(paces: Paces, recipe: job_pb2.TrainSpec, *data: StageData) -> list[float]:
    found = duration.forecast(paces, Plan(packing=recipe.packing), SHAPE)
    return [stage.duration_s for stage in found.stages(recipe, Plan(packing=recipe.packing), data)]


@pytest.mark.parametrize("accumulation", [1, 4, 8])
def test_the_first_step_and_the_lengths_that_it_met_do_not_mislead(accumulation: int) -> None:
    paces = Paces()
    CHATS.rehearse(paces, 0, steps=10, accumulation=accumulation)
    (found,) = foretold(paces, spec(500, accumulation=accumulation), CHATS.data)
    assert found == pytest.approx(500 * CHATS.step_s(accumulation), rel=0.02)


def test_a_stage_that_was_not_rehearsed_is_foretold_by_its_work() -> None:
    """Texts are longer than the chats before them, and every token of theirs is labelled."""
    paces = Paces()
    CHATS.rehearse(paces, 0, steps=10, accumulation=4)
    chats, texts = foretold(paces, spec(100, 100), CHATS.data, TEXTS.data)
    assert chats == pytest.approx(100 * CHATS.step_s(4), rel=0.02)
    assert texts == pytest.approx(100 * TEXTS.step_s(4), rel=0.03)


def test_a_hiccup_of_the_board_does_not_count() -> None:
    paces = Paces()
    CHATS.rehearse(paces, 0, steps=6, accumulation=4)
    paces.note(Pass(100, 30, 60.0))
    paces.end_step(0)
    CHATS.rehearse(paces, 0, steps=3, accumulation=4)
    (found,) = foretold(paces, spec(500), CHATS.data)
    assert found == pytest.approx(500 * CHATS.step_s(4), rel=0.03)


def test_lengths_that_are_all_alike_are_enough_for_more_of_them() -> None:
    alike = Device([(128, 60)])
    paces = Paces()
    alike.rehearse(paces, 0, steps=10, accumulation=2)
    (found,) = foretold(paces, spec(50, accumulation=2), alike.data)
    assert found == pytest.approx(50 * alike.step_s(2), rel=1e-6)


def test_packed_passes_are_as_many_as_there_were() -> None:
    """Four samples to a step, two to a pass."""
    paces = Paces()
    for _ in range(10):
        for _ in range(2):
            paces.note(Pass(200, 100, CHATS.took_s(200, 100)))
        paces.end_step(0)
    data = StageData(Totals(50, 50, 5000, 2500), longest=120, held_out=0)
    recipe = spec(30)
    recipe.packing = True
    (found,) = foretold(paces, recipe, data)
    assert found == pytest.approx(30 * 2 * CHATS.took_s(200, 100), rel=1e-6)


def test_an_evaluation_has_its_own_pace() -> None:
    """Every ten steps and at the end, one sample at a time."""
    paces = Paces()
    CHATS.rehearse(paces, 0, steps=10, accumulation=4)
    for tokens, labelled in CHATS.lengths[::9]:
        paces.note_evaluation(Pass(tokens, labelled, 0.3 * CHATS.took_s(tokens, labelled)))
    recipe = spec(45)
    (without,) = foretold(paces, recipe, CHATS.data)
    recipe.evaluation.CopyFrom(job_pb2.Evaluation(held_out_fraction=0.2, period_steps=10))
    totals = CHATS.data.totals
    held_out = StageData(totals, longest=200, held_out=6)
    (found,) = foretold(paces, recipe, held_out)
    one_s = 0.3 * (CHATS.step_s(1) - OPTIMIZER_S)
    assert found - without == pytest.approx(5 * 6 * one_s, rel=0.02)


def test_nothing_timed_is_nothing_foretold() -> None:
    assert foretold(Paces(), spec(10), CHATS.data) == [0.0]
    assert Paces().tokens_per_s() == 0
