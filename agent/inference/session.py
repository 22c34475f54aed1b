"""Serving: commands come in on one thread, requests run on another.

        pipe ──▶ listen (thread) ──▶ RequestQueue ──▶ serve (main thread) ──▶ pipe
                       │                  └── deadlines (thread): whose turn did not come in time
                       └── cancel: at once, also for a request that is running

The reader must be a thread of its own, or a cancellation would be read only after the answer that
it is to end. An engine that can answers several requests of one adapter at once, each of which may
come and go between two tokens of the others. A request that is wrong fails alone; a defect, on
either thread, is raised by ``run`` and ends the worker: the agent starts another.
"""

import threading
import time
from collections.abc import Callable, Iterator

from agent.inference import wire
from agent.inference.engine import (
    Answer,
    BatchingEngine,
    EmbedRequest,
    Engine,
    Finish,
    Piece,
    Request,
    Usage,
)
from agent.inference.failures import deadline_passed
from agent.inference.pace import Pace
from agent.inference.queue import RequestQueue, Ticket
from agent.workers.channel import FrameReader, FrameWriter
from protos.errors import InternalError, NanofleetError
from protos.nanofleet.v1 import worker_pb2


class Session:
    """Serves an opened engine until the agent closes its end of the pipe."""

    def __init__(
        self,
        engine: Engine,
        commands: FrameReader[worker_pb2.InferenceCommand],
        reports: FrameWriter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._commands = commands
        self._reports = reports
        self._clock = clock
        self._pace = Pace(engine.streams if isinstance(engine, BatchingEngine) else 1)
        self._queue = RequestQueue(self._pace, clock=clock)
        self._defect: Exception | None = None

    def run(self) -> None:
        """Returns when the agent has closed its end."""
        for name, target in (("commands", self._listen), ("deadlines", self._watch_deadlines)):
            threading.Thread(target=target, name=name, daemon=True).start()
        while ticket := self._queue.take():
            if isinstance(ticket.request, Request) and isinstance(self._engine, BatchingEngine):
                self._answer(self._engine, ticket)
            else:
                self._read(ticket)
        if self._defect:
            raise self._defect

    def _listen(self) -> None:
        try:
            while command := self._commands.read():
                self._obey(command)
        except Exception as error:  # noqa: BLE001  # raised again by run()
            self._defect = error
        finally:
            self._queue.close()

    def _watch_deadlines(self) -> None:
        try:
            while late := self._queue.expired():
                for ticket in late:
                    self._fail(ticket, deadline_passed(self._clock() - ticket.queued_s))
        except Exception as error:  # noqa: BLE001  # raised again by run()
            self._defect = error
            self._queue.close()

    def _obey(self, command: worker_pb2.InferenceCommand) -> None:
        kind = command.WhichOneof("command")
        if kind == "start":
            self._enqueue(command.start)
        elif kind == "embed":
            self._enqueue(command.embed)
        elif kind == "score":
            self._enqueue(command.score)
        elif kind == "cancel":
            self._cancel(command.cancel.request_id)
        else:
            raise InternalError(f"The agent sent {kind} to a worker that has a model open.")

    def _enqueue(self, start: wire.Start) -> None:
        try:
            priority = wire.PRIORITIES[start.request.priority]
            deadline_s = start.deadline_s or None
            self._queue.put(start.request_id, wire.request(start), priority, deadline_s)
        except NanofleetError as error:
            self._reports.write(wire.failure(start.request_id, error))

    def _cancel(self, request_id: int) -> None:
        ticket = self._queue.cancel(request_id)
        if ticket and isinstance(ticket.request, Request):
            canceled = Piece("", (), Finish.CANCELED, Usage())
            self._report(ticket, canceled, self._clock() - ticket.queued_s)

    def _answer(self, engine: BatchingEngine, first: Ticket) -> None:
        """Until nobody is left of its adapter whose turn it is."""
        running: dict[Answer, tuple[Ticket, float]] = {}
        joining: Ticket | None = first
        is_full = False
        while joining or running:
            if joining:
                is_full = not self._begin(engine, joining, running)
            if self._step(engine, running):
                is_full = False
            has_room = not is_full and len(running) < engine.streams
            joining = self._queue.take_beside(first) if has_room else None

    def _begin(
        self, engine: BatchingEngine, ticket: Ticket, running: dict[Answer, tuple[Ticket, float]]
    ) -> bool:
        """False when there is no room beside those that run: then it waits for one of them."""
        assert isinstance(ticket.request, Request)
        try:
            answer = engine.begin(ticket.request, ticket.cancelled)
        except NanofleetError as error:
            self._fail(ticket, error)
            self._queue.done(ticket)
            return True
        if answer is None:
            self._queue.put_back(ticket)
            return False
        running[answer] = ticket, self._clock()
        return True

    def _step(self, engine: BatchingEngine, running: dict[Answer, tuple[Ticket, float]]) -> bool:
        """Whether one of them has ended."""
        before = len(running)
        for answer, news in engine.step():
            ticket, began_s = running[answer]
            if isinstance(news, NanofleetError):
                self._fail(ticket, news)
            else:
                self._report(ticket, news, began_s - ticket.queued_s)
            if isinstance(news, NanofleetError) or news.finish:
                del running[answer]
                self._done(ticket, began_s)
        return len(running) < before

    def _read(self, ticket: Ticket) -> None:
        """A request that an engine serves alone."""
        began_s = self._clock()
        try:
            for report in self._reports_of(ticket, began_s - ticket.queued_s):
                self._reports.write(report)
        except NanofleetError as error:
            self._fail(ticket, error)
        self._done(ticket, began_s)

    def _reports_of(self, ticket: Ticket, queue_s: float) -> Iterator[worker_pb2.InferenceReport]:
        request, cancelled, request_id = ticket.request, ticket.cancelled, ticket.request_id
        if isinstance(request, Request):
            for piece in self._engine.generate(request, cancelled):
                yield wire.chunk(request_id, piece, queue_s)
        elif isinstance(request, EmbedRequest):
            for index, embedding in enumerate(self._engine.embed(request, cancelled)):
                yield wire.embedding(request_id, index, embedding)
        else:
            for index, score in enumerate(self._engine.score(request, cancelled)):
                yield wire.score(request_id, index, score)

    def _done(self, ticket: Ticket, began_s: float) -> None:
        self._queue.done(ticket)
        if not ticket.cancelled.is_set():
            self._pace.note(self._clock() - began_s)

    def _fail(self, ticket: Ticket, error: NanofleetError) -> None:
        self._reports.write(wire.failure(ticket.request_id, error))

    def _report(self, ticket: Ticket, piece: Piece, queue_s: float) -> None:
        self._reports.write(wire.chunk(ticket.request_id, piece, queue_s))
