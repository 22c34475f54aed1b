"""Whatever a downloaded file says, the converter converts it or refuses it with its own error."""

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from artifacts.convert import convert_adapter, convert_model
from protos.errors import NanofleetError
from tests.artifacts.convert import shapes

VALUES = (None, -1, 0, 3, 1e999, float("nan"), 2**70, True, "x", "\ud800", [], [[]], {}, [1, "y"])


def mutated(values: Any, chance: random.Random) -> Any:
    """One value somewhere in a JSON document replaced, or one key dropped."""
    values = copy.deepcopy(values)
    place = values
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = chance.choice(list(keys))
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and chance.random() < 0.8:
            place = inner
        elif chance.random() < 0.2:
            del place[key]
            return values
        else:
            place[key] = chance.choice(VALUES)
            return values


@pytest.mark.parametrize("family", ["gemma3", "llama"], indirect=True)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_models(checkpoint: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    original = json.loads((folder / name).read_text())
    refused = 0
    for seed in range(40):
        (folder / name).write_text(json.dumps(mutated(original, random.Random(seed))))
        try:
            convert_model(folder, tmp_path / "m.gguf")
        except NanofleetError:
            refused += 1
    assert refused > 0


def test_adapters(tiny_folder: Path, tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "peft"
    shapes.write_adapter(shapes.load(tiny_folder), folder)
    path = folder / "adapter_config.json"
    original = json.loads(path.read_text())
    refused = 0
    for seed in range(100):
        path.write_text(json.dumps(mutated(original, random.Random(seed))))
        try:
            convert_adapter(folder, tiny_base, tmp_path / "a.gguf")
        except NanofleetError:
            refused += 1
    assert refused > 0
