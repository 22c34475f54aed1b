"""What llama.cpp computes with the file is what Transformers computes with the checkpoint."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from artifacts import base_model
from artifacts.convert import FileType, convert_model
from tests.artifacts.convert import shapes
from tests.llama import reference

EXACT = shapes.EXACT


def test_f32_gives_the_same_logits_and_tokens(checkpoint: Path, exact: Path) -> None:
    model, tokens = shapes.load(checkpoint), shapes.prompt()
    expected = shapes.logits(model, tokens)
    with reference(exact) as llama:
        found = llama.logits(tokens)
        assert np.abs(found - expected).max() < EXACT
        decided = shapes.decided(expected)
        assert decided.mean() > 0.9
        assert (found.argmax(-1) == expected.argmax(-1))[decided].all()
        for start, generated in shapes.generations(model, tokens):
            assert llama.greedy(start, len(generated)) == generated


@pytest.mark.parametrize(
    ("other", "tied"),
    [("gemma3", False), ("qwen2", False), ("qwen3", False), ("llama", True)],
)
def test_the_head_is_the_embedding_or_a_matrix_of_its_own(
    tmp_path: Path, other: str, tied: bool
) -> None:
    """Of each family what its miniature, which the other tests have, is not."""
    folder = shapes.build(other, tmp_path / other, tie_word_embeddings=tied)
    convert_model(folder, tmp_path / "exact.gguf", FileType.F32)
    assert ("output.weight" in base_model.read(tmp_path / "exact.gguf").tensors) is not tied
    model, tokens = shapes.load(folder), shapes.prompt()
    expected = shapes.logits(model, tokens)
    with reference(tmp_path / "exact.gguf") as llama:
        assert np.abs(llama.logits(tokens) - expected).max() < EXACT
    if not tied:
        # With the embedding in its place the bound would not hold.
        model.lm_head.weight = model.model.embed_tokens.weight
        assert np.abs(shapes.logits(model, tokens) - expected).max() > 20 * EXACT


@pytest.mark.parametrize(
    ("file_type", "nats", "agreement"),
    [
        (FileType.F16, 1e-6, 0.98),
        (FileType.BF16, 1e-5, 0.98),
        (FileType.Q8_0, 1e-4, 0.95),
        (FileType.Q4_0, 2e-2, 0.6),
    ],
)
def test_smaller_types_stay_close(
    checkpoint: Path, tmp_path: Path, file_type: FileType, nats: float, agreement: float
) -> None:
    target, tokens = tmp_path / "model.gguf", shapes.prompt()
    convert_model(checkpoint, target, file_type)
    expected = shapes.logits(shapes.load(checkpoint), tokens)
    with reference(target) as llama:
        found = llama.logits(tokens)
    assert shapes.divergence(expected, found) < nats
    assert (found.argmax(-1) == expected.argmax(-1)).mean() >= agreement


@pytest.mark.parametrize(
    ("family", "edit"),
    [
        ("gemma3", {"rope_parameters.full_attention.rope_theta": 10_000.0}),
        ("gemma3", {"rope_parameters.sliding_attention.rope_theta": 5_000.0}),
        ("gemma3", {"sliding_window": 64}),
        ("gemma3", {"rms_norm_eps": 1e-2}),
        ("qwen2", {"rope_parameters.rope_theta": 10_000.0}),
        ("qwen3", {"rope_parameters.rope_theta": 10_000.0}),
        ("llama", {"rope_parameters.rope_theta": 500_000.0}),
        ("llama", {"rope_parameters.factor": 2.0}),
    ],
    indirect=["family"],
)
def test_the_bound_sees_a_wrong_setting(
    checkpoint: Path, tmp_path: Path, edit: dict[str, object]
) -> None:
    """The comparison is worth something: each setting, changed, goes past the bound."""
    folder = _edited(checkpoint, tmp_path / "wrong", edit)
    convert_model(folder, tmp_path / "wrong.gguf", FileType.F32)
    tokens = shapes.prompt()
    expected = shapes.logits(shapes.load(checkpoint), tokens)
    with reference(tmp_path / "wrong.gguf") as llama:
        assert np.abs(llama.logits(tokens) - expected).max() > EXACT


def test_settings_other_than_the_defaults_arrive(tiny_folder: Path, tmp_path: Path) -> None:
    """llama.cpp has Gemma's values built in; a file with others must override them."""
    edit: dict[str, object] = {
        "rope_parameters.full_attention.rope_theta": 50_000.0,
        "rope_parameters.sliding_attention.rope_theta": 2_000.0,
        "rope_parameters.full_attention.rope_type": "linear",
        "rope_parameters.full_attention.factor": 4.0,
        "sliding_window": 16,
        "rms_norm_eps": 1e-3,
    }
    folder = _edited(tiny_folder, tmp_path / "other", edit)
    convert_model(folder, tmp_path / "other.gguf", FileType.F32)
    tokens = shapes.prompt()
    expected = shapes.logits(shapes.load(folder), tokens)
    with reference(tmp_path / "other.gguf") as llama:
        assert np.abs(llama.logits(tokens) - expected).max() < EXACT


def test_the_configuration_of_transformers_4_means_the_same(
    tiny_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """As the hub has Gemma 3 1B: flat rope keys, no layer_types, no tie_word_embeddings."""
    folder = tmp_path / tiny_folder.name
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    for key in ("rope_parameters", "layer_types", "tie_word_embeddings"):
        config.pop(key)
    config |= {
        "rope_theta": 1_000_000,
        "rope_local_base_freq": 10_000,
        "rope_scaling": None,
        "sliding_window_pattern": 6,
    }
    (folder / "config.json").write_text(json.dumps(config))
    convert_model(folder, tmp_path / "old.gguf")
    assert (tmp_path / "old.gguf").read_bytes() == tiny_base.read_bytes()


def test_shards_give_the_same_file(tiny_base: Path, tmp_path: Path) -> None:
    from tests.tiny import build_hugging_face_folder

    folder = build_hugging_face_folder(tmp_path / "tiny-gemma", shard_bytes=300_000)
    assert len(list(folder.glob("*.safetensors"))) > 3
    convert_model(folder, tmp_path / "sharded.gguf")
    assert (tmp_path / "sharded.gguf").read_bytes() == tiny_base.read_bytes()


def test_the_header_says_what_the_model_is(tiny_base: Path) -> None:
    model = base_model.read(tiny_base)
    assert (model.architecture, model.name, model.file_type) == ("gemma3", "tiny-gemma", "Q8_0")
    assert (model.block_count, model.embedding_length, model.context_length) == (6, 128, 2048)
    assert model.tensors["blk.0.attn_q.weight"].shape == (64, 128)
    assert model.tensors["blk.0.attn_norm.weight"].type == "F32"
    assert "output.weight" not in model.tensors
    assert model.chat_template is not None
    assert "<start_of_turn>" in model.chat_template


def _edited(source: Path, folder: Path, edit: dict[str, object]) -> Path:
    """A copy of the folder with values of config.json replaced; dots lead into objects."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    for path, value in edit.items():
        *parents, key = path.split(".")
        place = config
        for parent in parents:
            place = place[parent]
        place[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder
