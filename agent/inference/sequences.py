"""Where a request is computed: a sequence of the attention cache, with what it holds already."""

from collections.abc import Hashable, Sequence
from typing import Protocol

from agent.inference.engine import Adapter
from agent.inference.failures import adapter_not_finite, base_not_finite
from agent.inference.prefix import PrefixCache
from agent.inference.turn import Turn
from protos.errors import Refused


def key_of(adapter: Adapter | None) -> Hashable:
    """What a cached prefix belongs to, beside its tokens."""
    return (adapter.digest, adapter.scale) if adapter else None


class Cells(Protocol):
    """What holds the keys and values: a context, a decoder."""

    def keepable(self, sequence: int, keep: int) -> int: ...

    def drop(self, sequence: int, position: int = 0) -> None: ...


class Sequences:
    """Carries out the plans of PrefixCache.

    ``whole_tokens``: a prompt is reused by so many tokens, and what was generated never is. With
    the size of a batch, what is reused was computed in the very batches that it would be computed
    in anew. 1: as much of either as is there.
    """

    def __init__(self, cells: Cells, count: int, sequences: int, whole_tokens: int = 1) -> None:
        self._cells = cells
        self._cache = PrefixCache(count, sequences)
        self._whole = whole_tokens

    def claim(self, key: Hashable, prompt: Sequence[int], reserve: int) -> Turn | None:
        """A turn that holds what is cached of the prompt; None when there is no room beside the
        running ones. To be released."""
        plan = self._cache.claim(key, prompt, reserve)
        if plan is None:
            return None
        for sequence in plan.evict:
            self._cells.drop(sequence)
        whole = self._whole_of(plan.keep)
        keep = self._cells.keepable(plan.sequence, whole) if whole else 0
        self._cells.drop(plan.sequence, keep)
        return Turn(key, plan.sequence, prompt, keep)

    def release(self, turn: Turn) -> None:
        """What the turn holds may be the prefix of another."""
        if self._whole > 1:
            whole = self._whole_of(min(len(turn.held), turn.prompt_tokens))
            self._cells.drop(turn.sequence, whole)
            turn.held = turn.held[:whole]
        self._cache.record(turn.sequence, turn.key, turn.held)

    def _whole_of(self, tokens: int) -> int:
        return tokens - tokens % self._whole

    def poisoned(self, turn: Turn) -> Refused:
        """The error of output that is not finite; what led to it must not be used again."""
        turn.held.clear()
        self._cells.drop(turn.sequence)
        return adapter_not_finite() if turn.key else base_not_finite()
