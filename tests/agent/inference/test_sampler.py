import pytest

from agent.inference.sampler import folded_seed


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31, 2**32 - 2])
def test_small_seeds_are_taken_as_they_are(seed: int) -> None:
    assert folded_seed(seed) == seed


@pytest.mark.parametrize("seed", [2**32 - 1, 0xFFFFFFFF << 32])
def test_no_seed_means_random(seed: int) -> None:
    assert folded_seed(seed) == 0xFFFFFFFE


def test_the_high_half_counts() -> None:
    assert folded_seed(2**40 + 5) not in (5, folded_seed(2**41 + 5))
    assert 0 <= folded_seed(2**64 - 1) < 2**32
