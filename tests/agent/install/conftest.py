from pathlib import Path

import pytest

from tests import images


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The root folder of a Nano's image."""
    return images.make(tmp_path / "image")
