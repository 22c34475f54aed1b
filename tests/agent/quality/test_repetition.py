import pytest

from agent.quality.repetition import repeated_share


@pytest.mark.parametrize(
    ("tokens", "share"),
    [
        ([], 0.0),
        ([1, 2, 3], 0.0),
        ([1, 2, 3, 4], 0.0),
        (list(range(50)), 0.0),
        ([1, 2, 3, 4, 1, 2, 3, 4], 0.2),
        ([1] * 23, 0.95),
    ],
)
def test_share_of_passages_that_came_before(tokens: list[int], share: float) -> None:
    assert repeated_share(tokens) == pytest.approx(share)


def test_phrases_that_come_round_in_another_order_are_seen() -> None:
    first, second, third = range(10), range(10, 20), range(20, 30)
    tokens = [*first, *second, *third, *second, *first, *third, *second]
    assert repeated_share(tokens) > 0.4
