"""Bringing home what a finished job has made: into the fleet's store, under the job's name."""

import asyncio

from artifacts import digest as digests
from artifacts.digest import Digest
from artifacts.store import ArtifactStore
from controller import transfer
from controller.catalogue import Catalogue
from controller.device import DeviceConnection
from controller.records import CatalogueEntry, JobRecord
from controller.retry import TURNS
from protos.errors import Busy, NotFound, OffsetMismatch, Refused
from protos.nanofleet.v1 import artifact_pb2, job_pb2

_WAYS_TO_END = {
    job_pb2.JOB_STATE_FAILED: "failed",
    job_pb2.JOB_STATE_CANCELED: "was canceled",
}


def result_of(record: JobRecord) -> Digest:
    """The digest of the job's adapter or dataset. Refused while there is none, or when there will
    be none."""
    if record.state != job_pb2.JOB_STATE_SUCCEEDED:
        ended = _WAYS_TO_END.get(record.state)
        raise Refused(
            f"Job {record.name} ({record.id}) has no result.",
            why=f"It {ended}: {record.job.message}" if ended else "It has not ended.",
            fix="" if ended else f"Wait for it: `nanofleet job wait {record.name}`.",
            reason="NO_RESULT",
        )
    result = record.job.result
    return digests.parse(result.generated.dataset_digest or result.adapter_digest)


def at_home(catalogue: Catalogue, record: JobRecord) -> CatalogueEntry | None:
    """The result, named after the job, when its bytes are here already."""
    stored = catalogue.artifacts.stat(result_of(record))
    return None if stored is None else catalogue.adopt(stored, record.name)


async def fetch(
    catalogue: Catalogue, connection: DeviceConnection, record: JobRecord
) -> CatalogueEntry:
    """Downloads the result; goes on where an earlier try ended.

    While another process downloads the same one, its end is waited for.
    """
    digest = result_of(record)
    artifact = await transfer.described(connection, digest)

    async def once() -> CatalogueEntry:
        if at_home(catalogue, record) is None:
            await _into_store(catalogue.artifacts, connection, artifact)
        entry = at_home(catalogue, record)
        if entry is None:
            raise NotFound(f"The result {digests.short(digest)} vanished from the fleet's store.")
        return entry

    return await TURNS.call(once)


async def _into_store(
    store: ArtifactStore, connection: DeviceConnection, artifact: artifact_pb2.Artifact
) -> None:
    digest = digests.parse(artifact.digest)
    offset = await asyncio.to_thread(store.committed_offset, digest)
    try:
        upload = await asyncio.to_thread(
            store.begin, digest, artifact.size_bytes, artifact.kind, offset
        )
    except OffsetMismatch as error:
        raise Busy(error.what, why="Another process downloads the same one.") from error
    with upload:
        await transfer.download(connection, artifact, upload)
