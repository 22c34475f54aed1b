from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.inference.engine import EngineOptions
from agent.inference.onnx.engine import OnnxEngine
from tests.agent.inference.conftest import CONTEXT
from tests.agent.inference.engine_contract import EngineContract


class TestContract(EngineContract):
    @pytest.fixture
    def engine(self, lively_base: Path, cache: Path) -> Iterator[OnnxEngine]:
        with OnnxEngine.open(lively_base, EngineOptions(CONTEXT, cache=cache)) as engine:
            yield engine


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")
