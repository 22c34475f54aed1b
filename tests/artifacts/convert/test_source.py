"""The digest of the original weights: one for all files of a model, another for any other model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from artifacts import base_model, digest
from artifacts.convert import FileType, convert_model
from artifacts.convert.model import source_digest
from tests.tiny import build_hugging_face_folder


def test_files_of_every_type_name_the_same_source(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("optimum.quanto")
    paths = {kind: tmp_path / f"{kind.value}.gguf" for kind in FileType}
    for kind, path in paths.items():
        convert_model(checkpoint, path, kind)
    expected = source_digest(checkpoint)
    models = [base_model.read(path) for path in paths.values()]
    assert {model.source_digest for model in models} == {expected}
    assert all(model.is_sibling_of(models[0]) for model in models)
    assert len({digest.of_file(path) for path in paths.values()}) == len(FileType)


def edited(folder: Path, target: Path, **settings: object) -> Path:
    """A copy with values of config.json replaced."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **settings}))
    return target


def test_how_the_weights_are_stored_means_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    """In shards; in another order and type, with a copy of the tied head; under another name."""
    expected = source_digest(tiny_folder)
    assert source_digest(build_hugging_face_folder(tmp_path / "s", shard_bytes=300_000)) == expected
    folder = edited(tiny_folder, tmp_path / "another-name")
    path = folder / "model.safetensors"
    state = dict(reversed(load_file(path).items()))
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file({name: tensor.float() for name, tensor in state.items()}, path)
    assert source_digest(folder) == expected


def test_another_number_or_setting_is_another_source(tiny_folder: Path, tmp_path: Path) -> None:
    folder = edited(tiny_folder, tmp_path / "weight")
    state = load_file(folder / "model.safetensors")
    # The least change that bfloat16 knows.
    state["model.layers.3.mlp.up_proj.weight"][5].view(torch.int16)[7] ^= 1
    save_file(state, folder / "model.safetensors")
    others = [
        folder,
        edited(tiny_folder, tmp_path / "window", sliding_window=16),
        edited(tiny_folder, tmp_path / "epsilon", rms_norm_eps=1e-5),
        build_hugging_face_folder(tmp_path / "untied", tie_word_embeddings=False),
    ]
    found = {source_digest(one) for one in (tiny_folder, *others)}
    assert len(found) == 1 + len(others)


def test_the_tokenizer_has_a_digest_of_its_own(tiny_folder: Path, tmp_path: Path) -> None:
    folder = edited(tiny_folder, tmp_path / "other")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    convert_model(tiny_folder, tmp_path / "first.gguf")
    convert_model(folder, tmp_path / "second.gguf")
    first, second = (base_model.read(tmp_path / f"{name}.gguf") for name in ("first", "second"))
    assert first.source_digest == second.source_digest
    assert first.tokenizer_digest != second.tokenizer_digest
    assert not first.is_sibling_of(second)
