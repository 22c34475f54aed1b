from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.inference.engine import EngineOptions
from agent.inference.reference.engine import ReferenceEngine
from artifacts.convert import FileType
from tests.agent.inference.conftest import CONTEXT
from tests.agent.inference.engine_contract import ChoiceContract, EngineContract, ReadingContract
from tests.agent.inference.parity import Parity


class TestContract(EngineContract, ChoiceContract, ReadingContract):
    @pytest.fixture
    def engine(self, lively_base: Path) -> Iterator[ReferenceEngine]:
        with ReferenceEngine.open(lively_base, EngineOptions(CONTEXT)) as engine:
            yield engine


class TestParity(Parity):
    engine_type = ReferenceEngine
    own_file = "adapter_model.safetensors"
    tolerances = dict.fromkeys(FileType, 1e-4)
