"""One request on the engine: its place in the attention cache, and where its time went."""

import time
from collections.abc import Callable, Hashable
from types import TracebackType

from agent.inference.engine import Usage


class Stopwatch:
    """Adds up the time spent inside its ``with`` blocks: a slow reader of pieces is not in it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began_s = 0.0
        self.total_s = 0.0

    def __enter__(self) -> None:
        self._began_s = self._clock()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.total_s += self._clock() - self._began_s


class Turn:
    """``held`` is what the sequence holds at this moment: at first the cached prefix."""

    def __init__(
        self,
        key: Hashable,
        sequence: int,
        prompt: list[int],
        cached: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.key = key
        self.sequence = sequence
        self.prompt = prompt
        self.cached = cached
        self.held = prompt[:cached]
        self.prefill = Stopwatch(clock)
        self.decode = Stopwatch(clock)

    def usage(self, completion_tokens: int) -> Usage:
        decoded = max(0, len(self.held) - len(self.prompt))
        decode_s = self.decode.total_s
        return Usage(
            prompt_tokens=len(self.prompt),
            cached_tokens=self.cached,
            completion_tokens=completion_tokens,
            prefill_s=self.prefill.total_s,
            decode_s=decode_s,
            decode_tokens_per_s=decoded / decode_s if decode_s > 0 else 0.0,
        )
