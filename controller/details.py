"""What the catalogue notes of an artifact. Reading it is also the check of its format."""

from pathlib import Path

from artifacts import adapter, base_model, dataset, fitness, prompts
from artifacts.record import Kind
from protos.errors import InvalidDataset
from protos.nanofleet.v1 import artifact_pb2


def read(path: Path, kind: Kind) -> dict[str, object]:
    """The details of a kind, see records.CatalogueEntry. Raises what the format's reader says."""
    if kind == artifact_pb2.ARTIFACT_KIND_BASE_MODEL:
        model = base_model.read(path)
        return {
            "architecture": model.architecture,
            "file_type": model.file_type,
            "context_length": model.context_length,
            "parameters": model.parameter_count,
            "instruct": model.chat_template is not None,
            "source_digest": model.source_digest,
            "warnings": fitness.warnings(model),
        }
    if kind == artifact_pb2.ARTIFACT_KIND_DATASET:
        report = dataset.check(path)
        return {
            "shape": report.shape.value,
            "samples": report.samples,
            "characters": report.characters,
            "warnings": list(report.warnings),
        }
    if kind == artifact_pb2.ARTIFACT_KIND_ADAPTER:
        manifest = adapter.read_manifest(path)
        training = manifest.training
        return {
            "base_digest": manifest.base_digest,
            "source_digest": manifest.source_digest,
            "rank": manifest.rank,
            "created_utc_ns": manifest.created_utc_ns,
            "imported_from": manifest.imported_from,
            "dataset_digest": training.dataset_digest if training else None,
            "job_id": training.job_id if training else None,
            "first_loss": training.first_loss if training else None,
            "final_loss": training.final_loss if training else None,
            "steps": training.steps if training else None,
        }
    return {}


def read_prompts(path: Path) -> dict[str, object]:
    """Of a dataset whose lines need no answers; the same as ``read`` where they all have one."""
    try:
        return read(path, artifact_pb2.ARTIFACT_KIND_DATASET)
    except InvalidDataset:
        report = prompts.check(path)
    return {
        "shape": "prompts",
        "samples": report.prompts,
        "characters": report.characters,
        "warnings": [],
    }
