"""Checkpoints as they come: in three number formats, in shards, damaged, incomplete."""

import json
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.convert import FileType, convert_model
from artifacts.convert.checkpoint import read_checkpoint, read_tensors
from protos.errors import DiskFull, InvalidRequest, NanofleetError, NotFound
from tests.tiny import VOCABULARY_SIZE


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / tiny_folder.name))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_numbers_are_widened_exactly(tmp_path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import save_file

    values = torch.randn(7, 5).to(getattr(torch, dtype))
    values[0, 0], values[0, 1] = -0.0, 1e-7  # the second is subnormal in float16
    save_file({"x": values, "y": values[:, 0].clone()}, tmp_path / "x.safetensors")
    stored = read_tensors(tmp_path / "x.safetensors")
    expected = values.float().numpy()
    np.testing.assert_array_equal(stored["x"].rows(0, 7), expected)
    np.testing.assert_array_equal(stored["x"].rows(2, 5), expected[2:5])
    np.testing.assert_array_equal(stored["y"].rows(1, 7), expected[1:, 0])


def test_peak_memory_is_a_few_slices(folder: Path, tmp_path: Path) -> None:
    """An embedding of 32 MiB in float32 goes through in much less than that."""
    import torch
    from safetensors.torch import load_file, save_file

    rows = 64 * 1024
    weights = load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = embedding.repeat(rows // VOCABULARY_SIZE + 1, 1)[:rows]
    assert weights["model.embed_tokens.weight"].dtype == torch.bfloat16
    save_file(weights, folder / "model.safetensors")
    _edit_config(folder, {"vocab_size": rows})
    tracemalloc.start()
    try:
        convert_model(folder, tmp_path / "m.gguf")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 20 << 20


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * 4096)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _no_json(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 4) + b"{{{{")


def _header(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return damage


def _entry(**values: object) -> Callable[[Path], None]:
    return _header(lambda header: header["model.norm.weight"].update(values))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_cut, r"ends before .*Download it again"),
        (_garbage, "no safetensors file"),
        (_empty, "no safetensors file"),
        (_no_json, "is not JSON"),
        (_entry(dtype="I8"), "stored as I8"),
        (_entry(shape=[64]), "contradicts its shape"),
        (_entry(shape=[-128]), "not whole numbers"),
        (_entry(data_offsets=[0, 1 << 60], shape=[1 << 59]), "ends before model.norm.weight"),
        (_header(lambda header: header.pop("model.norm.weight")), "norm.weight is missing"),
        (
            _header(lambda header: header.update(stray=header["model.norm.weight"])),
            "the tensor stray has no place in gemma3",
        ),
    ],
)
def test_damaged_weights_are_refused(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], named: str
) -> None:
    damage(folder / "model.safetensors")
    _refused(folder, tmp_path, InvalidRequest, named)


def test_numbers_that_are_none_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.layers.3.mlp.up_proj.weight"][5, 5] = float("nan")
    save_file(weights, folder / "model.safetensors")
    _refused(folder, tmp_path, InvalidRequest, r"layers\.3\.mlp\.up_proj\.weight holds NaN")


def test_a_failed_conversion_leaves_the_old_file(folder: Path, tmp_path: Path) -> None:
    """The target is replaced whole or not at all, and nothing is left beside it."""
    from safetensors.torch import load_file, save_file

    out = tmp_path / "out"
    out.mkdir()
    convert_model(folder, out / "m.gguf")
    before = (out / "m.gguf").read_bytes()
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("inf")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InvalidRequest):
        convert_model(folder, out / "m.gguf")
    assert (out / "m.gguf").read_bytes() == before
    assert [path.name for path in out.iterdir()] == ["m.gguf"]


def test_shards_that_the_index_names_must_be_there(tmp_path: Path) -> None:
    from tests.tiny import build_hugging_face_folder

    folder = build_hugging_face_folder(tmp_path / "sharded", shard_bytes=300_000)
    shards = sorted(folder.glob("*.safetensors"))
    shards[1].unlink()
    _refused(folder, tmp_path, NotFound, f"lacks {shards[1].name}")


def test_an_index_leads_nowhere_else(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    names = read_tensors(tmp_path / "outside.safetensors")
    index = {"weight_map": dict.fromkeys(names, "../outside.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidRequest, match="not a plain file name"):
        read_checkpoint(folder)


def test_pickles_are_not_read(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    _refused(folder, tmp_path, NotFound, "pickles")


def test_a_target_without_a_folder_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere is not there"):
        convert_model(folder, tmp_path / "nowhere" / "m.gguf")


def test_rows_that_do_not_fill_a_block_need_another_type(tmp_path: Path) -> None:
    from tests.tiny import build_hugging_face_folder

    folder = build_hugging_face_folder(tmp_path / "odd", hidden=72)
    _refused(folder, tmp_path, InvalidRequest, r"rows of 72 numbers.*f16, bf16 or f32")
    convert_model(folder, tmp_path / "m.gguf", FileType.F16)


def test_a_file_that_does_not_fit_the_disk_is_refused_first(tmp_path: Path) -> None:
    """The sizes come from the plan: nothing has been written when the disk is found too small."""
    import gguf

    from artifacts.convert.gguf_file import OutputTensor, write

    kind = gguf.GGMLQuantizationType.F32
    huge = OutputTensor("x", (1 << 50, 4), kind, lambda: iter(()))
    with pytest.raises(DiskFull, match="too little room"):
        write(tmp_path / "m.gguf", gguf.GGUFWriter(None, "gemma3"), [huge], lambda count: None)
    assert list(tmp_path.iterdir()) == []


def _edit_config(folder: Path, edit: dict[str, object]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))


def _refused(folder: Path, tmp_path: Path, kind: type[NanofleetError], named: str) -> None:
    with pytest.raises(kind, match=named):
        convert_model(folder, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()
