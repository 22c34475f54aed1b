"""A question for an adapter that the device has not: it is sent, and the question asked again.

To look first would cost every request a way there and back. The device refuses before it computes,
so nothing is answered twice. Adapters only: a base model is gigabytes, and is pushed by its name.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeAlias, TypeVar

import grpc.aio

from controller import transfer
from controller.device import DeviceConnection
from controller.transfer import Parcel
from protos.errors import NotFound
from protos.nanofleet.v1.inference_pb2 import EmbedRequest, GenerateRequest, ScoreRequest

Q = TypeVar("Q", GenerateRequest, EmbedRequest, ScoreRequest)
R = TypeVar("R")

# Of the adapter with this digest; None when it is not in the fleet's own store.
ParcelOf: TypeAlias = Callable[[str], Parcel | None]


async def answers(
    connection: DeviceConnection,
    method: grpc.aio.UnaryStreamMultiCallable[Q, R],
    request: Q,
    parcel_of: ParcelOf,
) -> AsyncGenerator[R, None]:
    """The responses to the request. Raises what the device or the transfer says."""
    try:
        async with aclosing(connection.stream(method, request)) as responses:
            async for response in responses:
                yield response
        return
    except NotFound as error:
        parcel = parcel_of(request.adapter_digest) if error.field == "adapter_digest" else None
        if parcel is None:
            raise
    await transfer.push([connection], parcel, None)
    async with aclosing(connection.stream(method, request)) as responses:
        async for response in responses:
            yield response
