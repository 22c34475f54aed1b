"""The qint8 of the file is optimum-quanto's own, bit for bit."""

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from agent.memory.shape import shape_of
from artifacts import base_model, convert
from artifacts.convert import FileType, convert_model
from protos.errors import InvalidRequest
from tests.artifacts.convert import shapes

QUERY, GATE = "model.layers.1.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
PLACES = {
    "blk.1.attn_q": QUERY,
    "blk.0.ffn_gate": GATE,
    "token_embd": EMBEDDING,
    "output": HEAD,
}


def folder_of(dtype: torch.dtype, folder: Path) -> Path:
    """A Llama, which interleaves the rows of its queries, with this type of weights."""
    path = shapes.build("llama", folder) / "model.safetensors"
    state = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    # As that of a token which was never seen.
    state[EMBEDDING][7] = 0
    save_file(state, path, metadata={"format": "pt"})
    return folder


def quantos(matrix: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    quanto = pytest.importorskip("optimum.quanto")
    linear = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, dtype=matrix.dtype)
    linear.weight.data.copy_(matrix)
    model = torch.nn.Sequential(linear)
    quanto.quantize(model, weights=quanto.qint8)
    quanto.freeze(model)
    weight = model[0].weight
    return weight._data.numpy(), weight._scale.flatten().float().numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_what_quanto_makes_of_a_linear(dtype: torch.dtype, tmp_path: Path) -> None:
    pytest.importorskip("optimum.quanto")
    folder = folder_of(dtype, tmp_path / "llama")
    convert_model(folder, tmp_path / "base.gguf", FileType.QINT8)
    state = load_file(folder / "model.safetensors")
    stored = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "base.gguf").tensors}
    for place, source in PLACES.items():
        values, scale = quantos(state[source])
        if source == QUERY:
            # Each head of 32: row 0, 16, 1, 17, …
            order = np.arange(128).reshape(4, 2, 16).swapaxes(1, 2).flatten()
            values, scale = values[order], scale[order]
        values = np.where(scale[:, None] == 0, 0, values)
        np.testing.assert_array_equal(stored[f"{place}.weight"], values)
        np.testing.assert_array_equal(stored[f"{place}.scale"], scale)
    assert stored["blk.0.attn_norm.weight"].dtype == np.float32


def test_the_header_says_what_it_is(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("optimum.quanto")
    path = tmp_path / "base.gguf"
    assert convert_model(checkpoint, path, FileType.QINT8).size_bytes == path.stat().st_size
    base = base_model.read(path)
    assert base.file_type == "QINT8"
    assert shape_of(base).weights_bytes == path.stat().st_size
    assert base.is_for_training_only


def test_without_quanto_it_says_what_to_install(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optimum.quanto", None)
    monkeypatch.delitem(sys.modules, "artifacts.convert.qint8", raising=False)
    monkeypatch.delattr(convert, "qint8", raising=False)
    with pytest.raises(InvalidRequest, match="needs optimum-quanto") as caught:
        convert_model(checkpoint, tmp_path / "base.gguf", FileType.QINT8)
    assert "pip install 'nanofleet[qint8]'" in caught.value.fix
    assert list(tmp_path.iterdir()) == []
