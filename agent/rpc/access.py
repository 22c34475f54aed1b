"""Who may call what, and how a failure leaves the agent: one interceptor in front of every method.

    method              viewer   operator   controller   this device itself
    READ                   ✓         ✓          ✓               ✓
    CHANGE                           ✓          ✓

A method that is not in the table is refused to everybody, so that one that is added and forgotten
here is noticed by its first caller and not by an attacker. The role is in the peer's certificate
(protos/identity.py), which the handshake has verified. A device's own certificate lets its owner
look at it from a shell on the board, and at no other device.

Calls are counted, too: of those that are in progress at once only so many are let in, and the rest
is told when to come back (RESOURCE_EXHAUSTED with RetryInfo).

Errors of protos.errors become statuses here and nowhere else, and so do faults of the disk that
nobody named; anything else is a defect of ours, logged with its traceback and told as InternalError
without it.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, TypeAlias

import grpc

from artifacts import headroom
from protos import status
from protos.errors import Busy, Forbidden, InternalError, NanofleetError, Unauthenticated
from protos.identity import Identity, Role, parse_uri

_LOG = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MaybeHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"

# From all controllers together; each has a handful: watching, telemetry, an upload, some answers.
MOST_CALLS = 256
_AGAIN_S = 2.0

READ = frozenset((Role.VIEWER, Role.OPERATOR, Role.CONTROLLER))
CHANGE = frozenset((Role.OPERATOR, Role.CONTROLLER))

_V1 = "/nanofleet.v1."
TABLE: Mapping[str, frozenset[Role]] = {
    f"{_V1}DeviceService/GetDevice": READ,
    f"{_V1}DeviceService/WatchTelemetry": READ,
    f"{_V1}DeviceService/ListEvents": READ,
    f"{_V1}ArtifactService/StatArtifact": READ,
    f"{_V1}ArtifactService/PutArtifact": CHANGE,
    f"{_V1}ArtifactService/GetArtifact": CHANGE,
    f"{_V1}ArtifactService/ListArtifacts": READ,
    f"{_V1}ArtifactService/DeleteArtifact": CHANGE,
    f"{_V1}JobService/SubmitJob": CHANGE,
    f"{_V1}JobService/GetJob": READ,
    f"{_V1}JobService/ListJobs": READ,
    f"{_V1}JobService/CancelJob": CHANGE,
    f"{_V1}JobService/PauseJob": CHANGE,
    f"{_V1}JobService/ResumeJob": CHANGE,
    f"{_V1}JobService/WatchJob": READ,
    f"{_V1}JobService/PlanJob": CHANGE,
    f"{_V1}JobService/RenewLeases": CHANGE,
    f"{_V1}InferenceService/Generate": CHANGE,
    f"{_V1}InferenceService/Embed": CHANGE,
    f"{_V1}InferenceService/Score": CHANGE,
    f"{_V1}InferenceService/LoadModel": CHANGE,
    f"{_V1}InferenceService/UnloadModel": CHANGE,
    f"{_V1}InferenceService/ListAdapters": READ,
    "/grpc.health.v1.Health/Check": READ,
    "/grpc.health.v1.Health/List": READ,
    "/grpc.health.v1.Health/Watch": READ,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": READ,
}


def peer(context: Context) -> Identity:
    """Who calls, by the certificate. Raises Unauthenticated when it is none of the fleet's."""
    uris = list(context.auth_context().get("peer_uri", ()))
    identity = parse_uri(uris[0].decode(errors="replace")) if len(uris) == 1 else None
    if identity is not None:
        return identity
    raise Unauthenticated(
        "The caller's certificate has no identity of this fleet.",
        fix="Use a certificate that the fleet's controller has issued.",
    )


class Access(grpc.aio.ServerInterceptor):
    """``device`` is the name of the device that this agent runs on."""

    def __init__(self, device: str, most_calls: int = MOST_CALLS) -> None:
        self._device = device
        self._most_calls = most_calls
        self._calls = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[MaybeHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        method = handler_call_details.method
        handler = await continuation(handler_call_details) if method in TABLE else None
        if handler is None:
            return grpc.unary_unary_rpc_method_handler(self._refuse(method))
        if handler.response_streaming:
            return self._streaming(method, handler)
        return self._single(method, handler)

    def check(self, method: str, caller: Identity) -> None:
        """Raises Forbidden unless the table has the caller's role for the method."""
        roles = TABLE.get(method, frozenset())
        is_itself = caller == Identity(Role.DEVICE, self._device)
        if caller.role in roles or (is_itself and roles is READ):
            return
        raise Forbidden(
            f"{caller.role.value} {caller.name} may not call {method.rpartition('/')[2]}.",
            why=f"It takes the role {' or '.join(sorted(role.value for role in roles)) or '-'}.",
        )

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Of a call among those in progress. Raises Busy when there is none."""
        if self._calls >= self._most_calls:
            raise Busy(
                f"{self._calls} calls are in progress on this device.",
                why="Each holds memory that its models need.",
                retry_after_s=_AGAIN_S,
            )
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    def _refuse(self, method: str) -> Callable[[Any, Context], Awaitable[Any]]:
        async def refused(_: Any, context: Context) -> None:
            try:
                self.check(method, peer(context))
            except NanofleetError as error:
                await status.abort(context, error)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not served here.")

        return refused

    def _single(self, method: str, handler: Handler) -> Handler:
        inner: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def call(request: Any, context: Context) -> Any:
            try:
                self.check(method, peer(context))
                with self._place():
                    return await inner(request, context)
            except Exception as error:  # noqa: BLE001 - translated
                await _abort(context, method, error)

        wrap = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return wrap(call, handler.request_deserializer, handler.response_serializer)

    def _streaming(self, method: str, handler: Handler) -> Handler:
        inner: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                self.check(method, peer(context))
                with self._place():
                    async with aclosing(inner(request, context)) as responses:
                        async for response in responses:
                            yield response
            except Exception as error:  # noqa: BLE001 - translated
                await _abort(context, method, error)

        wrap = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return wrap(call, handler.request_deserializer, handler.response_serializer)


async def _abort(context: Context, method: str, error: Exception) -> None:
    """Ends the call with the error. An abort that is under way goes on."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, OSError) and (named := headroom.fault(error, "The device's disk")):
        _LOG.error("%s failed: %s", method, named)
        error = named
    if not isinstance(error, NanofleetError):
        _LOG.error("%s failed", method, exc_info=error)
        error = InternalError(
            f"{method.rpartition('/')[2]} failed on the device.",
            why="This is a defect of the agent; its log has the details.",
        )
    await status.abort(context, error)
