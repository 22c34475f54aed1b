"""The daemon's side of inference: one model in memory, many requests to it.

              load            ModelOpened
    (nothing) ────▶ opening ──────────────▶ ready ── requests ──▶ chunks
        ▲              │ WorkerFailed         │ worker died: its requests fail, nobody else's
        └──────────────┴──────────────────────┘ unload, or another base model when it is idle

The engine runs in its own process (agent/inference): it may crash, and its memory goes when it
ends. It is started when a request needs it; after a crash the next request starts it again.

The model that was served last is remembered (last_served.py), and loaded again at the next start
(warm_start.py).

A client that reads slowly must not grow the agent: what arrives while it does not read is merged
into one message, bounded by the context length of the model.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from agent.inference import engines
from agent.memory.calibration import predicted
from agent.memory.residents import Residents, Tell, tell_nobody
from agent.serving.adapters import Adapters, FittingAdapter
from agent.serving.deadline import Deadline
from agent.serving.generation import Reply
from agent.serving.last_served import LastServed
from agent.serving.presence import Presence
from agent.serving.session import AnyRequest, Session
from agent.threads import in_thread
from agent.workers.limits import Group
from agent.workers.process import Launcher
from artifacts import base_model, requested
from artifacts import digest as digests
from artifacts.base_model import BaseModel
from artifacts.digest import Digest
from artifacts.store import ArtifactStore
from protos.errors import DiskFull, InUse, InvalidRequest, NanofleetError, Refused
from protos.nanofleet.v1.artifact_pb2 import ARTIFACT_KIND_BASE_MODEL
from protos.nanofleet.v1.device_pb2 import DeviceEvent, LoadedModel
from protos.nanofleet.v1.inference_pb2 import (
    EmbedRequest,
    EmbedResponse,
    GenerateRequest,
    GenerateResponse,
    LoadModelResponse,
    ScoreRequest,
    ScoreResponse,
)
from protos.nanofleet.v1.worker_pb2 import (
    InferenceCommand,
    InferenceReport,
    OpenModel,
)

Q = TypeVar("Q", GenerateRequest, EmbedRequest, ScoreRequest)
R = TypeVar("R")

_LOG = logging.getLogger(__name__)

MODULE = "agent.inference.worker"
PIN_OWNER = "loaded"


@dataclass(frozen=True, slots=True)
class HostMeans:
    store: ArtifactStore
    launcher: Launcher
    adapters: Adapters
    log: Path
    context_length: int
    threads: int
    residents: Residents
    engine: str = engines.DEFAULT
    # For what the engine makes of a base; None: nothing is kept.
    cache: Path | None = None
    limit: Callable[[], Group | None] = lambda: None
    streams: int = 0  # answers at once; 0: as many as pay, measured
    last_served: LastServed = field(default_factory=LastServed)
    tell: Tell = tell_nobody


class ModelHost:
    def __init__(self, means: HostMeans, clock: Callable[[], float] = time.monotonic) -> None:
        self._means = means
        self.presence = Presence()
        self._changing = asyncio.Lock()  # one load or unload at a time
        self._holding = asyncio.Lock()  # of the model's pin and memory: taken or given back
        self._session: Session | None = None
        self._clock = clock
        self._used_s = clock()

    @property
    def pid(self) -> int | None:
        return self._session.worker.pid if self._session else None

    @property
    def tokens_per_s(self) -> float | None:
        """Of the requests that are being answered; None when nothing is generated."""
        session = self._session
        return session.speed.tokens_per_s() if session else None

    def loaded(self) -> LoadedModel | None:
        session = self._session
        if session is None:
            return None
        return LoadedModel(
            base_digest=session.base_digest,
            adapter_digests=sorted(session.adapter_digests),
            context_length=session.opened.context_length,
        )

    async def load(self, base: str, context_length: int = 0) -> LoadModelResponse:
        """Loads the model, unless it is loaded already; an idle other one makes room for it."""
        digest = digests.parse(base, "base_digest")
        async with self._changing:
            session = await self._session_for(digest, context_length)
            claim = self._means.residents.model_claim
        opened, forecast = session.opened, claim.forecast if claim else None
        return LoadModelResponse(
            base_digest=digest,
            context_length=opened.context_length,
            load_s=opened.load_s,
            anonymous_bytes=opened.anonymous_bytes,
            file_bytes=opened.file_bytes,
            predicted_bytes=predicted(forecast).anonymous_bytes if forecast else 0,
            calibrated_bytes=forecast.anonymous_bytes if forecast else 0,
        )

    async def load_for_nobody(self, base: Digest, context_length: int) -> bool:
        """As ``load``, in room that no job wants, and not in the place of another model: then it is
        not loaded."""
        async with self._changing:
            if self._session is None:
                self._session = await self._open(base, context_length, is_asked=False)
                return True
        return False

    async def unload(self) -> None:
        """Ends the worker; requests that it was busy with end with an error. Fine when idle."""
        await self._means.last_served.forget()
        await self._unload()

    async def _unload(self) -> None:
        async with self._changing:
            if self._session is not None:
                await self._end(self._session, Refused("The model was unloaded."))

    @property
    def busy(self) -> bool:
        """Whether requests run or wait, or a model is being loaded or unloaded."""
        session = self._session
        return self._changing.locked() or (session is not None and bool(session.replies))

    @property
    def quiet_s(self) -> float:
        """Since the last request ended, or the model was loaded."""
        return self._clock() - self._used_s

    async def unload_idle(self, why: str) -> None:
        """Unloads the model for the arbiter, unless somebody wants it meanwhile."""
        if self.busy:
            return
        async with self._changing:
            if self._session is not None:
                await self._end(self._session, Refused("The model was unloaded.", why=why))

    def generate(
        self, request: GenerateRequest, remaining_s: float | None = None
    ) -> AsyncGenerator[GenerateResponse, None]:
        """Streams the answer. Closing the iterator cancels the request in the worker.

        ``remaining_s``: what is left of the call's own deadline, if it has one.
        """
        return self._responses(request, Session.begin, remaining_s)

    def embed(
        self, request: EmbedRequest, remaining_s: float | None = None
    ) -> AsyncGenerator[EmbedResponse, None]:
        """As ``generate``: one response for each text."""
        return self._responses(request, Session.begin_embedding, remaining_s)

    def score(
        self, request: ScoreRequest, remaining_s: float | None = None
    ) -> AsyncGenerator[ScoreResponse, None]:
        """As ``generate``: one response for each item."""
        return self._responses(request, Session.begin_scoring, remaining_s)

    async def close(self) -> None:
        """The model is remembered."""
        await self._unload()

    async def _responses(
        self,
        request: Q,
        begin: Callable[[Session, Q], Reply[R]],
        remaining_s: float | None,
    ) -> AsyncGenerator[R, None]:
        with self.presence.of_one():
            async with aclosing(self._answered(request, begin, remaining_s)) as responses:
                async for response in responses:
                    yield response

    async def _answered(
        self,
        request: Q,
        begin: Callable[[Session, Q], Reply[R]],
        remaining_s: float | None,
    ) -> AsyncGenerator[R, None]:
        deadline = Deadline(request.deadline_s, remaining_s)
        base = digests.parse(request.base_digest, "base_digest")
        adapter = await self._adapter(request, base)
        async with self._changing:
            session = await self._session_for(base, 0)
            reply = begin(session, request)
        try:
            path = str(adapter.path) if adapter else ""
            deadline.check()
            await session.start(reply, request, path, deadline.ends_s)
            async for response in reply.responses():
                if adapter and adapter.trained_base != base:
                    _name_trained_base(response, adapter)
                yield response
            if adapter:
                await self._means.last_served.used(base, Digest(request.adapter_digest))
        finally:
            self._used_s = self._clock()
            await session.release(reply)

    async def _adapter(self, request: AnyRequest, base: Digest) -> FittingAdapter | None:
        if not request.adapter_digest:
            return None
        adapter = digests.parse(request.adapter_digest, "adapter_digest")
        return await self._means.adapters.fitting(adapter, base)

    async def _session_for(self, base: Digest, context_length: int) -> Session:
        """The session that serves the model. The caller holds the lock."""
        session = self._session
        length = context_length or self._means.context_length
        if session is not None and session.suits(base, context_length):
            return session
        if session is not None:
            if session.replies:
                raise InUse(
                    f"The device is answering {len(session.replies)} requests with another"
                    " model or context length.",
                    fix="Try again when they have ended, or unload the model.",
                )
            # What cannot be loaded must not cost the model that is.
            await asyncio.to_thread(self._admitted, base, length)
            await self._end(session, Refused("The model was unloaded."))
        self._session = await self._open(base, length)
        return self._session

    async def _open(self, base: Digest, context_length: int, *, is_asked: bool = True) -> Session:
        means = self._means
        try:
            path = await in_thread(_servable, means.store, base)
            await means.residents.enter_model(path, base, context_length, is_asked=is_asked)
            async with self._holding:
                await in_thread(means.store.pin, base, PIN_OWNER)
            worker = await means.launcher.start(
                MODULE, InferenceReport, means.log, name="inference", group=means.limit()
            )
        except BaseException:
            await self._let_go(base)
            raise
        session = Session(worker, base, on_end=self._ended, on_freed=self._adapter_freed)
        try:
            command = OpenModel(
                base_path=str(path),
                context_length=context_length,
                threads=means.threads,
                engine=means.engine,
                cache_folder=str(means.cache or ""),
                streams=means.streams,
            )
            await means.last_served.opening(base, context_length)
            await worker.send(InferenceCommand(open=command))
            await session.ready()
        except BaseException as error:
            await session.close()
            await self._let_go(base)
            if isinstance(error, NanofleetError):
                await means.last_served.forget()
                await self._tell("fail to load the model", str(error), base)
            else:  # the client has left, or the agent ends
                await means.last_served.opened()
            raise
        await means.last_served.opened()
        self._used_s = self._clock()
        opened = session.opened
        means.residents.measured_model(opened.anonymous_bytes)
        _LOG.info(
            "loaded %s in %.2f s, %d at once", digests.short(base), opened.load_s, opened.streams
        )
        return session

    def _admitted(self, base: Digest, context_length: int) -> None:
        """Raises what loading it in the place of the present model would be refused with."""
        path = _servable(self._means.store, base)
        self._means.residents.claims.of_model(path, base, context_length)

    async def _end(self, session: Session, why: Refused) -> None:
        session.fail(why)
        await session.close()
        await self._ended(session)

    async def _ended(self, session: Session) -> None:
        """The worker is gone, by our will or not."""
        if self._session is session:
            self._session = None
            await self._let_go(session.base_digest)
            if session.died:
                await self._tell("lose the model", session.death, session.base_digest)

    async def _adapter_freed(self, session: Session, adapter: str) -> None:
        why = "Another adapter needs its place; it is loaded again when a request wants it."
        await self._tell("free an adapter", why, session.base_digest, adapter)

    async def _tell(self, act: str, why: str, base: str, adapter: str = "") -> None:
        _LOG.info("%s: %s", act, why)
        await self._means.tell(
            DeviceEvent(act=act, reason=why, base_digest=base, adapter_digest=adapter)
        )

    async def _let_go(self, base: Digest) -> None:
        """In the order of what happened: a model that is loaded again right after a crash keeps
        the pin and the memory that it has claimed since."""
        async with self._holding:
            self._means.residents.leave_model()
            try:
                await in_thread(self._means.store.unpin, base, PIN_OWNER)
            except DiskFull as error:
                _LOG.warning("%s stays pinned until the next start: %s", digests.short(base), error)


def _name_trained_base(response: object, adapter: FittingAdapter) -> None:
    if isinstance(response, GenerateResponse) and response.finish_reason:
        response.trained_base_digest = adapter.trained_base


def _servable(store: ArtifactStore, base: Digest) -> Path:
    """The base model's file. Raises NotFound, or InvalidRequest when it is for training only."""
    path = requested.find(store, base, ARTIFACT_KIND_BASE_MODEL, "base_digest")
    try:
        model = base_model.read(path)
    except InvalidRequest:
        return path  # the worker explains what llama.cpp cannot read
    if model.is_for_training_only:
        raise InvalidRequest(
            f"The base model {model.name} ({digests.short(base)}) cannot be served.",
            why="Its weights are qint8, which is for training: llama.cpp has no such type.",
            fix="Serve a q8_0 of the same folder (`nanofleet model import FOLDER --type q8_0`); "
            f"{_of_its_adapters(model)}",
            reason="UNSUPPORTED_FEATURE",
            field="base_digest",
        )
    return path


def _of_its_adapters(model: BaseModel) -> str:
    """How adapters that were trained on a base that cannot be served come to speak."""
    if model.source_digest is not None:
        return "adapters that were trained on this one fit it."
    return (
        "an adapter that was trained on this one, which does not name the weights it was made of, "
        "has to be merged (`nanofleet adapter merge`) and imported."
    )
