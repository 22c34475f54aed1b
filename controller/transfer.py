"""Moving artifacts to and from a device, over links that break.

An upload asks where the device's synced bytes end and goes on from there, as often as it takes; as
long as it gets further each time it does not give up. What the device holds as pieces of other
artifacts is left out. A download goes on behind what was synced here, by this process or another.
Nothing counts before its SHA-256 was verified: on the device for uploads, here for downloads.
256 KiB chunks: larger ones are no faster and cost the device up to 100 MB of memory.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

import grpc

from artifacts.digest import Digest, short
from artifacts.headroom import naming_disk_faults
from artifacts.record import Kind
from controller import partial_file
from controller.device import DeviceConnection
from controller.records import Transfer, TransferProgress
from controller.retry import BRIEF, ONCE, STEADY, Retry
from protos.errors import (
    Busy,
    InternalError,
    InvalidRequest,
    NanofleetError,
    NotFound,
    OffsetMismatch,
    Unreachable,
)
from protos.nanofleet.v1 import artifact_pb2
from protos.transport import CHUNK_BYTES, UPLOAD_BEGUN

OnProgress = Callable[[TransferProgress], None]
PutCall: TypeAlias = (
    "grpc.aio.StreamUnaryCall[artifact_pb2.PutArtifactRequest, artifact_pb2.PutArtifactResponse]"
)

# Read in one go in a thread, then sent as chunks.
_READ_BYTES = 4 * CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class Parcel:
    """An artifact on this machine."""

    digest: Digest
    kind: Kind
    size_bytes: int
    path: Path
    pieces: bytes = b""


class Sink(Protocol):
    """Where a download goes: knows what it has, verifies at the end. Blocking."""

    @property
    def received_bytes(self) -> int: ...
    def write(self, chunk: bytes) -> None: ...
    def commit(self) -> object: ...


async def stat(
    connection: DeviceConnection, digest: str, retry: Retry = BRIEF
) -> artifact_pb2.StatArtifactResponse:
    request = artifact_pb2.StatArtifactRequest(digest=digest)
    return await connection.call(connection.artifacts.StatArtifact, request, retry=retry)


def _again(error: NanofleetError) -> NanofleetError:
    """An offset that was overtaken (another upload of the same bytes) is asked for again."""
    return Busy(error.what, why=error.why) if isinstance(error, OffsetMismatch) else error


class Upload:
    """One artifact to one device."""

    def __init__(
        self, connection: DeviceConnection, parcel: Parcel, on_progress: OnProgress | None
    ) -> None:
        self._connection = connection
        self._parcel = parcel
        self._on_progress = on_progress
        self._sent_bytes = 0

    async def run(self, retry: Retry = STEADY) -> Transfer:
        """Raises what the device refused with (DiskFull, DigestMismatch), or Unreachable.

        ``retry`` is for a device that has answered: one that is switched off is told of soon.
        """
        started_s = time.monotonic()
        failures, furthest = 0, -1
        while True:
            try:
                found = await self._stat()
                if found.present:
                    return self._transfer(time.monotonic() - started_s)
                if found.committed_offset > furthest:
                    failures, furthest = 0, found.committed_offset
                await self._send(found)
            except NanofleetError as error:
                failures += 1
                patience = BRIEF if furthest < 0 else retry
                await patience.pause(failures, _again(error))

    async def _stat(self) -> artifact_pb2.StatArtifactResponse:
        parcel, artifacts = self._parcel, self._connection.artifacts
        request = artifact_pb2.StatArtifactRequest(
            digest=parcel.digest, pieces=parcel.pieces, size_bytes=parcel.size_bytes
        )
        return await self._connection.call(artifacts.StatArtifact, request, retry=ONCE)

    async def _send(self, found: artifact_pb2.StatArtifactResponse) -> None:
        response = await self._connection.translated(self._put(found))
        if response.artifact.digest != self._parcel.digest:
            peer = self._connection.peer
            raise InternalError(f"{peer} stored {response.artifact.digest} instead.")

    async def _put(
        self, found: artifact_pb2.StatArtifactResponse
    ) -> artifact_pb2.PutArtifactResponse:
        """Chunks are sent when the device has said that it takes them.

        A refusal that meets grpc.aio in the middle of a write comes out as "Internal error from
        Core", without what the device said.
        """
        parcel = self._parcel
        header = artifact_pb2.PutArtifactHeader(
            digest=parcel.digest,
            size_bytes=parcel.size_bytes,
            kind=parcel.kind,
            offset=found.committed_offset,
            pieces=parcel.pieces,
        )
        call = self._connection.artifacts.PutArtifact()
        try:
            await call.write(artifact_pb2.PutArtifactRequest(header=header))
            # As pairs: grpc.aio's Metadata answers ``in`` for keys alone.
            if UPLOAD_BEGUN in tuple(await call.initial_metadata() or ()):
                with contextlib.suppress(asyncio.InvalidStateError):  # the device ended the call
                    await self._write(call, found)
                    await call.done_writing()
            return await call
        finally:
            call.cancel()

    async def _write(self, call: PutCall, found: artifact_pb2.StatArtifactResponse) -> None:
        """The bytes behind the offset, without those that the device holds."""
        offset = found.committed_offset
        with self._parcel.path.open("rb") as file:
            for held in found.held:
                await self._write_chunks(call, file, offset, held.start)
                await call.write(artifact_pb2.PutArtifactRequest(fill_to=held.end))
                offset = held.end
                self._report(offset)
            await self._write_chunks(call, file, offset, self._parcel.size_bytes)

    async def _write_chunks(self, call: PutCall, file: BinaryIO, start: int, end: int) -> None:
        file.seek(start)
        while start < end:
            block = await asyncio.to_thread(file.read, min(_READ_BYTES, end - start))
            if not block:
                return  # the file became shorter: the device says what that means
            for at in range(0, len(block), CHUNK_BYTES):
                chunk = block[at : at + CHUNK_BYTES]
                await call.write(artifact_pb2.PutArtifactRequest(chunk=chunk))
                start += len(chunk)
                self._sent_bytes += len(chunk)
                self._report(start)

    def _report(self, moved_bytes: int) -> None:
        if self._on_progress is not None:
            name, parcel = self._connection.name, self._parcel
            self._on_progress(TransferProgress(name, parcel.digest, moved_bytes, parcel.size_bytes))

    def _transfer(self, seconds: float) -> Transfer:
        return Transfer(
            device=self._connection.name,
            digest=self._parcel.digest,
            size_bytes=self._parcel.size_bytes,
            sent_bytes=self._sent_bytes,
            seconds=seconds,
            already_there=self._sent_bytes == 0,
        )


async def push(
    connections: Sequence[DeviceConnection], parcel: Parcel, on_progress: OnProgress | None
) -> list[Transfer]:
    """One artifact to many devices at once. When one fails, the others are finished first."""
    uploads = [Upload(connection, parcel, on_progress) for connection in connections]
    done = await asyncio.gather(*(each.run() for each in uploads), return_exceptions=True)
    for connection, result in zip(connections, done, strict=True):
        if isinstance(result, NanofleetError):
            raise _at(connection.name, result) from result
        if isinstance(result, BaseException):
            raise result
    return [result for result in done if isinstance(result, Transfer)]


def _at(device: str, error: NanofleetError) -> NanofleetError:
    """The same error, saying at which of the devices."""
    if f"device {device} " in error.what:
        return error
    return type(error)(
        f"{device}: {error.what}",
        why=error.why,
        fix=error.fix,
        reason=error.reason,
        field=error.field,
        retry_after_s=error.retry_after_s,
    )


async def to_file(
    connection: DeviceConnection, digest: Digest, target: Path, on_progress: OnProgress | None
) -> Transfer:
    """An artifact of the device into ``target``, which must not be a folder."""
    artifact = await described(connection, digest)
    try:
        with naming_disk_faults(target.parent):
            sink = await asyncio.to_thread(
                partial_file.begin, target, digest, artifact.size_bytes, artifact.kind
            )
            try:
                return await download(connection, artifact, sink, on_progress)
            finally:
                await asyncio.to_thread(sink.close)
                partial_file.tidy_up(target)
    except OSError as error:
        raise InvalidRequest(
            f"{target} cannot be written: {error.strerror}.", fix="Choose another file."
        ) from error


async def download(
    connection: DeviceConnection,
    artifact: artifact_pb2.Artifact,
    sink: Sink,
    on_progress: OnProgress | None = None,
    retry: Retry = STEADY,
) -> Transfer:
    """The artifact from the device into the sink; DigestMismatch when it is not what it says."""
    started_s = time.monotonic()
    failures = received_bytes = 0
    while sink.received_bytes < artifact.size_bytes:
        before = sink.received_bytes
        try:
            await _receive(connection, artifact, sink, on_progress)
        except NanofleetError as error:
            failures = 1 if sink.received_bytes > before else failures + 1
            await retry.pause(failures, error)
        finally:
            received_bytes += sink.received_bytes - before
    await asyncio.to_thread(sink.commit)
    return Transfer(
        device=connection.name,
        digest=artifact.digest,
        size_bytes=artifact.size_bytes,
        sent_bytes=received_bytes,
        seconds=time.monotonic() - started_s,
        already_there=False,
    )


async def _receive(
    connection: DeviceConnection,
    artifact: artifact_pb2.Artifact,
    sink: Sink,
    on_progress: OnProgress | None,
) -> None:
    request = artifact_pb2.GetArtifactRequest(digest=artifact.digest, offset=sink.received_bytes)
    writing: asyncio.Future[None] | None = None
    try:
        async for message in connection.stream(connection.artifacts.GetArtifact, request):
            # One chunk is written while the next one comes. More of them would be memory that the
            # system gives and takes each time.
            if writing is not None:
                await asyncio.shield(writing)
            writing = asyncio.ensure_future(asyncio.to_thread(sink.write, message.chunk))
            if on_progress is not None:
                moved, size = sink.received_bytes, artifact.size_bytes
                on_progress(TransferProgress(connection.name, artifact.digest, moved, size))
    finally:
        if writing is not None:
            await asyncio.wait([writing])
            writing.result()
    if on_progress is not None:
        moved = sink.received_bytes
        on_progress(TransferProgress(connection.name, artifact.digest, moved, artifact.size_bytes))
    if sink.received_bytes < artifact.size_bytes:
        raise Unreachable(
            f"{connection.peer} ended the download after {sink.received_bytes} "
            f"of {artifact.size_bytes} bytes."
        )


async def described(connection: DeviceConnection, digest: str) -> artifact_pb2.Artifact:
    """What the device says of an artifact that it holds; NotFound when it does not."""
    found = await stat(connection, digest)
    if not found.present:
        raise NotFound(
            f"{connection.peer} does not hold {short(Digest(digest))}.",
            fix=f"See what it holds: `nanofleet artifact list --device {connection.name}`.",
        )
    return found.artifact
