"""Errors on the wire: NanofleetError to a gRPC status with details, and back.

The details are the standard ones: google.rpc.ErrorInfo (``reason``, domain "nanofleet", and in its
metadata the error's type, why and fix), BadRequest (the field) and RetryInfo. They travel in the
trailing metadata, which ``grpc_status`` would read from a call object only; an AioRpcError has the
metadata itself, so it is read here.
"""

import re

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from protos import errors

DOMAIN = "nanofleet"
DETAILS_KEY = "grpc-status-details-bin"

CODES: dict[type[errors.NanofleetError], grpc.StatusCode] = {
    errors.NanofleetError: grpc.StatusCode.UNKNOWN,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidDataset: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.Refused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InUse: grpc.StatusCode.FAILED_PRECONDITION,
    errors.WrongBase: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StaleGeneration: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OutOfMemory: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OffsetMismatch: grpc.StatusCode.OUT_OF_RANGE,
    errors.DigestMismatch: grpc.StatusCode.DATA_LOSS,
    errors.DiskFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DiskFailed: grpc.StatusCode.INTERNAL,
    errors.Busy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unreachable: grpc.StatusCode.UNAVAILABLE,
    errors.TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.WorkerFailed: grpc.StatusCode.ABORTED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}

# What a status without our details means: it comes from the transport or from gRPC itself. A dying
# peer shows as INTERNAL and CANCELLED as well as UNAVAILABLE.
TRANSPORT: dict[grpc.StatusCode, type[errors.NanofleetError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.Unreachable,
    grpc.StatusCode.INTERNAL: errors.Unreachable,
    grpc.StatusCode.CANCELLED: errors.Unreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.TimedOut,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Busy,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.Forbidden,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
}

_TYPES = {kind.__name__: kind for kind in errors.tree()}


def to_status(error: errors.NanofleetError) -> Status:
    """The error as google.rpc.Status with its details."""
    info = ErrorInfo(reason=error.reason, domain=DOMAIN)
    info.metadata.update({"type": type(error).__name__, "why": error.why, "fix": error.fix})
    details = [_packed(info)]
    if error.field:
        violation = BadRequest.FieldViolation(field=error.field, description=error.what)
        details.append(_packed(BadRequest(field_violations=[violation])))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        details.append(_packed(RetryInfo(retry_delay=delay)))
    return Status(code=CODES[type(error)].value[0], message=error.what, details=details)


async def abort(
    context: grpc.aio.ServicerContext[object, object], error: errors.NanofleetError
) -> None:
    """Ends the call with the error; raises, as ``ServicerContext.abort`` does."""
    trailing = ((DETAILS_KEY, to_status(error).SerializeToString()),)
    await context.abort(CODES[type(error)], error.what, trailing)


def from_rpc_error(error: grpc.aio.AioRpcError, peer: str) -> errors.NanofleetError:
    """The error that ``abort`` sent, or what the transport's own status means.

    ``peer`` names the other side for the message: "device kitchen (10.0.0.7:7400)".
    """
    sent = _details(error)
    if sent is not None:
        return sent
    kind = TRANSPORT.get(error.code(), errors.InternalError)
    said = _plain(error.details() or error.code().name)
    if kind is errors.Unreachable:
        return kind(
            f"Cannot reach {peer}: {said}.",
            fix="Check that it is switched on, on the network, and that its agent runs.",
        )
    return kind(f"{peer}: {said}.")


def _plain(details: str) -> str:
    """The last cause that gRPC tells: "Connection refused", without the addresses on the way."""
    known = re.search(r"Connection refused|No route to host|Network is unreachable", details)
    return known[0] if known else details.strip().rstrip(".")


def _packed(message: ErrorInfo | BadRequest | RetryInfo) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def _details(error: grpc.aio.AioRpcError) -> errors.NanofleetError | None:
    """The error in the trailing metadata; None when there is none, or it is not ours."""
    raw = next((v for k, v in error.trailing_metadata() or () if k == DETAILS_KEY), None)
    if not isinstance(raw, bytes):
        return None
    try:
        status = Status.FromString(raw)
    except DecodeError:
        return None
    info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
    for detail in status.details:
        for target in (info, bad, retry):
            detail.Unpack(target)
    if info.domain != DOMAIN:
        return None
    kind = _TYPES.get(info.metadata["type"], errors.NanofleetError)
    return kind(
        status.message,
        why=info.metadata["why"],
        fix=info.metadata["fix"],
        reason=info.reason,
        field=bad.field_violations[0].field if bad.field_violations else "",
        retry_after_s=retry.retry_delay.ToMilliseconds() / 1000
        if retry.HasField("retry_delay")
        else None,
    )
