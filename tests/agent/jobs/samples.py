"""Specs of jobs as a controller would send them."""

import json
from pathlib import Path

from artifacts import adapter, digest
from artifacts.digest import Digest
from artifacts.manifest import AdapterManifest, TrainingRecord
from protos.nanofleet.v1.inference_pb2 import Chat, ChatMessage, Sampling
from protos.nanofleet.v1.job_pb2 import (
    OUTPUT_SHAPE_CHAT,
    SCHEDULE_COSINE,
    GenerateSpec,
    JobSpec,
    LoraSpec,
    TrainSpec,
    TrainStage,
)

FIRST = "01JD00000000000000000000A1"
SECOND = "01JD00000000000000000000B2"


STAGE_FIELDS = TrainStage.DESCRIPTOR.fields_by_name


def train_spec(**changes: object) -> TrainSpec:
    """``changes`` are fields of TrainSpec, or of its only stage."""
    spec = TrainSpec(
        base_digest=digest.of_bytes(b"base"),
        lora=LoraSpec(rank=4, alpha=8, targets=["q_proj", "v_proj"]),
        sequence_length=64,
        accumulation=1,
        stages=[
            TrainStage(
                dataset_digest=digest.of_bytes(b"dataset"),
                steps=4,
                learning_rate=1e-3,
                schedule=SCHEDULE_COSINE,
            )
        ],
        checkpoint_period_s=300,
        threads=1,
    )
    of_stage = {name: changes.pop(name) for name in [*changes] if name in STAGE_FIELDS}
    spec.stages[0].MergeFrom(TrainStage(**of_stage))  # type: ignore[arg-type]
    spec.MergeFrom(TrainSpec(**changes))  # type: ignore[arg-type]
    return spec


def generate_spec(**changes: object) -> GenerateSpec:
    spec = GenerateSpec(
        base_digest=digest.of_bytes(b"base"),
        dataset_digest=digest.of_bytes(b"dataset"),
        dataset_name="questions.jsonl",
        output=OUTPUT_SHAPE_CHAT,
        answers=1,
        max_tokens=48,
        sampling=Sampling(temperature=1.0, seed=7),
        context_length=256,
        threads=1,
    )
    if not {"prompt", "chat", "conversation"} & set(changes):
        message = ChatMessage(role="user", content="Answer about the {topic}: {question}")
        spec.chat.CopyFrom(Chat(messages=[message]))
    spec.MergeFrom(GenerateSpec(**changes))  # type: ignore[arg-type]
    return spec


def spec_bytes(train: TrainSpec | None = None, name: str = "persona") -> bytes:
    return JobSpec(name=name, train=train or train_spec()).SerializeToString(deterministic=True)


TRAINING = TrainingRecord(
    job_id=FIRST,
    dataset_digest=Digest(train_spec().stages[0].dataset_digest),
    recipe={},
    first_loss=3.0,
    final_loss=1.0,
    steps=4,
    trained_tokens=99,
    energy_j=None,
    agent_version="0.1.0",
)
MANIFEST = AdapterManifest(
    name="persona",
    base_digest=Digest(train_spec().base_digest),
    tokenizer_digest=Digest(train_spec().base_digest),
    rank=4,
    alpha=8.0,
    targets=("q_proj",),
    created_utc_ns=1,
    training=TRAINING,
)


def leave_adapter(folder: Path, manifest: AdapterManifest = MANIFEST) -> None:
    """What a worker leaves that finished when nobody was listening any more."""
    made = folder / "adapter"
    made.mkdir(parents=True)
    header = json.dumps({}).encode()
    (made / "nanofleet.json").write_bytes(manifest.to_json())
    (made / "adapter_config.json").write_bytes(b"{}")
    (made / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (made / "adapter.gguf").write_bytes(b"GGUF")
    adapter.pack(made, folder / "adapter.tar")
