"""The reference of the export gate is Transformers' model, to the rounding of float32."""

from pathlib import Path

import numpy as np
import pytest

from artifacts import base_model
from artifacts.convert import FileType, convert_model
from artifacts.convert.checkpoint import read_checkpoint
from artifacts.convert.config import read_config
from artifacts.convert.families import Rows, TensorSpec
from artifacts.convert.forward import Forward
from artifacts.convert.written import Written
from tests.artifacts.convert import shapes

ROUNDING = 1e-5

LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
SHAPES: list[tuple[str, dict[str, object]]] = [
    ("gemma3", {}),
    ("gemma3", {"tie_word_embeddings": False}),
    ("qwen2", {}),
    ("qwen2", {"tie_word_embeddings": False}),
    ("qwen3", {}),
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "rope_parameters": LINEAR}),
]


class Folder:
    """Its weights, and the most numbers that were asked for at once."""

    def __init__(self, folder: Path) -> None:
        self.stored = read_checkpoint(folder)
        self.most = 0

    def rows(self, spec: TensorSpec, first: int, last: int) -> Rows:
        rows = self.stored[spec.source].rows(first, last)
        self.most = max(self.most, rows.size)
        return rows


@pytest.mark.parametrize(("name", "changes"), SHAPES)
def test_logits_are_those_of_transformers(
    name: str, changes: dict[str, object], tmp_path: Path
) -> None:
    folder = shapes.build(name, tmp_path / name, **changes)
    tokens = shapes.prompt()
    expected = shapes.logits(shapes.load(folder), tokens)
    weights = Folder(folder)
    tied = "lm_head.weight" not in weights.stored
    found = Forward(read_config(folder), weights, tied=tied).logits(tokens)
    assert np.abs(found - expected).max() < ROUNDING

    convert_model(folder, tmp_path / "exact.gguf", FileType.F32)
    written = Written(base_model.read(tmp_path / "exact.gguf"))
    again = Forward(read_config(folder), written, tied=tied).logits(tokens)
    assert np.abs(again - expected).max() < ROUNDING


def test_a_matrix_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    folder = shapes.build("qwen2", tmp_path / "wide", vocab_size=40_000)
    weights = Folder(folder)
    Forward(read_config(folder), weights, tied=True).logits([1, 2, 3])
    assert weights.most * 4 <= 8 << 20 < 40_000 * 128 * 4
