"""Which examples of an optimizer step share a micro-step.

First-fit: each example goes into the first pack that has room for it, in the order of the training.
A pure function of the lengths, so that a resumed step is cut as it was.
"""

from collections.abc import Sequence


def packs(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """The places of the examples, by pack; a pack has at most ``limit`` tokens. An example that
    is longer has a pack of its own."""
    found: list[list[int]] = []
    room: list[int] = []
    for place, length in enumerate(lengths):
        fitting = next((number for number, left in enumerate(room) if length <= left), None)
        if fitting is None:
            found.append([place])
            room.append(limit - length)
        else:
            found[fitting].append(place)
            room[fitting] -= length
    return found
