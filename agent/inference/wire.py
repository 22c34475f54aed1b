"""The messages of the pipe to the engine's own types, and back."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from agent.inference.engine import (
    DEFAULT_CONTEXT_LENGTH,
    DEFAULT_MAX_TOKENS,
    Adapter,
    AnyRequest,
    Candidate,
    Embedding,
    EmbedRequest,
    EngineOptions,
    Finish,
    Gbnf,
    JsonSchema,
    Message,
    Piece,
    Request,
    Sample,
    Sampling,
    Score,
    ScoreRequest,
    TokenLogprob,
    Usage,
)
from agent.inference.queue import Priority
from protos.errors import InvalidRequest, NanofleetError, OutOfMemory
from protos.nanofleet.v1 import inference_pb2, job_pb2, worker_pb2

Start: TypeAlias = worker_pb2.StartGeneration | worker_pb2.StartEmbedding | worker_pb2.StartScoring

PRIORITIES = {
    inference_pb2.PRIORITY_UNSPECIFIED: Priority.NORMAL,
    inference_pb2.PRIORITY_LOW: Priority.LOW,
    inference_pb2.PRIORITY_NORMAL: Priority.NORMAL,
    inference_pb2.PRIORITY_HIGH: Priority.HIGH,
}
FINISH_REASONS = {
    Finish.STOP: inference_pb2.FINISH_REASON_STOP,
    Finish.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
    Finish.LOOP: inference_pb2.FINISH_REASON_LOOP,
    Finish.CANCELED: inference_pb2.FINISH_REASON_CANCELED,
}


def options(
    message: worker_pb2.OpenModel, spare_threads: int, freed: Callable[[str], None]
) -> EngineOptions:
    """``spare_threads``: how many to use when the command does not say."""
    return EngineOptions(
        message.context_length or DEFAULT_CONTEXT_LENGTH,
        message.threads or spare_threads,
        Path(message.cache_folder) if message.cache_folder else None,
        message.streams,
        freed,
    )


def request(start: Start) -> AnyRequest:
    adapter = _adapter(start.request.adapter_digest, start.adapter_path)
    if isinstance(start, worker_pb2.StartEmbedding):
        return EmbedRequest(tuple(start.request.texts), adapter, start.request.normalized)
    if isinstance(start, worker_pb2.StartScoring):
        return ScoreRequest(tuple(map(_sample, start.request.items)), adapter)
    return generation(start.request, adapter)


def generation(asked: inference_pb2.GenerateRequest, adapter: Adapter | None) -> Request:
    return Request(
        prompt=_prompt(asked),
        adapter=adapter,
        max_tokens=asked.max_tokens or DEFAULT_MAX_TOKENS,
        sampling=_sampling(asked.sampling),
        stop=tuple(asked.stop),
        grammar=_grammar(asked),
        top_logprobs=asked.top_logprobs if asked.HasField("top_logprobs") else None,
    )


def chunk(request_id: int, piece: Piece, queue_s: float) -> worker_pb2.InferenceReport:
    response = inference_pb2.GenerateResponse(
        text=piece.text, token_ids=piece.token_ids, logprobs=map(_logprob, piece.logprobs)
    )
    if piece.finish:
        response.finish_reason = FINISH_REASONS[piece.finish]
        response.usage.CopyFrom(_usage(piece.usage or Usage(), queue_s))
    return worker_pb2.InferenceReport(
        chunk=worker_pb2.GenerationChunk(request_id=request_id, response=response)
    )


def embedding(request_id: int, index: int, found: Embedding) -> worker_pb2.InferenceReport:
    response = inference_pb2.EmbedResponse(index=index, embedding=found.vector, tokens=found.tokens)
    return worker_pb2.InferenceReport(
        embedding=worker_pb2.EmbeddingReport(request_id=request_id, response=response)
    )


def score(request_id: int, index: int, found: Score) -> worker_pb2.InferenceReport:
    response = inference_pb2.ScoreResponse(
        index=index,
        logprob_sum=found.logprob_sum,
        logprob_mean=found.logprob_mean,
        tokens=found.tokens,
        prompt_tokens=found.prompt_tokens,
    )
    return worker_pb2.InferenceReport(
        score=worker_pb2.ScoreReport(request_id=request_id, response=response)
    )


def adapter_freed(digest: str) -> worker_pb2.InferenceReport:
    return worker_pb2.InferenceReport(adapter_freed=worker_pb2.AdapterFreed(adapter_digest=digest))


def failure(request_id: int, error: NanofleetError) -> worker_pb2.InferenceReport:
    return worker_pb2.InferenceReport(
        failed=worker_pb2.GenerationFailed(
            request_id=request_id,
            reason=error.reason,
            message=error.what,
            why=error.why,
            fix=error.fix,
            field=error.field,
            retry_after_s=error.retry_after_s,
        )
    )


def worker_failure(error: NanofleetError) -> worker_pb2.InferenceReport:
    return worker_pb2.InferenceReport(
        worker_failed=worker_pb2.WorkerFailed(cause=_cause(error), message=str(error))
    )


def _cause(error: NanofleetError) -> job_pb2.Cause.ValueType:
    if isinstance(error, OutOfMemory):
        return job_pb2.CAUSE_OOM
    if isinstance(error, InvalidRequest):
        return job_pb2.CAUSE_BAD_DATA
    return job_pb2.CAUSE_WORKER_CRASH


def _prompt(asked: inference_pb2.GenerateRequest) -> str | tuple[Message, ...]:
    return _messages(asked.chat) if asked.WhichOneof("input") == "chat" else asked.prompt


def _messages(chat: inference_pb2.Chat) -> tuple[Message, ...]:
    return tuple(Message(m.role, m.content) for m in chat.messages)


def _sample(item: inference_pb2.ScoreItem) -> Sample:
    return Sample(item.prompt, item.completion, _messages(item.chat))


def _grammar(asked: inference_pb2.GenerateRequest) -> Gbnf | JsonSchema | None:
    match asked.WhichOneof("grammar"):
        case "gbnf":
            return Gbnf(asked.gbnf)
        case "json_schema":
            return JsonSchema(asked.json_schema)
    return None


def _adapter(digest: str, path: str) -> Adapter | None:
    return Adapter(digest, Path(path)) if digest else None


def _sampling(asked: inference_pb2.Sampling) -> Sampling:
    return Sampling(
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        repeat_penalty=asked.repeat_penalty,
        seed=asked.seed,
        logit_bias=dict(asked.logit_bias),
        suppress_tokens=tuple(asked.suppress_tokens),
        suppress_texts=tuple(asked.suppress_texts),
    )


def _logprob(found: TokenLogprob) -> inference_pb2.TokenLogprob:
    return inference_pb2.TokenLogprob(
        chosen=_candidate(found.chosen), top=map(_candidate, found.top)
    )


def _candidate(found: Candidate) -> inference_pb2.Candidate:
    return inference_pb2.Candidate(token_id=found.token_id, logprob=found.logprob, piece=found.data)


def _usage(usage: Usage, queue_s: float) -> inference_pb2.Usage:
    return inference_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        queue_s=queue_s,
        prefill_s=usage.prefill_s,
        decode_s=usage.decode_s,
        decode_tokens_per_s=usage.decode_tokens_per_s,
    )
