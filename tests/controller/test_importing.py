"""The conversion's process."""

from pathlib import Path

from tests.stuck_converter import ends_with_its_parent

_PARENT = """
import asyncio, sys
from pathlib import Path
from controller.importing import convert
sys.executable, folder, target = sys.argv[1:]
asyncio.run(convert(Path(folder), Path(target), "q8_0", None))
"""


def test_the_conversion_ends_with_a_killed_command(tiny_folder: Path, tmp_path: Path) -> None:
    assert ends_with_its_parent(_PARENT, tmp_path / "model.gguf", tiny_folder)
