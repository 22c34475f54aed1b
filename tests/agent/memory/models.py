"""Headers of models whose size is known, without their weights."""

from pathlib import Path

from agent.memory.forecast import Forecast, training_forecast
from agent.memory.plan import choose
from agent.memory.torch_build import CPU, TorchBuild
from artifacts.base_model import BaseModel, TensorInfo
from artifacts.digest import Digest
from protos.nanofleet.v1.job_pb2 import LoraSpec, TrainSpec

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
DIGEST = "sha256:" + "b" * 64


def gemma_3_1b() -> BaseModel:
    """Its true shape, as Q8_0."""
    shapes = {
        "token_embd": (262_144, 1152),
        "blk.0.attn_q": (1024, 1152),
        "blk.0.attn_k": (256, 1152),
        "blk.0.attn_v": (256, 1152),
        "blk.0.attn_output": (1152, 1024),
        "blk.0.ffn_gate": (6912, 1152),
        "blk.0.ffn_up": (6912, 1152),
        "blk.0.ffn_down": (1152, 6912),
    }
    tensors = {
        f"{name}.weight": TensorInfo(f"{name}.weight", shape, "Q8_0", 0, 0)
        for name, shape in shapes.items()
    }
    metadata = {
        "gemma3.block_count": 26,
        "gemma3.context_length": 32_768,
        "gemma3.attention.head_count": 4,
    }
    return BaseModel(
        path=Path("gemma-3-1b.gguf"),
        architecture="gemma3",
        name="gemma-3-1b",
        metadata=metadata,
        tensors=tensors,
        tokenizer_digest=Digest("sha256:" + "a" * 64),
        size_bytes=1_069_305_376,
    )


def recipe(
    tokens: int = 256, rank: int = 8, targets: tuple[str, ...] = ATTENTION, stored: int = 0
) -> TrainSpec:
    return TrainSpec(
        base_digest=DIGEST,
        lora=LoraSpec(rank=rank, alpha=16, targets=targets),
        sequence_length=tokens,
        stored_layers=stored,
    )


def forecast_of(
    base: BaseModel,
    spec: TrainSpec,
    element_bytes: int = 4,
    *,
    shared_gpu: bool = False,
    torch: TorchBuild = CPU,
) -> Forecast:
    """With the plan that the recipe asks for."""
    plan = choose(base, spec)
    return training_forecast(base, spec, plan, element_bytes, shared_gpu=shared_gpu, torch=torch)
