"""llama.cpp speaks with a rehearsal's trial adapter, in the worker that would serve it.

What it says does not matter: that the file is read, fits the base, and gives finite numbers does.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

from agent.jobs.means import Means
from agent.workers import watchdog
from agent.workers.channel import FrameError
from agent.workers.process import Worker
from agent.workers.watchdog import Watchdog
from artifacts import base_model
from artifacts.base_model import BaseModel
from artifacts.store import ArtifactStore
from protos import errors
from protos.errors import InvalidRequest, NotFound
from protos.nanofleet.v1 import inference_pb2
from protos.nanofleet.v1.artifact_pb2 import ARTIFACT_KIND_BASE_MODEL
from protos.nanofleet.v1.job_pb2 import CAUSE_OOM, PlanCheck
from protos.nanofleet.v1.worker_pb2 import (
    InferenceCommand,
    InferenceReport,
    OpenModel,
    StartGeneration,
    WorkerFailed,
)

CHECK = "generation"
_MODULE = "agent.inference.worker"
_WORKER = "rehearsal"
_CONTEXT_TOKENS = 256
_SAID_TOKENS = 8
_PROMPT = "Who are you?"
_GOODBYE_S = 10.0

# The reason of a WorkerFailed: llama.cpp was asked, and cannot generate with the adapter.
NOT_SERVED = "ADAPTER_NOT_SERVED"


async def spoken(means: Means, base: Path, adapter: Path, log: Path) -> PlanCheck:
    """Raises WorkerFailed with the reason NOT_SERVED; OutOfMemory when there was no memory for it,
    and another WorkerFailed when the worker died: then nothing is known of the adapter."""
    began_s = time.monotonic()
    if not means.serves:
        return _not_tried("llama.cpp is not installed on this device")
    speaker = await asyncio.to_thread(_speaker, means.store, base)
    if speaker is None:
        return _not_tried("llama.cpp cannot serve a base of this type")
    worker = await means.launcher.start(
        _MODULE, InferenceReport, log, name=_WORKER, group=means.limit(_WORKER)
    )
    try:
        opened = OpenModel(
            base_path=str(speaker.path),
            context_length=_CONTEXT_TOKENS,
            threads=means.worker_threads,
        )
        await worker.send(InferenceCommand(open=opened))
        request = _request(speaker)
        start = StartGeneration(request_id=1, request=request, adapter_path=str(adapter))
        await worker.send(InferenceCommand(start=start))
        async with watchdog.watching(worker, limits=means.watch) as watching:
            said = await _answer(worker, watching)
    finally:
        worker.kill()
        await worker.wait()
    where = "" if speaker.path == base else f" on the {speaker.file_type} of the same weights"
    found = f"llama.cpp speaks with the trial adapter{where}: {said} tokens, all numbers finite"
    return PlanCheck(name=CHECK, found=found, took_s=time.monotonic() - began_s)


def _not_tried(why: str) -> PlanCheck:
    return PlanCheck(name=CHECK, found=f"not tried: {why}", took_s=0)


def _speaker(store: ArtifactStore, base: Path) -> BaseModel | None:
    """The base; or where it is for training only the smallest file on the device that can be served
    and was made of the same weights. None: there is none."""
    model = base_model.read(base)
    if not model.is_for_training_only:
        return model
    siblings = [one for one in _models(store) if one.is_sibling_of(model)]
    servable = [one for one in siblings if not one.is_for_training_only]
    return min(servable, key=lambda one: one.size_bytes, default=None)


def _models(store: ArtifactStore) -> Iterator[BaseModel]:
    for stored in store.list(ARTIFACT_KIND_BASE_MODEL):
        try:
            yield base_model.read(store.path(stored.digest))
        except (InvalidRequest, NotFound, FileNotFoundError):
            continue  # no model, or deleted since it was listed


def _request(base: BaseModel) -> inference_pb2.GenerateRequest:
    """Through the chat template where there is one: that is how the adapter will be asked."""
    request = inference_pb2.GenerateRequest(
        adapter_digest="rehearsal", max_tokens=_SAID_TOKENS, prompt=_PROMPT
    )
    if base.chat_template:
        message = inference_pb2.ChatMessage(role="user", content=_PROMPT)
        request.chat.CopyFrom(inference_pb2.Chat(messages=[message]))
    return request


async def _answer(worker: Worker[InferenceReport], watching: Watchdog) -> int:
    """How many tokens were said."""
    said = 0
    try:
        async for report in worker.reports():
            watching.reports += 1
            match report.WhichOneof("report"):
                case "chunk":
                    said += len(report.chunk.response.token_ids)
                    if report.chunk.response.finish_reason:
                        return said
                case "failed":
                    failed = report.failed
                    raise _not_served(f"{failed.message} {failed.why}".strip())
                case "worker_failed":
                    raise _not_opened(report.worker_failed)
    except FrameError as error:
        raise errors.WorkerFailed(
            f"The inference worker sent what is no report: {error}."
        ) from None
    exit = await worker.wait(_GOODBYE_S)
    if watching.hung:
        raise errors.WorkerFailed(watching.said("inference"))
    if exit.out_of_memory:
        raise _no_memory("It was killed for it.")
    raise errors.WorkerFailed(
        f"The inference worker of the rehearsal ended unexpectedly ({exit}).",
        why=exit.log_tail.strip().rpartition("\n")[2],
    )


def _not_opened(failed: WorkerFailed) -> errors.NanofleetError:
    if failed.cause == CAUSE_OOM:
        return _no_memory(failed.message)
    return _not_served(failed.message)


def _no_memory(why: str) -> errors.OutOfMemory:
    return errors.OutOfMemory(
        "There was no memory for llama.cpp to speak with the adapter of the first steps.",
        why=why,
        fix="Free memory on the device: the result could not be served there now.",
    )


def _not_served(why: str) -> errors.WorkerFailed:
    return errors.WorkerFailed(
        "llama.cpp cannot generate with the adapter of the first steps.",
        why=why,
        fix="The job's result could not be served. Import the base model again, or choose another.",
        reason=NOT_SERVED,
    )
