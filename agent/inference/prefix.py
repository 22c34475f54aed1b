"""Prefix reuse: a system prompt is read once, not for every request.

The attention cache (KV) holds the tokens of the last requests, each in a sequence of its own. A
request takes over the sequence that shares its longest beginning and computes only the rest: the
first token after a prompt of 220 comes after 161 ms instead of 1,274 when 200 were cached.

Keys and values were computed *with* an adapter, so a prefix belongs to its adapter and scale as
much as to its tokens: reuse across adapters gives wrong tokens, and no error. The sequences share
one pool of cells; the least recently used ones make room. Pure: the engine carries the plan out.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    sequence: int
    # So many tokens of the prompt are in the cache already; the rest of the sequence is dropped.
    keep: int
    # Other sequences to drop first, for their cells.
    evict: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Prefix:
    key: Hashable
    tokens: tuple[int, ...]


class PrefixCache:
    """What the sequences 0 to ``sequences - 1`` hold; ``cells`` is the room for all of them.

    A sequence is unused, held (a prefix of an earlier request), or claimed by a running request.
    """

    def __init__(self, cells: int, sequences: int) -> None:
        self._cells = cells
        self._unused = list(range(sequences))
        # Least recently used first.
        self._held: dict[int, _Prefix] = {}
        # So many cells are set aside for each.
        self._claimed: dict[int, int] = {}

    def claim(self, key: Hashable, prompt: Sequence[int], reserve: int) -> Plan | None:
        """Where to compute ``prompt``, with ``reserve`` tokens after it; None when that does not
        fit beside the running requests. It is claimed until ``record``.

        The last token of the prompt is never reused: its logits are needed.
        """
        needed = len(prompt) + reserve
        sequence, keep = self._longest(key, prompt[:-1])
        if not keep:
            free = [*self._unused, *self._held]
            if not free:
                return None
            sequence = free[0]
        if needed + sum(self._claimed.values()) > self._cells:
            return None
        evict = self._evictions(sequence, needed)
        for other in (*evict, sequence):
            self._forget(other)
        self._unused.remove(sequence)
        self._claimed[sequence] = needed
        return Plan(sequence, keep, evict)

    def record(self, sequence: int, key: Hashable, tokens: Sequence[int]) -> None:
        """The request is over: its sequence holds exactly ``tokens``, computed under ``key``."""
        del self._claimed[sequence]
        if tokens:
            self._held[sequence] = _Prefix(key, tuple(tokens))
        else:
            self._unused.append(sequence)

    def _forget(self, sequence: int) -> None:
        """The held sequence is empty, or holds what must not be used again."""
        if self._held.pop(sequence, None):
            self._unused.append(sequence)

    def _longest(self, key: Hashable, prompt: Sequence[int]) -> tuple[int, int]:
        best = (0, 0)
        for sequence, prefix in self._held.items():
            if prefix.key == key:
                common = _common(prefix.tokens, prompt)
                if common > best[1]:
                    best = (sequence, common)
        return best

    def _evictions(self, keep: int, needed: int) -> tuple[int, ...]:
        others = [(s, len(prefix.tokens)) for s, prefix in self._held.items() if s != keep]
        claimed = sum(self._claimed.values())
        excess = needed + claimed + sum(size for _, size in others) - self._cells
        evict = []
        for sequence, size in others:
            if excess <= 0:
                break
            evict.append(sequence)
            excess -= size
        return tuple(evict)


def _common(held: Sequence[int], wanted: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for at, (ours, theirs) in enumerate(zip(held, wanted, strict=False)):
        if ours != theirs:
            return at
    return min(len(held), len(wanted))


def usable(keep: int, first_held: int, window: int) -> bool:
    """Whether a sequence whose oldest cached position is ``first_held`` can go on at ``keep``.

    A cache that has forgotten what lies before the sliding window (``window`` positions; 0: the
    model has none) says nothing when it is asked to go on there: the logits are silently wrong.
    It may forget even when it has room for everything, for it gives such cells to other sequences.
    """
    return 0 <= first_held <= max(0, keep - window)
