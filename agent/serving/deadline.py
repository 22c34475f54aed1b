"""When a request's turn must have come: by its own wish, and by the deadline of its call.

Counted from its arrival at the agent. The adapter may have to be unpacked and the model loaded
before the worker's queue sees the request, so it is told what is left by then.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from agent.inference.failures import deadline_passed
from protos.errors import InvalidRequest
from protos.nanofleet.v1.inference_pb2 import EmbedRequest, GenerateRequest, ScoreRequest

Q = TypeVar("Q", GenerateRequest, EmbedRequest, ScoreRequest)


class Deadline:
    """``asked_s`` of the request, 0 for none; ``call_s``: what is left of the call, None for all
    the time in the world."""

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
        self._limits_s = [limit for limit in (asked_s or None, call_s) if limit is not None]

    def applied(self, request: Q) -> Q:
        """The request with what is left now. Raises TimedOut when nothing is."""
        if not self._limits_s:
            return request
        waited_s = self._clock() - self._began_s
        left_s = min(self._limits_s) - waited_s
        if left_s <= 0:
            raise deadline_passed(waited_s)
        changed = type(request)()
        changed.CopyFrom(request)
        changed.deadline_s = left_s
        return changed
