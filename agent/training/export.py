"""The result of a training: PEFT's two files, the same weights for llama.cpp, and where they are
from, in one archive.

``PeftModel.from_pretrained`` loads the files unchanged. The GGUF LoRA is made by the converter in a
process of its own, from the very files that are packed; it ends with this one.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from agent.training import tensor_file
from agent.training.failures import TrainingFailure, bad_spec
from agent.training.graph import TrainedModel
from agent.training.trainer import Progress
from artifacts import adapter, digest, durable
from artifacts.base_model import BaseModel
from artifacts.manifest import AdapterManifest, Json, TrainingRecord
from artifacts.persisting import Point
from protos.errors import DiskFull
from protos.nanofleet.v1 import job_pb2, worker_pb2

ADAPTER_FILE = "adapter.tar"
# What PEFT calls the modules of a causal language model that it has wrapped.
PEFT_PREFIX = "base_model.model.model."


def export(
    start: worker_pb2.StartTraining,
    base: BaseModel,
    model: TrainedModel,
    progress: Progress,
    steps: int,
    may_publish: Callable[[], bool] = lambda: True,
) -> Path | None:
    """Writes ``adapter.tar`` in the job's folder, durably; returns its path. Asks last whether it
    still may; None, and no file, when it may not: the job's lease has ended."""
    job_folder = Path(start.job_folder)
    folder = job_folder / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_peft(folder, base, model, start.spec)
    convert(folder, base.path)
    manifest = _manifest(start, base, progress, steps)
    durable.write_bytes(folder / adapter.MANIFEST, manifest.to_json(), Point.ADAPTER_PART)
    target, packed = job_folder / ADAPTER_FILE, job_folder / f".{ADAPTER_FILE}"
    adapter.pack(folder, packed)
    shutil.rmtree(folder)
    if not may_publish():
        packed.unlink()
        return None
    durable.publish(packed, target, Point.ADAPTER_PUBLISHED)
    return target


def write_peft(folder: Path, base: BaseModel, model: TrainedModel, spec: job_pb2.TrainSpec) -> None:
    """Its two files. Raises TrainingFailure for weights that are not finite."""
    tensors = {PEFT_PREFIX + name: p.detach().cpu() for name, p in model.parameters.items()}
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise bad_spec(
            f"The adapter is not finite after the last step. Lower the learning rate "
            f"({spec.stages[-1].learning_rate:g}) or set gradient_clip."
        )
    with durable.replacing(folder / adapter.SAFETENSORS, Point.ADAPTER_PART) as file:
        tensor_file.write(file, tensors, {"format": "pt"})
    durable.write_bytes(folder / adapter.CONFIG, _peft_config(base, spec.lora), Point.ADAPTER_PART)


def _peft_config(base: BaseModel, lora: job_pb2.LoraSpec) -> bytes:
    """What PEFT's LoraConfig reads; it has defaults for the rest."""
    fields = {
        "base_model_name_or_path": base.name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": sorted(lora.targets),
        "task_type": "CAUSAL_LM",
        "use_rslora": lora.rank_stabilized,
    }
    return json.dumps(fields, indent=2, sort_keys=True).encode() + b"\n"


def convert(folder: Path, base: Path) -> None:
    """The same weights for llama.cpp, beside PEFT's files. Raises TrainingFailure."""
    target = folder / adapter.GGUF
    command = [sys.executable, "-m", "artifacts.convert", "--parent", str(os.getpid()), "adapter"]
    child = subprocess.run(
        [*command, str(folder), str(base), str(target)], stdout=subprocess.PIPE, check=False
    )
    lines = child.stdout.decode("utf-8", "replace").splitlines()
    answer = json.loads(lines[-1]) if lines else {}
    if child.returncode == 0 and answer.get("event") == "result":
        return
    why = answer.get("what") or f"The converter ended with exit code {child.returncode}."
    is_full = answer.get("type") == DiskFull.__name__
    raise TrainingFailure(
        job_pb2.CAUSE_DISK_FULL if is_full else job_pb2.CAUSE_WORKER_CRASH,
        f"The adapter was trained but not converted for llama.cpp. {why} A retry only converts it "
        "again. The attempt's log has the details.",
    )


def _manifest(
    start: worker_pb2.StartTraining, base: BaseModel, progress: Progress, steps: int
) -> AdapterManifest:
    spec = start.spec
    return AdapterManifest(
        name=start.job_name or start.job_id,
        base_digest=digest.parse(spec.base_digest, "base_digest"),
        tokenizer_digest=base.tokenizer_digest,
        source_digest=base.source_digest,
        rank=spec.lora.rank,
        alpha=spec.lora.alpha,
        targets=tuple(sorted(spec.lora.targets)),
        created_utc_ns=time.time_ns(),
        training=TrainingRecord(
            job_id=start.job_id,
            dataset_digest=digest.parse(spec.stages[-1].dataset_digest, "dataset_digest"),
            recipe=_recipe(spec),
            first_loss=progress.first_loss,
            final_loss=progress.last_loss,
            steps=steps,
            trained_tokens=progress.trained_tokens,
            energy_j=None,
            agent_version=_agent_version(),
        ),
    )


def _recipe(spec: job_pb2.TrainSpec) -> dict[str, Json]:
    fields: dict[str, Json] = MessageToDict(
        spec, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    # protobuf writes numbers of 64 bits as texts.
    return {**fields, "seed": spec.seed}


def _agent_version() -> str:
    try:
        return version("nanofleet")
    except PackageNotFoundError:
        return "unknown"
