"""InferenceService: requests to the model host."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from agent.rpc.access import Context
from agent.serving.adapters import Adapters
from agent.serving.host import ModelHost
from protos.errors import InvalidRequest
from protos.nanofleet.v1 import inference_pb2, inference_pb2_grpc

_MOST_CONTEXT = 1 << 17
# The most texts of a request: each may be as long as the context.
_MOST_TEXTS = 256


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(self, host: ModelHost, adapters: Adapters) -> None:
        self._host = host
        self._adapters = adapters

    async def Generate(  # noqa: N802
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """Closing the inner iterator at once is what stops the worker when the client leaves."""
        if request.WhichOneof("input") is None:
            raise InvalidRequest("There is neither a prompt nor a chat.", field="input")
        _check_priority(request.priority)
        responses = self._host.generate(request, context.time_remaining())
        async with aclosing(responses):
            async for response in responses:
                yield response

    async def Embed(  # noqa: N802
        self, request: inference_pb2.EmbedRequest, context: Context
    ) -> AsyncIterator[inference_pb2.EmbedResponse]:
        _check_count(len(request.texts), "texts")
        _check_priority(request.priority)
        responses = self._host.embed(request, context.time_remaining())
        async with aclosing(responses):
            async for response in responses:
                yield response

    async def Score(  # noqa: N802
        self, request: inference_pb2.ScoreRequest, context: Context
    ) -> AsyncIterator[inference_pb2.ScoreResponse]:
        _check_count(len(request.items), "items")
        for item in request.items:
            if item.HasField("chat") == bool(item.prompt or item.completion):
                raise InvalidRequest(
                    "An item is either a chat, or a completion with or without a prompt.",
                    field="items",
                )
        _check_priority(request.priority)
        responses = self._host.score(request, context.time_remaining())
        async with aclosing(responses):
            async for response in responses:
                yield response

    async def LoadModel(  # noqa: N802
        self, request: inference_pb2.LoadModelRequest, context: Context
    ) -> inference_pb2.LoadModelResponse:
        if request.context_length > _MOST_CONTEXT:
            raise InvalidRequest(
                f"A context of {request.context_length} tokens is too long.",
                fix=f"Use at most {_MOST_CONTEXT}.",
                field="context_length",
            )
        return await self._host.load(request.base_digest, request.context_length)

    async def UnloadModel(  # noqa: N802
        self, request: inference_pb2.UnloadModelRequest, context: Context
    ) -> inference_pb2.UnloadModelResponse:
        await self._host.unload()
        return inference_pb2.UnloadModelResponse()

    async def ListAdapters(  # noqa: N802
        self, request: inference_pb2.ListAdaptersRequest, context: Context
    ) -> inference_pb2.ListAdaptersResponse:
        model = self._host.loaded()
        loaded = frozenset(model.adapter_digests if model else ())
        found = await asyncio.to_thread(self._adapters.summaries, loaded)
        return inference_pb2.ListAdaptersResponse(adapters=found)


def _check_count(count: int, field: str) -> None:
    if not 1 <= count <= _MOST_TEXTS:
        raise InvalidRequest(
            f"There are {count} {field}.",
            why=f"1 to {_MOST_TEXTS} go into one request.",
            fix="Send several requests, one after the other." if count else "",
            field=field,
        )


def _check_priority(priority: int) -> None:
    if priority not in inference_pb2.Priority.values():
        raise InvalidRequest(
            f"The priority {priority} is unknown.",
            fix="Send one that the device's version knows: low, normal or high.",
            field="priority",
        )
