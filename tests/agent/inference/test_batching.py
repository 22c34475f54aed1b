import pytest

from agent.inference.batching import shares, worthwhile


@pytest.mark.parametrize(
    ("seconds", "streams"),
    [
        ({1: 1.0, 2: 1.1, 4: 1.6}, 4),
        ({1: 1.0, 2: 1.1, 4: 2.4}, 2),
        # Four in the time of four, as a build with bad small batches has it.
        ({1: 1.0, 2: 2.0, 4: 4.0}, 1),
        ({1: 1.0, 2: 1.9, 4: 3.6}, 1),
    ],
)
def test_so_many_as_bring_a_fifth_more(seconds: dict[int, float], streams: int) -> None:
    assert worthwhile(seconds) == streams


@pytest.mark.parametrize(
    ("pending", "given"),
    [
        ([1], [1]),
        ([100], [64]),
        # A long prompt does not stop the answers beside it.
        ([100, 1, 1], [62, 1, 1]),
        ([1, 30, 100], [1, 30, 33]),
        ([10, 20], [10, 20]),
    ],
)
def test_each_gets_one_and_the_first_the_rest(pending: list[int], given: list[int]) -> None:
    assert shares(pending, 64) == given
