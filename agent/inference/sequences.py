"""Where a request is computed: a sequence of the attention cache, with what it holds already."""

from collections.abc import Hashable, Sequence

from agent.inference.context import Context
from agent.inference.failures import adapter_not_finite, base_not_finite
from agent.inference.prefix import PrefixCache
from agent.inference.turn import Turn
from protos.errors import Refused


class Sequences:
    """Carries out the plans of PrefixCache on a context."""

    def __init__(self, context: Context, cells: int, sequences: int) -> None:
        self._context = context
        self._cache = PrefixCache(cells, sequences)

    def claim(self, key: Hashable, prompt: Sequence[int], reserve: int) -> Turn | None:
        """A turn that holds what is cached of the prompt; None when there is no room beside the
        running ones. To be released."""
        plan = self._cache.claim(key, prompt, reserve)
        if plan is None:
            return None
        for sequence in plan.evict:
            self._context.drop(sequence)
        keep = self._context.keepable(plan.sequence, plan.keep) if plan.keep else 0
        self._context.drop(plan.sequence, keep)
        return Turn(key, plan.sequence, prompt, keep)

    def release(self, turn: Turn) -> None:
        """What the turn holds may be the prefix of another."""
        self._cache.record(turn.sequence, turn.key, turn.held)

    def poisoned(self, turn: Turn) -> Refused:
        """The error of output that is not finite; what led to it must not be used again."""
        turn.held.clear()
        self._context.drop(turn.sequence)
        return adapter_not_finite() if turn.key else base_not_finite()
