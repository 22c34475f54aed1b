"""One request on the engine: its place in the attention cache, and where its time went."""

from collections.abc import Hashable, Sequence

from agent.inference.engine import Usage


class Turn:
    """``held`` is what the sequence holds at this moment: at first the cached prefix. ``pending``
    are the tokens to compute next: at first the rest of the prompt, then one chosen token."""

    def __init__(self, key: Hashable, sequence: int, prompt: Sequence[int], cached: int) -> None:
        self.key = key
        self.sequence = sequence
        self.prompt_tokens = len(prompt)
        self.cached = cached
        self.held = list(prompt[:cached])
        self.pending = list(prompt[cached:])
        self._prefill_s = 0.0
        self._decode_s = 0.0

    def computed(self, tokens: int) -> None:
        """So many of the pending tokens are in the cache now."""
        self.held += self.pending[:tokens]
        self.pending = self.pending[tokens:]

    def spend(self, seconds: float, *, decoding: bool) -> None:
        """The engine's time for this request. What is computed together with others counts whole
        for each: it is how long the request took. A slow reader of pieces is not in it."""
        if decoding:
            self._decode_s += seconds
        else:
            self._prefill_s += seconds

    @property
    def is_decoding(self) -> bool:
        return len(self.held) >= self.prompt_tokens

    def usage(self, completion_tokens: int) -> Usage:
        decoded = max(0, len(self.held) - self.prompt_tokens)
        return Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached,
            completion_tokens=completion_tokens,
            prefill_s=self._prefill_s,
            decode_s=self._decode_s,
            decode_tokens_per_s=decoded / self._decode_s if self._decode_s > 0 else 0.0,
        )
