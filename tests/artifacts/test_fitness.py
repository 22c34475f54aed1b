"""The lists that are written without NumPy are those of the code that computes."""

import gguf

from artifacts import ggml_types
from artifacts.convert.families import FAMILIES
from artifacts.convert.model import _STORAGE
from artifacts.fitness import ARCHITECTURES, TYPES


def test_architectures_and_types_are_those_of_the_converter() -> None:
    assert tuple(family.architecture for family in FAMILIES) == ARCHITECTURES
    written = {kind.name for kind, _ in _STORAGE.values()}
    assert set(TYPES) == written
    assert written <= {kind.name for kind in ggml_types.TYPES}
    assert written <= {kind.name for kind in gguf.GGMLQuantizationType}
