import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import helper
from onnxruntime import InferenceSession, IOBinding

from agent.inference.decoder import never
from agent.inference.engine import EngineOptions
from agent.inference.onnx import interruption
from agent.inference.onnx.engine import OnnxEngine
from artifacts.convert import FileType
from tests.agent.inference.conftest import CONTEXT
from tests.agent.inference.engine_contract import (
    AfterAsking,
    ChoiceContract,
    EngineContract,
    ReadingContract,
)
from tests.agent.inference.parity import Parity


class TestContract(EngineContract, ChoiceContract, ReadingContract):
    @pytest.fixture
    def engine(self, lively_base: Path, cache: Path) -> Iterator[OnnxEngine]:
        with OnnxEngine.open(lively_base, EngineOptions(CONTEXT, cache=cache)) as engine:
            yield engine


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


class TestParity(Parity):
    engine_type = OnnxEngine
    own_file = "adapter.gguf"
    tolerances: ClassVar = {FileType.F32: 1e-4, FileType.Q8_0: 0.1, FileType.Q4_0: 0.1}


def test_a_long_run_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    """Of operations that would take many seconds; and what is no cancellation is not taken for
    one."""
    binding, session = _long_run(tmp_path / "long.onnx")
    asked = AfterAsking(1)
    assert not interruption.run(session, binding, is_long=True, is_cancelled=asked.is_set)
    assert asked.asked == 2, "before it began, and while it ran"
    empty = session.io_binding()
    with pytest.raises(Exception, match="x"):
        interruption.run(session, empty, is_long=True, is_cancelled=never)


def _long_run(path: Path) -> tuple[IOBinding, InferenceSession]:
    """A chain of two thousand products."""
    float32, size = onnx.TensorProto.FLOAT, [512, 512]
    names = ["x", *(f"x{number}" for number in range(2000))]
    body = [
        helper.make_node("MatMul", [before, before], [after])
        for before, after in itertools.pairwise(names)
    ]
    graph = helper.make_graph(
        body,
        "long",
        [helper.make_tensor_value_info("x", float32, size)],
        [helper.make_tensor_value_info(names[-1], float32, size)],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("x", np.eye(512, dtype=np.float32))
    binding.bind_output(names[-1])
    return binding, session
