"""The order of the requests: one at a time, by adapter, and fair all the same.

Changing the adapter rebuilds the graph and leaves the cached prefix unused, so a request with the
adapter that is set already may overtake. It may do so only from among the next few
(``LOOK_AHEAD``), and whoever is first in line is overtaken at most ``PATIENCE`` times.
The queue is bounded: beyond that, a client is better served by an honest "busy".
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from agent.inference.engine import Request
from agent.inference.failures import busy

LIMIT = 32
LOOK_AHEAD = 8
PATIENCE = 4
# A guess at one request's time on a small board; the client adds its own jitter.
RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request in the worker; ``cancelled`` ends it while it runs."""

    request_id: int
    request: Request
    queued_s: float
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def adapter_digest(self) -> str:
        return self.request.adapter.digest if self.request.adapter else ""


class RequestQueue:
    """Filled by the reader of commands, emptied by the engine's thread."""

    def __init__(self, limit: int = LIMIT, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._waiting: list[Ticket] = []
        self._running: Ticket | None = None
        self._overtaken = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, request_id: int, request: Request) -> None:
        """Raises Busy when the queue is full."""
        with self._changed:
            if len(self._waiting) >= self._limit:
                raise busy(len(self._waiting), RETRY_AFTER_S)
            self._waiting.append(Ticket(request_id, request, self._clock()))
            self._changed.notify()

    def take(self) -> Ticket | None:
        """Waits for the next request to run; None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            self._running = self._waiting.pop(self._next())
            return self._running

    def cancel(self, request_id: int) -> Ticket | None:
        """Ends a request: the running one by its event; a waiting one is removed and returned.

        None also when the request is already over: an answer and its cancellation may cross.
        """
        with self._changed:
            if self._running and self._running.request_id == request_id:
                self._running.cancelled.set()
                return None
            found = next((t for t in self._waiting if t.request_id == request_id), None)
            if found:
                if found is self._waiting[0]:
                    self._overtaken = 0
                self._waiting.remove(found)
            return found

    def close(self) -> None:
        """Nobody listens any more: ends the running request and whoever waits in ``take``."""
        with self._changed:
            self._closed = True
            if self._running:
                self._running.cancelled.set()
            self._changed.notify_all()

    def _next(self) -> int:
        """The place in the line of the request to run."""
        if self._running and self._overtaken < PATIENCE:
            wanted = self._running.adapter_digest
            near = enumerate(islice(self._waiting, LOOK_AHEAD))
            place = next((at for at, t in near if t.adapter_digest == wanted), 0)
        else:
            place = 0
        self._overtaken = self._overtaken + 1 if place else 0
        return place
