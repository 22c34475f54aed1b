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
SCALE = "blk.3.ffn_down.scale"


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


def written(path: Path, tensors: dict[str, tuple[np.ndarray, str]]) -> BaseModel:
    """A GGUF file of these tensors: bytes and type."""
    writer = gguf.GGUFWriter(path, "gemma3")
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return base_model.read(path)


def test_another_quantisation_is_refused(tmp_path: Path) -> None:
    data = gguf.quantize(np.ones(SHAPE, dtype=np.float32), gguf.GGMLQuantizationType.Q5_1)
    base = written(tmp_path / "q5.gguf", {NAME: (data, "Q5_1")})
    with pytest.raises(InvalidRequest, match=f"{NAME} has the type Q5_1"):
        MappedWeights(base, torch.float32).matrix(NAME, SHAPE)


# Rows wide enough that a slab holds a few only.
WIDE = (70, 4096)


def stored(kind: str, path: Path) -> tuple[BaseModel, torch.Tensor, torch.Tensor]:
    """A file with one matrix, its numbers without the scales of rows, and those."""
    random = np.random.default_rng(4)
    if kind == "I8":
        values = random.integers(-128, 128, WIDE, dtype=np.int8)
        scale = random.uniform(1e-4, 1e-2, WIDE[0]).astype(np.float32)
        base = written(path, {NAME: (values, "I8"), SCALE: (scale, "F32")})
        return base, torch.from_numpy(values).float(), torch.from_numpy(scale)
    ggml = gguf.GGMLQuantizationType[kind]
    data = gguf.quantize(random.standard_normal(WIDE).astype(np.float32), ggml)
    base = written(path, {NAME: (data, kind)})
    return base, torch.from_numpy(gguf.dequantize(data, ggml).copy()), torch.ones(WIDE[0])


@pytest.mark.parametrize("data_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "I8", "F32", "F16", "BF16"])
def test_all_types_are_read_alike(kind: str, data_type: torch.dtype, tmp_path: Path) -> None:
    base, integers, scale = stored(kind, tmp_path / "one.gguf")
    weight = MappedWeights(base, data_type).matrix(NAME, WIDE)

    assert (weight.row_scale is not None) == (kind == "I8")
    assert torch.equal(weight.dense(), integers.to(data_type))
    for first, last in ((0, 1), (0, 32), (31, 33), (32, 64), (69, 70), (3, 70)):
        assert torch.equal(weight.chunk(first, last), integers[first:last].to(data_type))
    indices = torch.tensor([69, 0, 32, 32])
    assert torch.equal(weight.gather(indices), integers[indices] * scale[indices, None])

    # More rows than go through the slab at once.
    product = torch.randn(4000, WIDE[0], generator=torch.Generator().manual_seed(0)).to(data_type)
    expected = (product.float() * scale).to(data_type)
    weight.scale(product)
    assert torch.equal(product, expected)


@pytest.mark.parametrize(
    ("scale", "kind", "why"),
    [
        (None, "F32", f"its scales {SCALE} lack"),
        (np.ones(127, dtype=np.float32), "F32", rf"{SCALE} has the shape \(127,\), \(128,\)"),
        (np.ones(128, dtype=np.int8), "I8", f"{SCALE} has the type I8"),
        (np.full(128, np.inf, dtype=np.float32), "F32", f"{SCALE} holds NaN or infinity"),
    ],
)
def test_scales_that_are_no_use_are_named(
    scale: np.ndarray | None, kind: str, why: str, tmp_path: Path
) -> None:
    tensors = {NAME: (np.ones(SHAPE, dtype=np.int8), "I8")}
    if scale is not None:
        tensors[SCALE] = (scale, kind)
    base = written(tmp_path / "qint8.gguf", tensors)
    with pytest.raises(InvalidRequest, match=why):
        MappedWeights(base, torch.float32).matrix(NAME, SHAPE)
