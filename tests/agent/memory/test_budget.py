import pytest

from agent.memory.admission import SHORTEST_CONTEXT, admit_inference, admit_training
from agent.memory.budget import SMALLEST_RESERVE_BYTES, Budget, Claim, needed_bytes
from agent.memory.forecast import MB, Forecast, Part
from agent.memory.reductions import SHORTEST_SEQUENCE, smaller_recipes
from jetson.memory import MemoryReading
from protos.errors import OutOfMemory
from tests.agent.memory.models import ALL, DIGEST, forecast_of, gemma_3_1b, recipe

OTHER_DIGEST = "sha256:" + "c" * 64


def board(total_mb: int, system_mb: int = 600, reserve_mb: int = 200) -> Budget:
    return Budget(total_mb * MB, system_mb * MB, reserve_mb * MB)


def claim(own_mb: int, weights_mb: int = 0, digest: str = DIGEST, owner: str = "x") -> Claim:
    return Claim(owner, digest, Forecast((Part("all", own_mb * MB),), 0, weights_mb * MB))


def reading(total_mb: int, available_mb: int) -> MemoryReading:
    return MemoryReading(total_mb * MB, available_mb * MB, None, None, None)


def test_budget_is_what_the_system_and_the_reserve_leave() -> None:
    budget = Budget.measured(reading(8000, 7000))
    assert (budget.system_bytes, budget.reserve_bytes) == (1000 * MB, 400 * MB)
    assert budget.usable_bytes == 6600 * MB
    assert Budget.measured(reading(1000, 900)).reserve_bytes == SMALLEST_RESERVE_BYTES
    assert Budget.measured(reading(8000, 7000), 0).usable_bytes == 7000 * MB
    assert Budget.measured(reading(8000, 100)).usable_bytes == 0


def test_weights_of_one_base_count_once() -> None:
    trainer, server = claim(500, 1000), claim(200, 1000)
    stranger = claim(200, 1000, OTHER_DIGEST)
    assert board(4000).free_bytes([trainer, server]) == (3200 - 1700) * MB
    assert board(4000).free_bytes([trainer, stranger]) == (3200 - 2700) * MB


def test_last_byte_fits_and_one_more_does_not() -> None:
    exact = claim(3200)
    assert board(4000).fits(exact)
    board(4000).check(exact)
    assert not board(4000).fits(exact, [claim(1, 0)])


def test_refusal_carries_all_the_numbers() -> None:
    held = [claim(900, 1000, owner="the served model")]
    with pytest.raises(OutOfMemory) as refused:
        board(4000).check(claim(1500, 1000, owner="training job persona"), held, fix="Wait.")
    assert str(refused.value) == (
        "There is not enough memory for training job persona. "
        "It needs 1,500 MB more (the base model is in memory already) and 1,300 MB of 3,200 MB are "
        "free beside the served model; the board has 4,000 MB, of which the system uses 600 MB and "
        "200 MB are kept in reserve. Wait."
    )


def test_1b_trains_and_serves_on_a_4_gb_board() -> None:
    """The promise: Jetson Nano, 3,964 MiB, no desktop, both at once from one file."""
    nano = Budget.measured(MemoryReading(3964 << 20, 3500 << 20, None, None, None))
    trainer = admit_training(nano, gemma_3_1b(), recipe(targets=ALL), owner="the job")
    admit_inference(nano, gemma_3_1b(), DIGEST, 2048, [trainer], owner="the served model")


def test_an_engine_with_its_own_copy_does_not_unmap_the_trainers_base() -> None:
    job, copied = claim(800, 1000), claim(1400, 0)
    together = (800 + 1000 + 1400) * 1_000_000
    assert needed_bytes([job, copied]) == needed_bytes([copied, job]) == together


def test_1b_on_a_small_board_is_offered_what_fits() -> None:
    small = board(2600)
    asked = recipe(tokens=1024, targets=ALL, stored=26)
    with pytest.raises(OutOfMemory) as refused:
        admit_training(small, gemma_3_1b(), asked, owner="the job")
    assert refused.value.fix == "This fits: stored_layers: 0, sequence_length: 256."
    fitting = recipe(tokens=256, targets=ALL)
    granted = admit_training(small, gemma_3_1b(), fitting, owner="the job")
    assert granted.forecast.peak_bytes == forecast_of(gemma_3_1b(), fitting).peak_bytes
    assert granted.base_digest == DIGEST


def test_keeps_as_many_stored_layers_as_fit() -> None:
    with pytest.raises(OutOfMemory, match="This fits: stored_layers: 13"):
        admit_training(board(2700), gemma_3_1b(), recipe(stored=26), owner="the job")


def test_nothing_smaller_fits() -> None:
    with pytest.raises(OutOfMemory, match="No smaller setting fits: use a smaller base model"):
        admit_training(board(1500), gemma_3_1b(), recipe(), owner="the job")
    with pytest.raises(OutOfMemory, match="No smaller setting fits: use a smaller base model"):
        admit_inference(board(1500), gemma_3_1b(), DIGEST, 2048, owner="the served model")


def test_what_would_fit_alone_is_told_whom_it_waits_for() -> None:
    held = [claim(800, 1000, OTHER_DIGEST, owner="the served model")]
    with pytest.raises(OutOfMemory) as refused:
        admit_training(board(3000), gemma_3_1b(), recipe(), held, owner="the job")
    assert refused.value.fix.strip() == "It fits as asked without the served model."


def test_server_is_offered_a_shorter_context() -> None:
    with pytest.raises(OutOfMemory) as refused:
        admit_inference(board(2345), gemma_3_1b(), DIGEST, 32_768, owner="the served model")
    assert refused.value.fix == "A context of 8192 tokens fits."
    admit_inference(board(2345), gemma_3_1b(), DIGEST, 8192, owner="the served model")


def test_smaller_recipes_get_smaller_and_change_nothing_else() -> None:
    asked = recipe(tokens=300, rank=16, targets=ALL, stored=5)
    asked.weight_decay = 0.5
    before = asked.SerializeToString()
    smaller = list(smaller_recipes(asked))
    peaks = [forecast_of(gemma_3_1b(), one).peak_bytes for one in (asked, *smaller)]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)
    last = smaller[-1]
    assert (last.stored_layers, last.sequence_length, last.lora.rank) == (0, SHORTEST_SEQUENCE, 4)
    assert list(last.lora.targets) == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert all(one.weight_decay == 0.5 for one in smaller)
    assert asked.SerializeToString() == before


def test_smallest_recipe_has_nothing_below_it() -> None:
    assert list(smaller_recipes(recipe(tokens=64, rank=4))) == []
    assert list(smaller_recipes(recipe(tokens=10, rank=1, targets=("up_proj",)))) == []
    assert SHORTEST_CONTEXT > 0
