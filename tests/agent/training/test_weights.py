"""The mapped file gives the numbers that the gguf package gives."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from agent.training.weights import MappedWeights
from artifacts import base_model
from artifacts.base_model import BaseModel
from protos.errors import InvalidRequest

NAME, SHAPE = "blk.3.ffn_down.weight", (128, 256)


def expected(base: BaseModel, name: str) -> torch.Tensor:
    tensor = next(t for t in gguf.GGUFReader(base.path).tensors if t.name == name)
    return torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type)))


@pytest.fixture(scope="module", params=["F16", "BF16"])
def half(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    kind = gguf.GGMLQuantizationType[request.param]
    path = tmp_path_factory.mktemp("half") / "half.gguf"
    matrix = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    writer = gguf.GGUFWriter(path, "gemma3")
    data = gguf.quantize(matrix, kind)
    writer.add_tensor(NAME, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return base_model.read(path)


def check(base: BaseModel) -> None:
    weight = MappedWeights(base, torch.float32).matrix(NAME, SHAPE)
    matrix = expected(base, NAME)
    assert torch.equal(weight.dense(), matrix)
    assert torch.equal(weight.chunk(5, 77), matrix[5:77])
    indices = torch.tensor([0, 127, 3, 3])
    assert torch.equal(weight.gather(indices), matrix[indices])
    rounded = MappedWeights(base, torch.bfloat16).matrix(NAME, SHAPE)
    # Rounded once, from the exact value.
    assert torch.equal(rounded.dense(), matrix.bfloat16())


def test_quantised(base: BaseModel) -> None:
    assert base.tensors[NAME].type == "Q8_0"
    check(base)


def test_float32(base_f32: BaseModel) -> None:
    check(base_f32)


def test_half_precision(half: BaseModel) -> None:
    check(half)


def test_more_rows_than_one_slab(base: BaseModel) -> None:
    weight = MappedWeights(base, torch.float32).matrix("token_embd.weight", (640, 128))
    assert torch.equal(weight.chunk(3, 640), expected(base, "token_embd.weight")[3:])


def test_one_scratch_for_all(base: BaseModel) -> None:
    weights = MappedWeights(base, torch.float32)
    first = weights.matrix(NAME, SHAPE).dense()
    second = weights.matrix("blk.0.attn_output.weight", (128, 64)).dense()
    assert first.data_ptr() == second.data_ptr()
    weights.scratch.release()
    assert torch.equal(weights.matrix(NAME, SHAPE).dense(), expected(base, NAME))


def test_a_vector_is_a_copy(base: BaseModel) -> None:
    weights = MappedWeights(base, torch.float32)
    found = weights.vector("output_norm.weight", 128)
    found -= 1
    assert torch.equal(found + 1, weights.vector("output_norm.weight", 128) - 1 + 1)


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        ("blk.99.ffn_down.weight", (128, 256), "no tensor blk.99.ffn_down.weight"),
        (NAME, (256, 128), r"has the shape \(128, 256\), \(256, 128\) is expected"),
    ],
)
def test_what_does_not_fit_is_named(
    base: BaseModel, name: str, shape: tuple[int, int], why: str
) -> None:
    with pytest.raises(InvalidRequest, match=why):
        MappedWeights(base, torch.float32).matrix(name, shape)


def test_another_quantisation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "q4.gguf"
    writer = gguf.GGUFWriter(path, "gemma3")
    kind = gguf.GGMLQuantizationType.Q4_0
    data = gguf.quantize(np.ones(SHAPE, dtype=np.float32), kind)
    writer.add_tensor(NAME, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InvalidRequest, match="has the type Q4_0"):
        MappedWeights(base_model.read(path), torch.float32).matrix(NAME, SHAPE)
