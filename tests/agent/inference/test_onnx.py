from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from agent.inference.engine import EngineOptions
from agent.inference.onnx.engine import OnnxEngine
from artifacts.convert import FileType
from tests.agent.inference.conftest import CONTEXT
from tests.agent.inference.engine_contract import ChoiceContract, EngineContract
from tests.agent.inference.parity import Parity


class TestContract(EngineContract, ChoiceContract):
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
