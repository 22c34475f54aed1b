"""The converter that makes the adapter's GGUF: a child of the training worker."""

from pathlib import Path

from artifacts import adapter
from tests.artifacts.convert import shapes
from tests.stuck_converter import ends_with_its_parent

_PARENT = """
import sys
from pathlib import Path
from agent.training.export import convert
sys.executable, base, target = sys.argv[1:]
convert(Path(target).parent, Path(base))
"""


def test_the_converter_ends_with_its_worker(
    tiny_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    shapes.write_adapter(shapes.load(tiny_folder), folder)
    assert ends_with_its_parent(_PARENT, folder / adapter.GGUF, tiny_base)
