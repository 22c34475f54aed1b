"""A Gemma 3 that sees pictures: its language model is imported as if it were alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from artifacts.convert import FileType, convert_model, merge_adapter
from artifacts.convert.checkpoint import read_checkpoint
from artifacts.convert.config import Rope, read_config
from artifacts.convert.proof import prove
from protos.errors import InvalidRequest
from tests.artifacts.convert import shapes

# As in gemma-3-4b-it's config.json: all else is the class's default.
PUBLISHED = {
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10_240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"model_type": "siglip_vision_model"},
}


@pytest.fixture(scope="module")
def seeing(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with eyes, in a folder of the same name."""
    import torch
    from transformers import AutoConfig, Gemma3Config, Gemma3ForConditionalGeneration

    folder = tmp_path_factory.mktemp("seeing") / tiny_folder.name
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    text = AutoConfig.from_pretrained(tiny_folder).to_dict()
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision))
    alone = shapes.load(tiny_folder)
    model.model.language_model.load_state_dict(alone.model.state_dict())
    model.generation_config = alone.generation_config
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def published(name: str) -> str:
    return name


def of_transformers_4_52(name: str) -> str:
    if name.startswith("language_model."):
        return "model.language_model." + name.removeprefix("language_model.model.")
    return "model." + name


@pytest.mark.parametrize("renamed", [published, of_transformers_4_52])
def test_the_file_is_that_of_the_language_model_alone(
    tiny_folder: Path, seeing: Path, tmp_path: Path, renamed: Callable[[str], str]
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / seeing.name
    shutil.copytree(seeing, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {renamed(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors"
    )
    found = convert_model(folder, tmp_path / "seeing.gguf", FileType.Q8_0)
    convert_model(tiny_folder, tmp_path / "alone.gguf", FileType.Q8_0)
    assert (tmp_path / "seeing.gguf").read_bytes() == (tmp_path / "alone.gguf").read_bytes()
    assert any("sees pictures" in warning for warning in found.warnings)
    prove(folder, tmp_path / "seeing.gguf", FileType.Q8_0)


def test_what_the_published_settings_leave_out_is_the_class_s(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    config = read_config(tmp_path)
    assert (config.size.layers, config.size.hidden, config.size.heads) == (34, 2560, 8)
    assert (config.size.kv_heads, config.size.head, config.size.vocabulary) == (4, 256, 262_208)
    assert (config.sliding_window, config.context_length) == (1024, 131_072)
    assert config.rope == Rope(1_000_000.0, "linear", 8.0)
    assert config.tied


def test_a_quantised_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**PUBLISHED, "quantization_config": {}}))
    with pytest.raises(InvalidRequest, match="quantised already"):
        read_config(tmp_path)


def test_an_adapter_is_merged_into_the_language_model_only(
    tiny_folder: Path, seeing: Path, tmp_path: Path
) -> None:
    from transformers import Gemma3ForConditionalGeneration

    shapes.write_adapter(shapes.load(tiny_folder), tmp_path / "peft")
    merge_adapter(tmp_path / "peft", seeing, tmp_path / "merged")
    merge_adapter(tmp_path / "peft", tiny_folder, tmp_path / "alone")
    before, after = read_checkpoint(seeing), read_checkpoint(tmp_path / "merged")
    alone = read_checkpoint(tmp_path / "alone")
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        plain = name.removeprefix("language_model.")
        expected = before[name] if plain == name else alone[plain]
        rows = tensor.shape[0]
        assert (tensor.rows(0, rows) == expected.rows(0, rows)).all(), name
    _, report = Gemma3ForConditionalGeneration.from_pretrained(
        tmp_path / "merged", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
