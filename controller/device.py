"""One connection to one device: mTLS, a deadline on each call, retries, errors of ours.

The address that is dialled plays no part in who is trusted: the server must present the DNS name
of the device's newest joining, so a board that took over the address, or a certificate that was
replaced, is refused in the handshake.

A channel belongs to the event loop in which it was made: connections are made inside the coroutine
that first uses them.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc

from controller.records import DeviceRecord, server_name
from controller.retry import BRIEF, Retry
from protos import status, transport
from protos.errors import NanofleetError, Unauthenticated
from protos.nanofleet.v1 import (
    artifact_pb2_grpc,
    device_pb2,
    device_pb2_grpc,
    inference_pb2_grpc,
    job_pb2_grpc,
)

Q = TypeVar("Q")
R = TypeVar("R")

CALL_S = 10.0
# Somebody waits for an overview of the fleet: one lost device must not hold it up.
PROBE_S = 4.0

# What gRPC says when the handshake fails on a name or a certificate.
_OTHER_CERTIFICATE = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check failed")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The controller's own identity, and the authority that it trusts. PEM."""

    key: bytes
    chain: bytes
    authority: bytes

    def channel_credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.authority, self.key, self.chain)


class DeviceConnection:
    """The services of a device. ``peer`` names it in messages."""

    def __init__(self, record: DeviceRecord, credentials: Credentials) -> None:
        self.name = record.name
        self.peer = f"device {record.name} ({record.address})"
        options = transport.channel_options(server_name(record.name, record.enrolment))
        self._channel = grpc.aio.secure_channel(
            record.address, credentials.channel_credentials(), options
        )
        self.devices = device_pb2_grpc.DeviceServiceStub(self._channel)
        self.artifacts = artifact_pb2_grpc.ArtifactServiceStub(self._channel)
        self.jobs = job_pb2_grpc.JobServiceStub(self._channel)
        self.inference = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def is_broken(self) -> bool:
        return self._channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def close(self) -> None:
        await self._channel.close()

    async def close_unused(self) -> None:
        """Once everything on it has failed or ended by itself: who reads a stream whose channel is
        closed under it gets CancelledError from gRPC, as if somebody had cancelled the reader."""
        await self._unused.wait()
        await self.close()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Around everything that waits for the device."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Q, R],
        request: Q,
        timeout_s: float = CALL_S,
        retry: Retry = BRIEF,
    ) -> R:
        """A unary call. All of the contract's are idempotent, so all are tried again."""

        async def once() -> R:
            return await self.translated(method(request, timeout=timeout_s))

        return await retry.call(once)

    async def translated(self, call: Awaitable[R]) -> R:
        """The call's response, or its failure as one of our errors."""
        try:
            with self.used():
                return await call
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error

    async def stream(
        self, method: grpc.aio.UnaryStreamMultiCallable[Q, R], request: Q
    ) -> AsyncGenerator[R, None]:
        """The messages of a stream; it has no deadline, keepalive notices a dead peer."""
        call = method(request)
        try:
            with self.used():
                async for message in call:
                    yield message
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error
        finally:
            call.cancel()

    async def get_device(self, retry: Retry = BRIEF) -> device_pb2.Device:
        request = device_pb2.GetDeviceRequest()
        response = await self.call(self.devices.GetDevice, request, PROBE_S, retry)
        return response.device

    def error(self, error: grpc.aio.AioRpcError) -> NanofleetError:
        said = error.details() or ""
        if any(mark in said for mark in _OTHER_CERTIFICATE):
            return Unauthenticated(
                f"What answers at the address of {self.peer} is not that device.",
                why="Its certificate is another's, is of an earlier joining, or has expired.",
                fix=f"Check the address, or join it again: `nanofleet device token {self.name}`.",
            )
        return status.from_rpc_error(error, self.peer)


class Connections:
    """Connections by device, made on first use and kept until ``close``.

    A device that joined again or moved is another record, and gets another connection. One that is
    broken is replaced: gRPC would wait before it dials again, up to ten seconds, and fail what is
    asked meanwhile without asking; when to try again is ours to say (retry.py). The broken one is
    closed when nothing waits on it any more.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._open: dict[tuple[str, str, str], DeviceConnection] = {}
        self._closing: dict[asyncio.Task[None], DeviceConnection] = {}

    def to(self, record: DeviceRecord) -> DeviceConnection:
        key = (record.name, record.address, record.enrolment)
        known = self._open.get(key)
        if known is not None and not known.is_broken:
            return known
        if known is not None:
            closing = asyncio.create_task(known.close_unused(), name=f"close {known.peer}")
            self._closing[closing] = known
            closing.add_done_callback(self._closing.pop)
        self._open[key] = DeviceConnection(record, self._credentials)
        return self._open[key]

    async def close(self) -> None:
        for closing, broken in tuple(self._closing.items()):
            closing.cancel()
            await broken.close()
        while self._open:
            _, connection = self._open.popitem()
            await connection.close()
