"""Packs of samples: first-fit, nothing lost, nothing too long."""

import pytest

from agent.training.packing import packs


@pytest.mark.parametrize(
    ("lengths", "limit", "expected"),
    [
        ([], 8, []),
        ([5], 8, [[0]]),
        ([5, 4, 3, 4], 8, [[0, 2], [1, 3]]),
        ([8, 8], 8, [[0], [1]]),
        ([1, 1, 1, 1], 8, [[0, 1, 2, 3]]),
        # Not packed at all.
        ([3, 2], 0, [[0], [1]]),
    ],
)
def test_first_fit(lengths: list[int], limit: int, expected: list[list[int]]) -> None:
    assert packs(lengths, limit) == expected
