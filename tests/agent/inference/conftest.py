"""A tiny model that has something to say, PEFT adapters of it, and both as files for llama.cpp.

The shared tiny model repeats its last token under almost any weights (its embedding is tied, and
large beside what the layers add), so that greedy answers would prove little. Here the embedding is
made small beside the layers, and the final norm as much larger.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.inference.engine import Adapter, EngineOptions
from agent.inference.llama import LlamaEngine
from artifacts.convert import FileType, convert_adapter, convert_model
from artifacts.digest import of_file
from tests.tiny import build_hugging_face_folder

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONTEXT = 512


@dataclass(frozen=True, slots=True)
class TinyAdapter:
    folder: Path
    adapter: Adapter


@pytest.fixture(scope="session")
def lively_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lively_folder(tmp_path_factory.mktemp("lively") / "lively")


@pytest.fixture(scope="session")
def lively_base(lively_folder: Path) -> Path:
    """In F32: greedy tokens must equal those of Transformers."""
    target = lively_folder.parent / "lively-f32.gguf"
    convert_model(lively_folder, target, FileType.F32)
    return target


@pytest.fixture(scope="session")
def lively_base_q8(lively_folder: Path) -> Path:
    """The form that devices get."""
    target = lively_folder.parent / "lively-q8_0.gguf"
    convert_model(lively_folder, target, FileType.Q8_0)
    return target


@pytest.fixture(scope="session")
def first(lively_folder: Path, lively_base: Path) -> TinyAdapter:
    return make_adapter(lively_folder, lively_base, "first", seed=1, targets=ALL)


@pytest.fixture(scope="session")
def second(lively_folder: Path, lively_base: Path) -> TinyAdapter:
    targets = ("q_proj", "v_proj")
    return make_adapter(lively_folder, lively_base, "second", seed=2, targets=targets, scale=0.3)


@pytest.fixture(scope="session")
def broken(lively_folder: Path, lively_base: Path) -> TinyAdapter:
    """Its weights are numbers, and what comes of them is not."""
    return make_adapter(lively_folder, lively_base, "broken", seed=3, targets=ALL, scale=3e37)


@pytest.fixture
def engine(lively_base: Path) -> Iterator[LlamaEngine]:
    opened = LlamaEngine.open(lively_base, EngineOptions(context_length=CONTEXT))
    with opened:
        yield opened


@contextmanager
def peft_warnings_ignored() -> Iterator[None]:
    """PEFT 0.21 reads an attribute of the model by a name that Transformers 5 has retired."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def make_lively_folder(folder: Path, context_length: int = 2048, hidden: int = 128) -> Path:
    import torch
    from transformers import Gemma3ForCausalLM

    build_hugging_face_folder(folder, context_length=context_length, hidden=hidden, dtype="float32")
    model = Gemma3ForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(0.1)
        # Gemma's norm multiplies by 1 + weight.
        model.model.norm.weight.add_(1).mul_(10).sub_(1)
    model.save_pretrained(folder)
    return folder


def make_adapter(
    base_folder: Path,
    base: Path,
    name: str,
    *,
    seed: int,
    targets: Sequence[str],
    scale: float = 0.05,
) -> TinyAdapter:
    """An adapter whose B is not zero: as if it had been trained."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Gemma3ForCausalLM

    torch.manual_seed(seed)
    plain = Gemma3ForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(targets), task_type="CAUSAL_LM")
    with peft_warnings_ignored():
        model = get_peft_model(plain, config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.copy_(torch.randn(parameter.shape) * scale)
    folder = base_folder.parent / name
    model.save_pretrained(folder)
    target = base_folder.parent / f"{name}.gguf"
    convert_adapter(folder, base, target)
    return TinyAdapter(folder, Adapter(of_file(target), target))


def transformers_model(folder: Path, adapter: Path | None = None) -> Any:
    """The reference: the same weights in float32."""
    import torch
    from peft import PeftModel
    from transformers import Gemma3ForCausalLM

    model = Gemma3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter:
        with peft_warnings_ignored():
            model = PeftModel.from_pretrained(model, adapter)
    return model
