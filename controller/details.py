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
        return {
            "base_digest": manifest.base_digest,
            "source_digest": manifest.source_digest,
            "dataset_digest": manifest.dataset_digest,
            "job_id": manifest.job_id,
            "rank": manifest.rank,
            "first_loss": manifest.first_loss,
            "final_loss": manifest.final_loss,
            "steps": manifest.steps,
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
