"""What an attempt made, an adapter or a dataset: from the job's folder into the store.

All ways lead through here: a worker that reports its result, and a result that is found because the
worker died before its report, or the agent before it could be journalled. A dataset is not looked
for: its answers are all on the disk, and the next attempt writes it again in a moment.
"""

from pathlib import Path

from artifacts import adapter
from artifacts.store import ArtifactStore
from protos.errors import NanofleetError
from protos.nanofleet.v1.artifact_pb2 import ARTIFACT_KIND_ADAPTER, ARTIFACT_KIND_DATASET
from protos.nanofleet.v1.job_pb2 import JobResult, JobSpec

ADAPTER_NAME = "adapter.tar"


def keep(store: ArtifactStore, path: Path, result: JobResult) -> None:
    """Puts the adapter into the store and its digest and size into ``result``."""
    stored = store.add_file(path, ARTIFACT_KIND_ADAPTER)
    result.adapter_digest = stored.digest
    result.adapter_size_bytes = stored.size_bytes


def keep_dataset(store: ArtifactStore, path: Path, result: JobResult) -> None:
    """As ``keep``."""
    stored = store.add_file(path, ARTIFACT_KIND_DATASET)
    result.generated.dataset_digest = stored.digest
    result.generated.dataset_size_bytes = stored.size_bytes


def found(store: ArtifactStore, folder: Path, job_id: str, spec: JobSpec) -> JobResult | None:
    """The result that lies complete in the job's folder; None when there is none of this job.

    What only the worker knew (times, peaks) is lost with its report; the adapter is not.
    """
    path = folder / ADAPTER_NAME
    if not path.is_file():
        return None
    try:
        manifest = adapter.read_manifest(path)
    except NanofleetError:
        return None
    train, record = spec.train, manifest.training
    if record is None:
        return None
    made_from = (record.job_id, manifest.base_digest, record.dataset_digest)
    if made_from != (job_id, train.base_digest, train.stages[-1].dataset_digest):
        return None
    result = JobResult(
        first_loss=record.first_loss,
        final_loss=record.final_loss,
        steps=record.steps,
        trained_tokens=record.trained_tokens,
    )
    keep(store, path, result)
    return result
