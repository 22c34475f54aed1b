from pathlib import Path

import pytest

from artifacts.convert import FileType, convert_model
from tests.artifacts.convert import shapes


@pytest.fixture(scope="session", params=shapes.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def checkpoint(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of the family."""
    return shapes.build(family, tmp_path_factory.mktemp("families") / family)


@pytest.fixture(scope="session")
def exact(checkpoint: Path) -> Path:
    """The checkpoint as an F32 GGUF."""
    target = checkpoint.with_suffix(".f32.gguf")
    convert_model(checkpoint, target, FileType.F32)
    return target
