"""Artifacts over the wire: up, down, resumed, refused."""

import asyncio
import os
from collections.abc import AsyncIterator

import grpc
import pytest

from artifacts import digest
from protos import errors, status
from protos.nanofleet.v1 import artifact_pb2
from protos.transport import UPLOAD_BEGUN
from tests.agent.daemon import Daemon, Stubs, uploaded

KIND = artifact_pb2.ARTIFACT_KIND_CHECKPOINT
# More than two of the steps in which an upload is synced.
DATA = os.urandom(9 << 20)
DIGEST = digest.of_bytes(DATA)


@pytest.fixture
async def stubs(daemon: Daemon) -> AsyncIterator[Stubs]:
    daemon.start()
    async with daemon.stubs() as connected:
        yield connected


async def offset(stubs: Stubs) -> int:
    request = artifact_pb2.StatArtifactRequest(digest=DIGEST)
    return (await stubs.artifacts.StatArtifact(request)).committed_offset


async def refused(call: grpc.aio.Call) -> errors.NanofleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return status.from_rpc_error(caught.value, "the device")


async def test_there_and_back(stubs: Stubs) -> None:
    artifact = await stubs.put(DIGEST, DATA, KIND)
    assert (artifact.digest, artifact.size_bytes, artifact.kind) == (DIGEST, len(DATA), KIND)
    assert await stubs.get(DIGEST) == DATA
    assert await stubs.get(DIGEST, offset=len(DATA) - 5) == DATA[-5:]
    assert await stubs.get(DIGEST, offset=len(DATA)) == b""
    stat = await stubs.artifacts.StatArtifact(artifact_pb2.StatArtifactRequest(digest=DIGEST))
    assert stat.present
    assert stat.artifact == artifact
    listed = await stubs.artifacts.ListArtifacts(artifact_pb2.ListArtifactsRequest())
    assert list(listed.artifacts) == [artifact]
    assert await stubs.put(DIGEST, DATA, KIND) == artifact, "again is success"

    await stubs.artifacts.DeleteArtifact(artifact_pb2.DeleteArtifactRequest(digest=DIGEST))
    gone = await refused(
        stubs.artifacts.DeleteArtifact(artifact_pb2.DeleteArtifactRequest(digest=DIGEST))
    )
    assert isinstance(gone, errors.NotFound)


async def stalled(
    begin: int, after_bytes: int, begun: asyncio.Event
) -> AsyncIterator[artifact_pb2.PutArtifactRequest]:
    """The messages of an upload whose client stops in the middle, and never goes on."""
    sent_bytes = begin
    async for message in uploaded(DIGEST, DATA, KIND, begin):
        yield message
        sent_bytes += len(message.chunk)
        if sent_bytes >= after_bytes:
            begun.set()
            await asyncio.Event().wait()


async def complete(stubs: Stubs) -> None:
    """What a client does: asks for the offset and goes on from there, until it is accepted.

    The server notices a client that has gone a moment after it went; until then the upload is
    busy, and its offset may still rise. (gRPC's client says INTERNAL instead of the answer, if that
    comes while it sends; a client takes it for a lost link.)
    """
    while True:
        try:
            await stubs.put(DIGEST, DATA, KIND, await offset(stubs))
        except grpc.aio.AioRpcError as error:
            found = status.from_rpc_error(error, "")
            if not isinstance(found, errors.Busy | errors.OffsetMismatch | errors.Unreachable):
                raise
        else:
            return


async def test_an_upload_goes_on_after_its_client_has_gone(stubs: Stubs) -> None:
    begun = asyncio.Event()
    call = stubs.artifacts.PutArtifact(stalled(0, 6 << 20, begun))
    await begun.wait()
    call.cancel()
    # The latter from grpc's own client, when it was about to send.
    with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
        await call
    await complete(stubs)
    assert await stubs.get(DIGEST) == DATA


async def test_an_upload_survives_the_death_of_the_agent(daemon: Daemon) -> None:
    daemon.start()
    async with daemon.stubs() as stubs:
        call = stubs.artifacts.PutArtifact(stalled(0, 6 << 20, asyncio.Event()))
        while await offset(stubs) < 4 << 20:
            pass
        daemon.kill()
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    daemon.start()
    async with daemon.stubs() as stubs:
        assert await offset(stubs) >= 4 << 20
        await complete(stubs)
        assert await stubs.get(DIGEST) == DATA


async def test_bytes_that_are_not_what_their_name_says(stubs: Stubs) -> None:
    error = await refused(stubs.artifacts.PutArtifact(uploaded(DIGEST, bytes(len(DATA)), KIND)))
    assert isinstance(error, errors.DigestMismatch)
    assert await offset(stubs) == 0


async def test_wrong_requests(stubs: Stubs) -> None:
    def header(**fields: object) -> AsyncIterator[artifact_pb2.PutArtifactRequest]:
        whole = {"digest": DIGEST, "size_bytes": 5, "kind": KIND}
        made = artifact_pb2.PutArtifactHeader(**{**whole, **fields})  # type: ignore[arg-type]
        return messages(artifact_pb2.PutArtifactRequest(header=made))

    async def messages(
        *requests: artifact_pb2.PutArtifactRequest,
    ) -> AsyncIterator[artifact_pb2.PutArtifactRequest]:
        for request in requests:
            yield request

    chunk = artifact_pb2.PutArtifactRequest(chunk=b"x")
    fill = artifact_pb2.PutArtifactRequest(fill_to=5)
    huge = artifact_pb2.PutArtifactRequest(chunk=bytes(3 << 20))
    good = [message async for message in header()]
    for requests, kind, field in (
        (header(digest="sha256:../../../etc/passwd"), errors.InvalidRequest, "digest"),
        (header(kind=0), errors.InvalidRequest, "header.kind"),
        (header(size_bytes=0), errors.InvalidRequest, "header.size_bytes"),
        (header(offset=3), errors.OffsetMismatch, ""),
        (header(size_bytes=1 << 60), errors.DiskFull, ""),
        (messages(), errors.InvalidRequest, "header"),
        (messages(chunk), errors.InvalidRequest, "header"),
        (messages(*good, *good), errors.InvalidRequest, "header"),
        (messages(*good, huge), errors.InvalidRequest, "chunk"),
        (header(pieces=b"x" * 32), errors.InvalidRequest, "pieces"),
        (messages(*good, fill), errors.InvalidRequest, "fill_to"),
    ):
        error = await refused(stubs.artifacts.PutArtifact(requests))
        assert isinstance(error, kind), error
        assert not field or error.field == field
    missing = stubs.artifacts.GetArtifact(artifact_pb2.GetArtifactRequest(digest=DIGEST))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await missing.read()
    assert isinstance(status.from_rpc_error(caught.value, ""), errors.NotFound)


async def test_a_client_that_waits_for_leave_learns_why_it_is_refused(stubs: Stubs) -> None:
    begun = asyncio.Event()
    leaving = stubs.artifacts.PutArtifact(stalled(0, len(DATA) // 2, begun))
    await begun.wait()
    while not await offset(stubs):
        pass
    leaving.cancel()
    header = artifact_pb2.PutArtifactHeader(digest=DIGEST, size_bytes=len(DATA), kind=KIND)
    for _ in range(20):
        call = stubs.artifacts.PutArtifact()
        await call.write(artifact_pb2.PutArtifactRequest(header=header))
        assert UPLOAD_BEGUN not in tuple(await call.initial_metadata() or ())
        assert isinstance(await refused(call), errors.OffsetMismatch | errors.Busy)
