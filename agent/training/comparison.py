"""A checkpoint against the adapter that was exported at the same step: both were written from the
same weights, so reading the one back must give the other, bit for bit."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from agent.training import checkpoint
from agent.training.checkpoint import FOLDER, CheckpointFolder
from agent.training.export import PEFT_PREFIX
from agent.training.failures import TrainingFailure
from artifacts import adapter
from protos.nanofleet.v1 import job_pb2

_ADAPTER = "adapter."


def checkpoint_with_export(spec: job_pb2.TrainSpec, folder: Path, exported: Path) -> int:
    """``folder`` is the job's, ``exported`` has PEFT's files; how many tensors were compared.

    Raises TrainingFailure when they differ, or there is nothing to compare.
    """
    found = CheckpointFolder(folder / FOLDER).newest(checkpoint.recipe_digest(spec))
    state = found.state if found is not None else {}
    weights = load_file(exported / adapter.SAFETENSORS)
    kept = {PEFT_PREFIX + name.removeprefix(_ADAPTER): tensor for name, tensor in state.items()
            if name.startswith(_ADAPTER)}  # fmt: skip
    wrong = [name for name in weights if not _same(weights[name], kept.get(name))]
    if wrong or not weights:
        raise TrainingFailure(
            job_pb2.CAUSE_WORKER_CRASH,
            f"The checkpoint read back is not what was trained ({len(wrong)} of {len(weights)} "
            "tensors differ): the disk or the memory of this device cannot be trusted. Check them.",
        )
    return len(weights)


def _same(exported: torch.Tensor, kept: torch.Tensor | None) -> bool:
    return kept is not None and torch.equal(exported, kept)
