"""The export gate lets through what is right in every type, and nothing that is a little wrong."""

import json
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from artifacts import base_model
from artifacts.convert import FileType, convert_model, proof
from artifacts.convert.check_text import CHECK_TEXTS
from protos.errors import InvalidRequest
from tests.artifacts.convert import shapes
from tests.artifacts.convert.test_command import ROOT, run
from tests.artifacts.convert.tokenizers_at_home import edited

# The scripts by the first word of their letters' names.
SCRIPTS = (
    *("LATIN", "DEVANAGARI", "TAMIL", "KANNADA", "BENGALI", "ARABIC", "HEBREW", "CJK", "HIRAGANA"),
    *("KATAKANA", "HANGUL", "THAI", "CYRILLIC", "GREEK", "ETHIOPIC", "GEORGIAN", "ARMENIAN"),
    *("KHMER", "CUNEIFORM"),
)
ROPE = "rope_parameters"


@pytest.mark.parametrize("file_type", FileType)
def test_every_family_passes_in_every_type(
    checkpoint: Path, tmp_path: Path, file_type: FileType
) -> None:
    """Through the real command."""
    target = tmp_path / "model.gguf"
    code, lines = run("model", checkpoint, target, "--type", file_type.value)
    assert code == 0, lines[-1]
    found = lines[-1]["proof"]
    assert 0 < found["logit_difference"] < 2e-3
    bounds = {FileType.Q4_0: 2e-2, FileType.F32: 1e-6, FileType.F16: 1e-5}
    assert 0 < found["divergence_nats"] < bounds.get(file_type, 1e-4)
    assert found["agreement"] == 1.0
    assert found["texts"] == len(CHECK_TEXTS)
    assert target.exists()


def test_the_check_texts_are_of_many_scripts_and_composed() -> None:
    text = "\n".join(CHECK_TEXTS)
    found = {unicodedata.name(letter, "?").split()[0].split("-")[0] for letter in text}
    assert set(SCRIPTS) <= found
    assert unicodedata.is_normalized("NFC", text)


def changed(source: Path, folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def theta(kind: str | None, value: float) -> Callable[[dict[str, Any]], None]:
    def edit(config: dict[str, Any]) -> None:
        (config[ROPE][kind] if kind else config[ROPE])["rope_theta"] = value

    return edit


WRONG: list[tuple[str, str, Callable[[dict[str, Any]], None]]] = [
    ("gemma3", "global rope base", theta("full_attention", 10_000.0)),
    ("gemma3", "local rope base", theta("sliding_attention", 5_000.0)),
    ("gemma3", "window", lambda config: config.update(sliding_window=48)),
    ("gemma3", "epsilon", lambda config: config.update(rms_norm_eps=1e-2)),
    ("qwen2", "rope base", theta(None, 10_000.0)),
    ("qwen3", "rope base", theta(None, 10_000.0)),
    ("llama", "rope base", theta(None, 500_000.0)),
    ("llama", "stretch", lambda config: config[ROPE].update(factor=2.0)),
]


@pytest.mark.parametrize("file_type", [FileType.F32, FileType.Q8_0, FileType.Q4_0])
@pytest.mark.parametrize(("family", "name", "edit"), WRONG, indirect=["family"])
def test_a_file_whose_settings_are_not_the_folders_is_refused(
    checkpoint: Path,
    tmp_path: Path,
    name: str,
    edit: Callable[[dict[str, Any]], None],
    file_type: FileType,
) -> None:
    """In every type, also where eight or four bits move the logits more than the setting does."""
    other, file = changed(checkpoint, tmp_path / "other", edit), tmp_path / "model.gguf"
    convert_model(other, file, file_type)
    with pytest.raises(InvalidRequest, match=r"a logit differs by \d.*is allowed") as caught:
        proof.prove(checkpoint, file, file_type)
    assert caught.value.reason == "CONVERSION_NOT_PROVED"


@pytest.mark.parametrize("tensor", ["model.layers.4.mlp.up_proj.weight", "model.norm.weight"])
def test_a_file_with_other_weights_is_refused_with_the_figures(
    tiny_folder: Path, tmp_path: Path, tensor: str
) -> None:
    """The excerpt is exact, of the wrong numbers; the whole file is not the original."""
    other = Path(shutil.copytree(tiny_folder, tmp_path / "other"))
    state = load_file(other / "model.safetensors")
    state[tensor] = state[tensor].flip(0)
    save_file(state, other / "model.safetensors")
    convert_model(other, tmp_path / "model.gguf")
    with pytest.raises(InvalidRequest, match=r"moves by [\d.]+ nats.*Refused is more than 0\.01"):
        proof.prove(tiny_folder, tmp_path / "model.gguf", FileType.Q8_0)


def test_a_file_with_another_tokenizer_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_folder, tmp_path / "other"))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][20:]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    convert_model(other, tmp_path / "model.gguf")
    with pytest.raises(InvalidRequest, match=r"splits a text otherwise.*tokens instead of"):
        proof.prove(tiny_folder, tmp_path / "model.gguf", FileType.Q8_0)


def test_what_is_refused_leaves_what_was_there(tiny_folder: Path, tmp_path: Path) -> None:
    """A tokenizer that llama.cpp follows otherwise, through the command: words that the merges do
    not reach, which only llama.cpp's kind without a space in front can tell apart."""

    def edit(tokenizer: dict[str, Any]) -> None:
        prepend = {"type": "Prepend", "prepend": "▁"}
        steps = [prepend, tokenizer["normalizer"]]
        tokenizer["normalizer"] = {"type": "Sequence", "normalizers": steps}
        tokenizer["model"]["merges"] = tokenizer["model"]["merges"][::-1][:40]

    folder = edited(Path(shutil.copytree(tiny_folder, tmp_path / "folder")), edit)
    target = tmp_path / "out" / "model.gguf"
    target.parent.mkdir()
    target.write_bytes(b"older")
    code, lines = run("model", folder, target)
    assert (code, lines[-1].get("reason")) == (1, "CONVERSION_NOT_PROVED")
    assert [path.name for path in target.parent.iterdir()] == ["model.gguf"]
    assert target.read_bytes() == b"older"


def test_a_costly_type_is_a_warning_with_the_figures(tmp_path: Path) -> None:
    """Logits that spread more widely lose more by the same rounding."""
    folder = shapes.build("qwen2", tmp_path / "loud", tie_word_embeddings=False)
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"] *= 4
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    convert_model(folder, tmp_path / "model.gguf")
    found, (warning,) = proof.prove(folder, tmp_path / "model.gguf", FileType.Q8_0)
    assert 1e-4 < found.divergence_nats < 1e-2
    assert "q8_0 costs this model more than 0.0001 nats" in warning


def test_without_llama_cpp_the_file_comes_with_a_warning(tiny_folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['llama_cpp'] = None\n"
        "from artifacts.convert.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "model", str(tiny_folder), str(tmp_path / "m.gguf")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["proof"] is None
    assert "nanofleet[proof]" in result["warnings"][0]
    assert base_model.read(tmp_path / "m.gguf").file_type == "Q8_0"


def test_the_excerpt_is_smaller_than_the_model(tmp_path: Path) -> None:
    """First layers, first rows: a model of many layers is not written a second time."""
    from artifacts.convert.config import read_config
    from artifacts.convert.written import smaller, write_excerpt

    folder = shapes.build("llama", tmp_path / "deep", num_hidden_layers=12)
    convert_model(folder, tmp_path / "model.gguf")
    base = base_model.read(tmp_path / "model.gguf")
    with (tmp_path / "excerpt.gguf").open("wb") as file:
        write_excerpt(file, base, smaller(read_config(folder).size, 2, 100), tied=False)
    found = base_model.read(tmp_path / "excerpt.gguf")
    assert found.block_count == 2
    assert found.tensors["token_embd.weight"].shape == (100, 128)
    assert {tensor.type for tensor in found.tensors.values()} == {"F32"}
    assert found.parameter_count < base.parameter_count / 3
    assert np.prod(found.tensors["output.weight"].shape) == 100 * 128
