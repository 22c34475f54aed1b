"""When a request's turn must have come: by its own wish, and by the deadline of its call.

Counted from its arrival at the agent. The adapter may have to be unpacked and the model loaded
before the worker's queue sees the request, so the worker is told the moment, not what is left.
"""

import time
from collections.abc import Callable

from agent.inference.failures import deadline_passed
from protos.errors import InvalidRequest


class Deadline:
    """``asked_s`` of the request, 0 for none; ``call_s``: what is left of the call, None for all
    the time in the world. ``ends_s`` is on the clock; 0: never."""

    def __init__(
        self,
        asked_s: float,
        call_s: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Also of what is no number.
        if not asked_s >= 0:
            raise InvalidRequest(
                f"deadline_s is {asked_s}.", why="It is in seconds; 0 is none.", field="deadline_s"
            )
        self._clock = clock
        self._began_s = clock()
        limits_s = [limit for limit in (asked_s or None, call_s) if limit is not None]
        self.ends_s = self._began_s + min(limits_s) if limits_s else 0.0

    def check(self) -> None:
        """Raises TimedOut when it has passed."""
        now_s = self._clock()
        if self.ends_s and now_s >= self.ends_s:
            raise deadline_passed(now_s - self._began_s)
