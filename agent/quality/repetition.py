"""Repetition: how much of a text says again what it said before, without being a plain loop.

An adapter that was trained too long answers in phrases that come round in another order; a tail
loop does not see that, the share of repeated four-token passages does. A text of fluent prose
stays below about 0.1, a degenerate one is above 0.5.
"""

from collections.abc import Sequence

PASSAGE_TOKENS = 4


def repeated_share(tokens: Sequence[int]) -> float:
    """The share, 0 to 1, of four-token passages that occurred earlier in the text; 0 when short."""
    passages = [
        tuple(tokens[at : at + PASSAGE_TOKENS]) for at in range(len(tokens) - PASSAGE_TOKENS + 1)
    ]
    if not passages:
        return 0.0
    return 1 - len(set(passages)) / len(passages)
