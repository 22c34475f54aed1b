"""Serving: commands come in on one thread, requests run on another, one at a time.

        pipe ──▶ listen (thread) ──▶ RequestQueue ──▶ serve (main thread) ──▶ pipe
                       └── cancel: at once, also for the request that is running

The reader must be a thread of its own, or a cancellation would be read only after the answer that
it is to end. A request that is wrong fails alone; a defect, on either thread, is raised by ``run``
and ends the worker: the agent starts another.
"""

import threading
import time
from collections.abc import Callable

from agent.inference import wire
from agent.inference.engine import Engine, Finish, Piece, Usage
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
        self._queue = RequestQueue(clock=clock)
        self._defect: Exception | None = None

    def run(self) -> None:
        """Returns when the agent has closed its end."""
        listener = threading.Thread(target=self._listen, name="commands", daemon=True)
        listener.start()
        while ticket := self._queue.take():
            self._serve(ticket)
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

    def _obey(self, command: worker_pb2.InferenceCommand) -> None:
        kind = command.WhichOneof("command")
        if kind == "start":
            self._enqueue(command.start)
        elif kind == "cancel":
            self._cancel(command.cancel.request_id)
        else:
            raise InternalError(f"The agent sent {kind} to a worker that has a model open.")

    def _enqueue(self, start: worker_pb2.StartGeneration) -> None:
        try:
            self._queue.put(start.request_id, wire.request(start))
        except NanofleetError as error:
            self._reports.write(wire.failure(start.request_id, error))

    def _cancel(self, request_id: int) -> None:
        ticket = self._queue.cancel(request_id)
        if ticket:
            canceled = Piece("", (), Finish.CANCELED, Usage())
            self._report(ticket, canceled, self._clock() - ticket.queued_s)

    def _serve(self, ticket: Ticket) -> None:
        queue_s = self._clock() - ticket.queued_s
        try:
            for piece in self._engine.generate(ticket.request, ticket.cancelled):
                self._report(ticket, piece, queue_s)
        except NanofleetError as error:
            self._reports.write(wire.failure(ticket.request_id, error))

    def _report(self, ticket: Ticket, piece: Piece, queue_s: float) -> None:
        self._reports.write(wire.chunk(ticket.request_id, piece, queue_s))
