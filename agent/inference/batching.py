"""Several answers in one batch: what it brings, and who gets which part of it.

To compute one token, all weights are read from memory; the tokens of other sequences in the same
batch use them too. How much that brings depends on board and build (1.3 to 2.4 times with four
streams, measured, or nothing), so it is measured when a model is opened. Pure.
"""

from collections.abc import Mapping, Sequence

# Answers at once delay each other; less than this is not worth it.
LEAST_GAIN = 1.2


def worthwhile(seconds: Mapping[int, float]) -> int:
    """How many streams at once, from the time of one batch with a token of each of so many."""
    best = max(seconds, key=lambda streams: streams / seconds[streams])
    return best if best * seconds[1] >= LEAST_GAIN * seconds[best] else 1


def shares(pending: Sequence[int], room: int) -> list[int]:
    """How many of each one's pending tokens go into a batch of ``room`` tokens.

    One of each first, so that a long prompt does not stop the answers beside it; then the first.
    """
    given = [min(1, tokens) for tokens in pending]
    left = room - sum(given)
    for number, tokens in enumerate(pending):
        more = min(tokens - given[number], left)
        given[number] += more
        left -= more
    return given
