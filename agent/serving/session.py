"""The life of one inference worker: its reports go to the requests that they belong to.

When it dies, every request that it was busy with ends with WorkerFailed, and only those. One that
sends what is no report is ended: what it sends next cannot be trusted either.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from agent.inference import failures
from agent.serving.generation import Generation
from agent.serving.speed import Speed
from agent.workers.channel import FrameError
from agent.workers.process import Worker
from artifacts.digest import Digest
from protos.errors import Busy, InvalidRequest, NanofleetError, WorkerFailed
from protos.nanofleet.v1.inference_pb2 import GenerateRequest
from protos.nanofleet.v1.worker_pb2 import (
    CancelGeneration,
    InferenceCommand,
    InferenceReport,
    ModelOpened,
    StartGeneration,
)

_LOG = logging.getLogger(__name__)

_MOST_REQUESTS = 32
_GOODBYE_S = 5.0


class Session:
    """``on_end`` is called once, when the worker is gone, whatever the reason."""

    def __init__(
        self,
        worker: Worker[InferenceReport],
        base_digest: Digest,
        on_end: "Callable[[Session], Awaitable[None]]",
    ) -> None:
        self.worker = worker
        self.base_digest = base_digest
        self.opened = ModelOpened()
        self.generations: dict[int, Generation] = {}
        self.adapter_digests: set[str] = set()
        self.speed = Speed()
        self._on_end = on_end
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(), name=f"inference reports {worker.pid}")

    def suits(self, base: Digest, context_length: int) -> bool:
        same_length = context_length in (0, self.opened.context_length)
        return self.base_digest == base and same_length and not self._reader.done()

    async def ready(self) -> None:
        """Raises WorkerFailed when the model cannot be opened."""
        await self._ready

    async def idle(self) -> None:
        """Returns when no request is under way."""
        await self._idle.wait()

    def begin(self, request: GenerateRequest) -> Generation:
        if len(self.generations) >= _MOST_REQUESTS:
            raise Busy(f"{_MOST_REQUESTS} requests wait on this device already.", retry_after_s=5)
        self._requests += 1
        generation = Generation(self._requests)
        self.generations[generation.id] = generation
        self._idle.clear()
        if request.adapter_digest:
            self.adapter_digests.add(request.adapter_digest)
        return generation

    async def start(self, generation: Generation, request: GenerateRequest, adapter: str) -> None:
        start = StartGeneration(request_id=generation.id, request=request, adapter_path=adapter)
        try:
            await self.worker.send(InferenceCommand(start=start))
        except FrameError:
            raise InvalidRequest("The prompt is too long to be sent.", field="input") from None

    async def release(self, generation: Generation) -> None:
        """The caller is done with it: an answer that is not complete is cancelled."""
        self.generations.pop(generation.id, None)
        if not self.generations:
            self._idle.set()
        if not generation.ended:
            cancel = CancelGeneration(request_id=generation.id)
            try:
                await self.worker.send(InferenceCommand(cancel=cancel))
            except WorkerFailed:
                _LOG.debug("request %d ended with its worker", generation.id)

    def fail(self, error: NanofleetError) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
        for generation in self.generations.values():
            generation.fail(error)

    async def close(self) -> None:
        self.worker.finish()
        await self.worker.wait(_GOODBYE_S)
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        said = ""
        try:
            async for report in self.worker.reports():
                said = self._take(report) or said
        except FrameError as error:
            said = f"The inference worker sent what is no report: {error}."
            self.worker.kill()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            _LOG.exception("inference worker %d is given up", self.worker.pid)
            said = f"The inference worker sent a report that cannot be taken in: {error!r}."
            self.worker.kill()
        self.worker.finish()
        exit = await self.worker.wait(_GOODBYE_S)
        last = exit.log_tail.strip().rpartition("\n")[2]
        self.fail(WorkerFailed(
            said or f"The inference worker ended unexpectedly ({exit}).",
            why="" if said else last,
            fix="" if said else "Send the request again: the worker is started anew.",
        ))  # fmt: skip
        await self._on_end(self)

    def _take(self, report: InferenceReport) -> str:
        """Hands a report to whom it concerns; returns why the worker gives up, if it does."""
        match report.WhichOneof("report"):
            case "opened":
                self.opened = report.opened
                self._ready.set_result(None)
            case "chunk":
                response = report.chunk.response
                self.speed.note(len(response.token_ids))
                if generation := self.generations.get(report.chunk.request_id):
                    generation.add(response)
            case "failed":
                failed = report.failed
                if generation := self.generations.get(failed.request_id):
                    generation.fail(failures.received(failed))
            case "worker_failed":
                return report.worker_failed.message
        return ""
