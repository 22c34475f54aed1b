"""What a memory budget chooses, at Gemma 3 1B's shape."""

import re

import pytest

from agent.memory.admission import admit_training
from agent.memory.budget import Budget
from agent.memory.forecast import MB
from agent.memory.plan import Facts, Plan, choose, peak_bytes
from agent.memory.settings import HEAD_ROWS
from protos.errors import OutOfMemory
from protos.nanofleet.v1.job_pb2 import TrainSpec
from tests.agent.memory.models import ALL, gemma_3_1b, recipe

BASE = gemma_3_1b()
BF16 = Facts(element_bytes=2)


def budgeted(mb: float, **changes: int) -> TrainSpec:
    spec = recipe(targets=ALL, **changes)
    spec.memory_budget_bytes = int(mb * MB)
    spec.packing = True
    return spec


def peak(spec: TrainSpec, plan: Plan, facts: Facts = BF16) -> int:
    return peak_bytes(BASE, spec, plan, facts)


def test_without_a_budget_the_recipe_says_it_all() -> None:
    assert choose(BASE, recipe(stored=3)) == Plan(3, HEAD_ROWS, False)
    assert choose(BASE, recipe(stored=99)).stored_layers == 26
    packed = recipe()
    packed.packing = True
    assert choose(BASE, packed, Facts(2, 30)) == Plan(0, HEAD_ROWS, True)


@pytest.mark.parametrize("mb", range(1700, 2300, 37))
def test_the_plan_fits_and_one_more_stored_layer_would_not(mb: int) -> None:
    spec = budgeted(mb)
    plan = choose(BASE, spec, BF16)
    assert peak(spec, plan) <= mb * MB
    if plan.stored_layers < 26:
        more = Plan(plan.stored_layers + 1, plan.chunk_rows, plan.packing)
        assert peak(spec, more) > mb * MB


def test_the_heads_rows_are_given_up_after_the_stored_layers_and_before_packing() -> None:
    spec = budgeted(0)
    plain = peak(spec, Plan(0, HEAD_ROWS, True))
    known = Facts(2, longest=60)
    below = budgeted(plain / MB - 1)
    assert choose(BASE, below, known) == Plan(0, HEAD_ROWS // 2, True)
    least = peak(spec, Plan(0, 512, True))
    one_by_one = choose(BASE, budgeted(least / MB - 1), known)
    assert not one_by_one.packing
    assert one_by_one.chunk_rows == HEAD_ROWS


def test_what_fits_nothing_is_refused_with_settings_that_do() -> None:
    with pytest.raises(OutOfMemory) as refused:
        choose(BASE, budgeted(1600), Facts())
    fix = refused.value.fix
    assert "memory budget of 1,600 MB" in refused.value.what
    named = re.fullmatch(
        r"This fits: memory_budget: (\d+) MB; or, within the budget, sequence_length: (\d+)\.",
        fix,
    )
    assert named, fix
    choose(BASE, budgeted(int(named[1])))
    smaller = recipe(tokens=int(named[2]), targets=ALL)
    smaller.memory_budget_bytes = 1600 * MB
    choose(BASE, smaller)


def test_a_budget_below_everything_names_the_least_one_only() -> None:
    with pytest.raises(OutOfMemory, match=r"This fits: memory_budget: \d+ MB\.$"):
        choose(BASE, budgeted(200))


def test_a_budget_that_the_smaller_data_type_could_keep_is_the_workers_to_judge() -> None:
    """The agent does not know which it finds; the claim is what it takes at most."""
    board = Budget(4000 * MB, 600 * MB, 200 * MB)
    exact = peak(budgeted(0), Plan(0, 512, True), Facts(4))
    tight = budgeted(exact / MB - 1)
    with pytest.raises(OutOfMemory, match="This fits: memory_budget") as refused:
        admit_training(board, BASE, tight, owner="the job")
    with pytest.raises(OutOfMemory) as by_worker:
        choose(BASE, tight, Facts(4))
    assert refused.value.fix == by_worker.value.fix
    claim = admit_training(board, BASE, tight, owner="the job", least_element_bytes=2)
    assert claim.forecast.peak_bytes == peak(tight, choose(BASE, tight, BF16), BF16)
    roomy = budgeted(2000)
    claim = admit_training(board, BASE, roomy, owner="the job", least_element_bytes=2)
    either = [peak(roomy, choose(BASE, roomy, facts), facts) for facts in (Facts(4), BF16)]
    assert claim.forecast.peak_bytes == max(either) <= 2000 * MB
    # What neither could keep is refused with what both can.
    with pytest.raises(OutOfMemory) as neither:
        admit_training(board, BASE, budgeted(200), owner="the job", least_element_bytes=2)
    named = re.search(r"memory_budget: (\d+) MB", neither.value.fix)
    assert named
    choose(BASE, budgeted(int(named[1])), Facts(4))


def test_a_budget_above_the_board_is_refused_with_one_that_fits() -> None:
    board = Budget(2600 * MB, 600 * MB, 200 * MB)
    with pytest.raises(OutOfMemory) as refused:
        admit_training(board, BASE, budgeted(3000), owner="the job")
    assert refused.value.fix == "This fits: memory_budget: 1800 MB."
    claim = admit_training(board, BASE, budgeted(1800), owner="the job")
    assert claim.forecast.peak_bytes <= 1800 * MB


def test_a_gpu_is_admitted_with_its_copy_of_the_weights() -> None:
    """On a board of 2.2 GB the recipe runs on the processor, and not on the GPU beside it."""
    board, spec = Budget(2200 * MB, 300 * MB, 100 * MB), recipe()
    admit_training(board, BASE, spec, owner="the job")
    with pytest.raises(OutOfMemory, match="needs 1,970 MB"):
        admit_training(board, BASE, spec, owner="the job", shared_gpu=True)
    known = Facts(shared_gpu=True)
    with pytest.raises(OutOfMemory, match="still needs"):
        choose(BASE, budgeted(1800), known)
