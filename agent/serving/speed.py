"""How fast tokens are being generated now, for telemetry; nothing when none are.

The engine tells an answer's speed with its end, when it is over. What people watch is the present:
the tokens that arrived within the last moments, from whichever answers. After the last one the
speed is gone, not kept.
"""

import time
from collections.abc import Callable

# At least two samples of telemetry; two tokens of a model that takes a second for one.
WINDOW_S = 2.0


class Speed:
    """``note`` on the event loop, ``tokens_per_s`` from any thread: a tuple is replaced whole."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._arrived: tuple[tuple[float, int], ...] = ()

    def note(self, tokens: int) -> None:
        """So many tokens have arrived now."""
        if tokens:
            self._arrived = (*self._recent(), (self._clock(), tokens))

    def tokens_per_s(self) -> float | None:
        """Between the first and the last arrival of the window: what came before the first one's
        time is not known, so its own tokens do not count."""
        recent = self._recent()
        if len(recent) < 2 or recent[-1][0] <= recent[0][0]:
            return None
        return sum(tokens for _, tokens in recent[1:]) / (recent[-1][0] - recent[0][0])

    def _recent(self) -> tuple[tuple[float, int], ...]:
        since_s = self._clock() - WINDOW_S
        return tuple(arrival for arrival in self._arrived if arrival[0] > since_s)
