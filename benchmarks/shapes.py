"""Models of true shapes with random weights: time and memory depend on shapes, not on values.

A model is a Hugging Face folder, written one layer at a time so that the peak is the embedding and
not the model, and the base that our own converter makes of it. Each appears under its name only
when it is complete, and is never made twice.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts import durable
from artifacts.persisting import Point
from tests.tiny import write_tokenizer

if TYPE_CHECKING:
    import torch

_SPREAD = 0.02


@dataclass(frozen=True, slots=True)
class Shape:
    """A Gemma 3 with a tied head. Widths are numbers of features."""

    name: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    sliding_window: int


GEMMA3_1B = Shape("gemma3-1b", 26, 1152, 6912, 4, 1, 256, 262_144, 512)
GEMMA3_4B = Shape("gemma3-4b", 34, 2560, 10240, 8, 4, 256, 262_144, 1024)
# For a test of the tool: nothing that it measures means anything.
QUICK = Shape("quick", 2, 128, 256, 2, 1, 32, 640, 32)


class NotConverted(Exception):
    """The converter refused; the text is its reason."""


def folder(models: Path, shape: Shape) -> Path:
    """The shape's Hugging Face folder in bfloat16, made when it is not there."""
    path = models / shape.name
    if path.is_dir():
        return path
    models.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{shape.name}.", dir=models))
    try:
        _write(fresh, shape)
        durable.publish(fresh, path, Point.MODEL_CONVERTED)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return path


def base(models: Path, shape: Shape, file_type: str) -> Path:
    """The base of ``file_type`` that our converter makes of the folder. Raises NotConverted."""
    path = models / f"{shape.name}.{file_type}.gguf"
    if path.exists():
        return path
    source = folder(models, shape)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "artifacts.convert", "--parent", str(os.getpid())),
            *("model", str(source), str(path), "--type", file_type),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stdout.splitlines() or done.stderr.splitlines() or [""])[-1]
        raise NotConverted(f"{file_type}: {said}")
    return path


def _write(path: Path, shape: Shape) -> None:
    """In a process of its own: torch's memory would count as the worker's later (see measuring)."""
    subprocess.run([sys.executable, "-m", "benchmarks.shapes", shape.name, str(path)], check=True)


def write(path: Path, shape: Shape) -> None:
    """Tokenizer, configuration and weights of ``shape``, into the folder ``path``."""
    import torch
    from safetensors.torch import save_file
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    write_tokenizer(path)
    config = Gemma3TextConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head,
        query_pre_attn_scalar=shape.head,
        sliding_window=shape.sliding_window,
        max_position_embeddings=32_768,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        architectures=["Gemma3ForCausalLM"],
        dtype=torch.bfloat16,
    )
    config.save_pretrained(path)
    with torch.device("meta"):
        names = Gemma3ForCausalLM(config).state_dict()
    names.pop("lm_head.weight")  # tied
    shards: dict[str, list[str]] = {}
    for name in names:
        part = name.split(".")[2] if ".layers." in name else "rest"
        shards.setdefault(f"model-{part}.safetensors", []).append(name)
    generator = torch.Generator().manual_seed(0)
    for file, held in shards.items():
        tensors = {name: _random(names[name], generator) for name in held}
        save_file(tensors, path / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: file for file, held in shards.items() for n in held}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def _random(like: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
    import torch

    if like.dim() == 1:  # a norm, whose scale is 1 + w
        return torch.zeros(like.shape, dtype=torch.bfloat16)
    return torch.empty(like.shape, dtype=torch.bfloat16).normal_(0, _SPREAD, generator=generator)


if __name__ == "__main__":
    known = {shape.name: shape for shape in (GEMMA3_1B, GEMMA3_4B, QUICK)}
    write(Path(sys.argv[2]), known[sys.argv[1]])
