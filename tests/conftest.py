"""Fixtures of all parts: one tiny model, as the checkpoint and as the files that devices get."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.tiny import build_hugging_face_folder

# A shell that runs the tests in the background has them, and all their children, ignore Ctrl-C,
# which some tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No property is about time: a machine that stalls for a second must not fail one. What hangs is
# ended by pytest's own timeout. CI draws the same examples each time; people's runs explore.
settings.register_profile(
    "nanofleet",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("nanofleet")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults",
        choices=("short", "all"),
        default="short",
        help="tests/faults: a sample of its tables, or all rows (about twenty minutes)",
    )
    parser.addoption(
        "--storm", type=int, help="tests/faults/test_storm.py: the seed of a storm to play again"
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a tiny Gemma 3."""
    return build_hugging_face_folder(tmp_path_factory.mktemp("tiny") / "tiny-gemma")


@pytest.fixture(scope="session")
def tiny_base(tiny_folder: Path) -> Path:
    """The tiny model as a Q8_0 GGUF, the form that trains and serves."""
    return _converted(tiny_folder, "q8_0")


@pytest.fixture(scope="session")
def tiny_base_f32(tiny_folder: Path) -> Path:
    """The tiny model as an F32 GGUF, for comparisons with tight bounds."""
    return _converted(tiny_folder, "f32")


def _converted(folder: Path, file_type: str) -> Path:
    from artifacts.convert import FileType, convert_model

    target = folder.parent / f"{folder.name}-{file_type}.gguf"
    convert_model(folder, target, FileType(file_type))
    return target
