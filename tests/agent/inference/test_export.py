"""What the onnxruntime engine makes of a base, and keeps."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from agent.inference.engine import EngineOptions
from agent.inference.onnx import export
from agent.inference.onnx.engine import OnnxEngine
from agent.model.configuration import EMBEDDING, configuration
from agent.model.tensors import Tensors
from artifacts import base_model
from artifacts.base_model import BaseModel
from protos.errors import DiskFull, InvalidRequest

Usage = namedtuple("Usage", "total used free")


def made(base: BaseModel, cache: Path) -> Path:
    return export.exported(base, configuration(base), Tensors(base), cache)


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def test_it_is_made_once_and_only_that_of_the_last_base_is_kept(
    tiny_base: Path, tiny_base_f32: Path, tmp_path: Path
) -> None:
    base, other = base_model.read(tiny_base), base_model.read(tiny_base_f32)
    folder = made(base, tmp_path)
    first = inodes(folder)
    assert made(base, tmp_path) == folder
    assert inodes(folder) == first
    left_by_a_kill = tmp_path / ".new.x"
    left_by_a_kill.mkdir()
    second = made(other, tmp_path)
    assert list(tmp_path.iterdir()) == [second]


def test_a_base_that_changed_is_made_again(tiny_base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "base.gguf"
    shutil.copyfile(tiny_base, copy)
    folder = made(base_model.read(copy), tmp_path / "cache")
    with copy.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert made(base_model.read(copy), tmp_path / "cache") != folder


def test_it_is_as_large_as_the_base_and_little_more(tiny_base: Path, tmp_path: Path) -> None:
    """Q8_0: a scale of four bytes in the place of two; no float32 copy of the embedding."""
    base = base_model.read(tiny_base)
    weights = made(base, tmp_path) / export.WEIGHTS
    stored = sum(tensor.size_bytes for tensor in base.tensors.values())
    pages = 4096 * 2 * len(base.tensors)
    assert stored < weights.stat().st_size < 1.06 * stored + pages


def test_without_a_cache_nothing_is_left(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with OnnxEngine.open(tiny_base, EngineOptions(64)):
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("version", "further"), [("1.23.2", 1), ("1.24.4", 0), ("1.32.0", 0), ("2.0.0+cpu", 0)]
)
def test_the_window_is_as_long_in_every_runtime(version: str, further: int) -> None:
    """What each version computes is in parity.py; the golden vector refuses one that is wrong."""
    assert export.looks_further(version) == further


def test_a_disk_without_room_is_refused_before_the_first_byte(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, 1000))
    with pytest.raises(DiskFull, match="are needed"):
        made(base_model.read(tiny_base), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_type_that_cannot_be_packed_names_the_tensor(tiny_base: Path, tmp_path: Path) -> None:
    base = base_model.read(tiny_base)
    tensors = {**base.tensors, EMBEDDING: replace(base.tensors[EMBEDDING], type="Q6_K")}
    with pytest.raises(InvalidRequest, match=r"token_embd\.weight has the type Q6_K") as raised:
        made(replace(base, tensors=tensors), tmp_path)
    assert raised.value.reason == "UNSUPPORTED_FEATURE"
    assert not list(tmp_path.iterdir())
