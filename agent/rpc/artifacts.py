"""ArtifactService: the store's blocking calls in threads, bytes in chunks of 256 KiB.

An upload is written chunk by chunk as it comes: gRPC's flow control is the only buffer. When the
link breaks, what was synced stays, and the next upload starts there.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

from agent.rpc.access import Context
from agent.threads import in_thread
from artifacts import digest as digests
from artifacts.digest import Digest
from artifacts.store import ArtifactStore, StoredArtifact, Upload
from protos.errors import InvalidRequest, OffsetMismatch
from protos.nanofleet.v1 import artifact_pb2, artifact_pb2_grpc
from protos.transport import CHUNK_BYTES, UPLOAD_BEGUN

# Larger ones would only cost memory.
_MOST_CHUNK_BYTES = 1 << 20
# Read in one go in a thread, then sent as chunks.
_READ_BYTES = 4 * CHUNK_BYTES


class ArtifactService(artifact_pb2_grpc.ArtifactServiceServicer):
    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    async def StatArtifact(  # noqa: N802
        self, request: artifact_pb2.StatArtifactRequest, context: Context
    ) -> artifact_pb2.StatArtifactResponse:
        digest = digests.parse(request.digest)
        stored = await asyncio.to_thread(self._store.stat, digest)
        if stored is not None:
            return artifact_pb2.StatArtifactResponse(present=True, artifact=_message(stored))
        offset = await asyncio.to_thread(self._store.committed_offset, digest)
        ranges = await asyncio.to_thread(
            self._store.held, digest, request.size_bytes, request.pieces
        )
        held = [artifact_pb2.ByteRange(start=each.start, end=each.end) for each in ranges]
        return artifact_pb2.StatArtifactResponse(committed_offset=offset, held=held)

    async def PutArtifact(  # noqa: N802
        self,
        request_iterator: AsyncIterator[artifact_pb2.PutArtifactRequest],
        context: Context,
    ) -> artifact_pb2.PutArtifactResponse:
        header = await _header(request_iterator)
        digest = digests.parse(header.digest)
        present = await asyncio.to_thread(self._store.stat, digest)
        if present is not None:
            return artifact_pb2.PutArtifactResponse(artifact=_message(present))
        async with self._upload(digest, header) as upload:
            await context.send_initial_metadata((UPLOAD_BEGUN,))
            async for request in request_iterator:
                if request.HasField("fill_to"):
                    await in_thread(upload.fill, request.fill_to)
                else:
                    await in_thread(upload.write, _chunk(request))
            stored = await in_thread(upload.commit)
        return artifact_pb2.PutArtifactResponse(artifact=_message(stored))

    @asynccontextmanager
    async def _upload(
        self, digest: Digest, header: artifact_pb2.PutArtifactHeader
    ) -> AsyncIterator[Upload]:
        """An open upload, which is closed whatever happens: an open one refuses the next."""
        opening = asyncio.ensure_future(
            asyncio.to_thread(
                self._store.begin,
                digest,
                header.size_bytes,
                header.kind,
                header.offset,
                header.pieces,
            )
        )
        try:
            yield await asyncio.shield(opening)
        finally:
            await asyncio.wait([opening])
            if opening.exception() is None:
                await in_thread(opening.result().close)

    async def GetArtifact(  # noqa: N802
        self, request: artifact_pb2.GetArtifactRequest, context: Context
    ) -> AsyncIterator[artifact_pb2.GetArtifactResponse]:
        """The open file stays readable even when the artifact is deleted meanwhile."""
        digest = digests.parse(request.digest)
        path = await asyncio.to_thread(self._store.path, digest)
        await asyncio.to_thread(self._store.touch, digest)
        with await asyncio.to_thread(path.open, "rb") as file:
            _seek(file, request.offset)
            while block := await asyncio.to_thread(file.read, _READ_BYTES):
                for start in range(0, len(block), CHUNK_BYTES):
                    chunk = block[start : start + CHUNK_BYTES]
                    yield artifact_pb2.GetArtifactResponse(chunk=chunk)

    async def ListArtifacts(  # noqa: N802
        self, request: artifact_pb2.ListArtifactsRequest, context: Context
    ) -> artifact_pb2.ListArtifactsResponse:
        found = await asyncio.to_thread(self._store.list, request.kind)
        return artifact_pb2.ListArtifactsResponse(artifacts=[_message(item) for item in found])

    async def DeleteArtifact(  # noqa: N802
        self, request: artifact_pb2.DeleteArtifactRequest, context: Context
    ) -> artifact_pb2.DeleteArtifactResponse:
        await asyncio.to_thread(self._store.delete, digests.parse(request.digest))
        return artifact_pb2.DeleteArtifactResponse()


async def _header(
    requests: AsyncIterator[artifact_pb2.PutArtifactRequest],
) -> artifact_pb2.PutArtifactHeader:
    async for request in requests:
        if request.HasField("header"):
            return _checked(request.header)
        break
    raise InvalidRequest("The first message of an upload is its header.", field="header")


def _checked(header: artifact_pb2.PutArtifactHeader) -> artifact_pb2.PutArtifactHeader:
    if header.kind not in artifact_pb2.ArtifactKind.values() or not header.kind:
        raise InvalidRequest("The kind of the artifact is not set.", field="header.kind")
    if header.size_bytes == 0:
        raise InvalidRequest("An artifact has at least one byte.", field="header.size_bytes")
    return header


def _chunk(request: artifact_pb2.PutArtifactRequest) -> bytes:
    if not request.HasField("chunk"):
        raise InvalidRequest("Only the first message of an upload is a header.", field="header")
    if len(request.chunk) > _MOST_CHUNK_BYTES:
        raise InvalidRequest(
            f"A chunk of {len(request.chunk)} bytes is too large.",
            fix=f"Send {CHUNK_BYTES} bytes at a time.",
            field="chunk",
        )
    return request.chunk


def _seek(file: BinaryIO, offset: int) -> None:
    size_bytes = file.seek(0, 2)
    if offset > size_bytes:
        raise OffsetMismatch(
            f"The artifact has {size_bytes} bytes; it cannot be read from {offset}.", field="offset"
        )
    file.seek(offset)


def _message(stored: StoredArtifact) -> artifact_pb2.Artifact:
    return artifact_pb2.Artifact(
        digest=stored.digest, size_bytes=stored.size_bytes, kind=stored.kind, pins=stored.pins
    )
