"""The life of one inference worker: its reports go to the requests that they belong to.

When it dies, every request that it was busy with ends with WorkerFailed, and only those. One that
sends what is no report is ended: what it sends next cannot be trusted either. So is one that hangs
(agent/workers/watchdog.py).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from google.protobuf.message import Message

from agent.inference import failures
from agent.inference.pace import Pace
from agent.serving.generation import Generation, Reply, Results
from agent.serving.speed import Speed
from agent.workers import watchdog
from agent.workers.channel import FrameError
from agent.workers.process import Worker
from artifacts.digest import Digest
from protos.errors import InvalidRequest, NanofleetError, WorkerFailed
from protos.nanofleet.v1.inference_pb2 import (
    EmbedRequest,
    EmbedResponse,
    GenerateRequest,
    ScoreRequest,
    ScoreResponse,
)
from protos.nanofleet.v1.worker_pb2 import (
    CancelGeneration,
    InferenceCommand,
    InferenceReport,
    ModelOpened,
    StartEmbedding,
    StartGeneration,
    StartScoring,
)

_LOG = logging.getLogger(__name__)

AnyRequest: TypeAlias = GenerateRequest | EmbedRequest | ScoreRequest

_MOST_REQUESTS = 32
_GOODBYE_S = 5.0


class Session:
    """``on_end`` is called once, when the worker is gone, whatever the reason; ``on_freed`` with an
    adapter that made room for another."""

    def __init__(
        self,
        worker: Worker[InferenceReport],
        base_digest: Digest,
        on_end: "Callable[[Session], Awaitable[None]]",
        on_freed: "Callable[[Session, str], Awaitable[None]]",
        watch: watchdog.Limits = watchdog.Limits(),  # noqa: B008  # frozen
    ) -> None:
        self.worker = worker
        self.base_digest = base_digest
        self.opened = ModelOpened()
        self.replies: dict[int, Reply[Any]] = {}
        self.adapter_digests: set[str] = set()
        self.speed = Speed()
        self._pace = Pace()
        self._on_end = on_end
        self._on_freed = on_freed
        self._watch = watch
        # Why it ended, when it was not told to.
        self.death = ""
        self._is_closing = False
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
        generation = Generation(self._admitted(request))
        self.replies[generation.id] = generation
        return generation

    def begin_embedding(self, request: EmbedRequest) -> Results[EmbedResponse]:
        results = Results[EmbedResponse](self._admitted(request), len(request.texts))
        self.replies[results.id] = results
        return results

    def begin_scoring(self, request: ScoreRequest) -> Results[ScoreResponse]:
        results = Results[ScoreResponse](self._admitted(request), len(request.items))
        self.replies[results.id] = results
        return results

    async def start(
        self, reply: Reply[Any], request: AnyRequest, adapter: str, deadline_s: float = 0.0
    ) -> None:
        try:
            await self.worker.send(_command(reply.id, request, adapter, deadline_s))
        except FrameError:
            raise InvalidRequest("The request is too long to be sent.", field="input") from None

    async def release(self, reply: Reply[Any]) -> None:
        """The caller is done with it: one that is not complete is cancelled."""
        self.replies.pop(reply.id, None)
        if not self.replies:
            self._idle.set()
        if not reply.ended:
            cancel = CancelGeneration(request_id=reply.id)
            try:
                await self.worker.send(InferenceCommand(cancel=cancel))
            except WorkerFailed:
                _LOG.debug("request %d ended with its worker", reply.id)

    def fail(self, error: NanofleetError) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
        for reply in self.replies.values():
            reply.fail(error)

    @property
    def died(self) -> bool:
        """Ended, and nobody told it to."""
        return bool(self.death) and not self._is_closing

    async def close(self) -> None:
        self._is_closing = True
        self.worker.finish()
        await self.worker.wait(_GOODBYE_S)
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        said, hung = "", False
        try:
            async with watchdog.watching(self.worker, self._rests, self._watch) as watching:
                async for report in self.worker.reports():
                    watching.reports += 1
                    said = self._take(report) or said
                    if freed := report.adapter_freed.adapter_digest:
                        self.adapter_digests.discard(freed)
                        await self._on_freed(self, freed)
            if hung := watching.hung:
                said = watching.said("inference")
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
        self.death = said or f"The inference worker ended unexpectedly ({exit})."
        self.fail(WorkerFailed(
            self.death,
            why="" if said else last,
            fix="" if said and not hung else "Send the request again: the worker is started anew.",
        ))  # fmt: skip
        await self._on_end(self)

    def _rests(self) -> bool:
        """The model is open, and nobody asks it for anything."""
        return self._ready.done() and not self.replies

    def _take(self, report: InferenceReport) -> str:
        """Hands a report to whom it concerns; returns why the worker gives up, if it does."""
        match report.WhichOneof("report"):
            case "opened":
                self.opened = report.opened
                self._pace = Pace(max(1, report.opened.streams))
                self._ready.set_result(None)
            case "chunk":
                response = report.chunk.response
                self.speed.note(len(response.token_ids))
                if response.finish_reason:
                    self._pace.note(response.usage.prefill_s + response.usage.decode_s)
                self._pass_on(report.chunk.request_id, response)
            case "embedding":
                self._pass_on(report.embedding.request_id, report.embedding.response)
            case "score":
                self._pass_on(report.score.request_id, report.score.response)
            case "failed":
                failed = report.failed
                if reply := self.replies.get(failed.request_id):
                    reply.fail(failures.received(failed))
            case "worker_failed":
                return report.worker_failed.message
        return ""

    def _admitted(self, request: AnyRequest) -> int:
        """The number of a request that may wait. Raises Busy."""
        waiting = len(self.replies)
        if waiting >= _MOST_REQUESTS:
            raise failures.busy(waiting, self._pace.retry_after_s(waiting))
        self._requests += 1
        self._idle.clear()
        if request.adapter_digest:
            self.adapter_digests.add(request.adapter_digest)
        return self._requests

    def _pass_on(self, request_id: int, response: Message) -> None:
        if reply := self.replies.get(request_id):
            reply.add(response)


def _command(id: int, request: AnyRequest, adapter: str, deadline_s: float) -> InferenceCommand:
    if isinstance(request, GenerateRequest):
        return InferenceCommand(
            start=StartGeneration(
                request_id=id, request=request, adapter_path=adapter, deadline_s=deadline_s
            )
        )
    if isinstance(request, EmbedRequest):
        return InferenceCommand(
            embed=StartEmbedding(
                request_id=id, request=request, adapter_path=adapter, deadline_s=deadline_s
            )
        )
    return InferenceCommand(
        score=StartScoring(
            request_id=id, request=request, adapter_path=adapter, deadline_s=deadline_s
        )
    )
