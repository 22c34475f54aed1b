"""The order of the requests: by priority, then by adapter, and fair all the same.

Changing the adapter rebuilds the graph and leaves the cached prefix unused, so a request with the
adapter that is set already may overtake others of its priority. It may do so only from among the
next few (``LOOK_AHEAD``), and whoever is first in line is overtaken at most ``PATIENCE`` times. A
lower priority waits for all higher ones, however long: that is what it asks for.

A request may have a deadline for its turn: one that has waited longer is never computed. The queue
is bounded: beyond that, a client is better served by an honest "busy".
"""

import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.inference.engine import AnyRequest
from agent.inference.failures import busy
from agent.inference.pace import Pace

LIMIT = 32
LOOK_AHEAD = 8
PATIENCE = 4


class Priority(enum.IntEnum):
    LOW = 1
    NORMAL = 2
    HIGH = 3


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A request in the worker; ``cancelled`` ends it while it runs."""

    request_id: int
    request: AnyRequest
    queued_s: float
    priority: Priority = Priority.NORMAL
    # On the queue's clock; None: it may wait for ever.
    deadline_s: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def adapter_digest(self) -> str:
        return self.request.adapter.digest if self.request.adapter else ""


class RequestQueue:
    """Filled by the reader of commands, emptied by the engine's thread."""

    def __init__(
        self,
        pace: Pace,
        limit: int = LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pace = pace
        self._limit = limit
        self._clock = clock
        # By priority, and by arrival within one.
        self._waiting: list[Ticket] = []
        self._running: list[Ticket] = []
        self._adapter: str | None = None
        self._overtaken = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(
        self,
        request_id: int,
        request: AnyRequest,
        priority: Priority = Priority.NORMAL,
        deadline_s: float | None = None,
    ) -> None:
        """``deadline_s``: when its turn must have come. Raises Busy when the queue is full."""
        with self._changed:
            if len(self._waiting) >= self._limit:
                raise busy(len(self._waiting), self._pace.retry_after_s(len(self._waiting)))
            self._insert(Ticket(request_id, request, self._clock(), priority, deadline_s))

    def put_back(self, ticket: Ticket) -> None:
        """It could not run now: it is the first of its priority again."""
        with self._changed:
            self._running.remove(ticket)
            at = sum(other.priority > ticket.priority for other in self._waiting)
            self._waiting.insert(at, ticket)

    def take(self) -> Ticket | None:
        """Waits for the next request to run; None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_time() or self._closed)
            return None if self._closed else self._take(self._next())

    def take_beside(self, running: Ticket) -> Ticket | None:
        """The next request, if it is of the same kind and adapter as one that runs; never waits."""
        with self._changed:
            if self._closed or not self._in_time():
                return None
            found = self._next()
            is_alike = type(found.request) is type(running.request)
            if not is_alike or found.adapter_digest != running.adapter_digest:
                return None
            return self._take(found)

    def done(self, ticket: Ticket) -> None:
        """It has ended, however."""
        with self._changed:
            self._running.remove(ticket)

    def cancel(self, request_id: int) -> Ticket | None:
        """Ends a request: a running one by its event; a waiting one is removed and returned.

        None also when the request is already over: an answer and its cancellation may cross.
        """
        with self._changed:
            for running in self._running:
                if running.request_id == request_id:
                    running.cancelled.set()
                    return None
            found = next((t for t in self._waiting if t.request_id == request_id), None)
            if found:
                self._remove(found)
            return found

    def expired(self) -> list[Ticket]:
        """Waits until a deadline has passed; removes and returns whose it was. Empty: closed."""
        with self._changed:
            while not self._closed:
                if late := self.late():
                    return late
                deadlines = [t.deadline_s for t in self._waiting if t.deadline_s is not None]
                timeout_s = min(deadlines) - self._clock() if deadlines else None
                self._changed.wait(timeout_s)
            return []

    def late(self) -> list[Ticket]:
        """Removes and returns the requests whose deadline has passed."""
        with self._changed:
            in_time = self._in_time()
            found = [ticket for ticket in self._waiting if ticket not in in_time]
            for ticket in found:
                self._remove(ticket)
            return found

    def close(self) -> None:
        """Nobody listens any more: ends what runs, and whoever waits in ``take``."""
        with self._changed:
            self._closed = True
            for ticket in self._running:
                ticket.cancelled.set()
            self._changed.notify_all()

    def _insert(self, ticket: Ticket) -> None:
        at = sum(other.priority >= ticket.priority for other in self._waiting)
        if at == 0:
            self._overtaken = 0
        self._waiting.insert(at, ticket)
        self._changed.notify_all()

    def _remove(self, ticket: Ticket) -> None:
        if ticket is self._waiting[0]:
            self._overtaken = 0
        self._waiting.remove(ticket)

    def _take(self, ticket: Ticket) -> Ticket:
        self._overtaken = self._overtaken + 1 if ticket is not self._in_time()[0] else 0
        self._waiting.remove(ticket)
        self._adapter = ticket.adapter_digest
        self._running.append(ticket)
        return ticket

    def _in_time(self) -> list[Ticket]:
        """Those that wait and may still be computed, in their order."""
        now_s = self._clock()
        return [t for t in self._waiting if t.deadline_s is None or now_s < t.deadline_s]

    def _next(self) -> Ticket:
        """The request to run."""
        line = self._in_time()
        if self._adapter is not None and self._overtaken < PATIENCE:
            for ticket in line[:LOOK_AHEAD]:
                alike = ticket.adapter_digest == self._adapter
                if alike and ticket.priority == line[0].priority:
                    return ticket
        return line[0]
