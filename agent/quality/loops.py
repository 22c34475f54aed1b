"""Tail loops: a small model that has lost its thread repeats itself until its tokens run out.

Every token after that costs time and heat and helps nobody, so a generation is judged at each of
its tokens: does its tail consist of one short passage, again and again? Correct answers repeat too
(a table's rule, "ha ha ha", a list of equal lines), hence the bounds are generous: the passage is
seen at least four times in a row, and the repeats fill at least 64 tokens. A stop comes late
rather than wrongly.
"""

from collections.abc import Sequence

LONGEST_PERIOD = 32
REPEATS = 4
SHORTEST_SPAN = 64


def tail_period(tokens: Sequence[int]) -> int:
    """The length in tokens of the passage that the tail repeats; 0 when it is in no loop.

    The newest token is compared first: the common case, no loop, costs a few microseconds.
    """
    for period in range(1, LONGEST_PERIOD + 1):
        span = max(SHORTEST_SPAN, REPEATS * period)
        if len(tokens) < span:
            break
        if tokens[-1] == tokens[-1 - period] and _repeats(tokens[-span:], period):
            return period
    return 0


def _repeats(tail: Sequence[int], period: int) -> bool:
    return tail[period:] == tail[:-period]
