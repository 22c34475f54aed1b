"""The engines by name: one is imported, the others are not, and one that is missing says so."""

import subprocess
import sys

import pytest

from agent.inference import engines
from agent.memory import forecast
from artifacts import adapter
from protos.errors import InvalidRequest

# What each engine computes with, beside llama.cpp's tokenizer and sampling chain.
OWN = {"llama": set(), "onnxruntime": {"onnxruntime"}, "transformers": {"torch", "peft"}}


def run(script: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("name", engines.ENGINES)
def test_only_the_chosen_engine_is_imported(name: str) -> None:
    script = f"""
import sys
from agent.inference import engines, worker
print(engines.imported({name!r}).__name__, *sys.modules)
"""
    found, *modules = run(script).split()
    assert found == engines.ENGINES[name].type_name
    assert set(modules) & set().union(*OWN.values()) == OWN[name]
    # The graph is built with it once; an engine that opens what is there does without.
    assert "onnx" not in modules


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("llama", "llama_cpp", "infer"),
        ("onnxruntime", "onnxruntime", "onnx"),
        ("transformers", "peft", "reference"),
    ],
)
def test_an_engine_that_is_not_installed_names_what_installs_it(
    name: str, missing: str, extra: str
) -> None:
    script = f"""
import sys
sys.modules[{missing!r}] = None
from agent.inference import engines
from protos.errors import WorkerFailed
try:
    engines.imported({name!r})
except WorkerFailed as error:
    print(error)
"""
    said = run(script)
    assert f"The inference engine {name} is not installed." in said
    assert missing in said
    assert f"pip install 'nanofleet[{extra}]'" in said


def test_an_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(InvalidRequest, match="Did you mean onnxruntime"):
        engines.named("onnx-runtime")
    with pytest.raises(InvalidRequest, match="llama, onnxruntime, transformers"):
        engines.named("")


def test_each_engine_reads_a_file_of_the_adapter_and_has_a_forecast() -> None:
    files = {kind.adapter_file for kind in engines.ENGINES.values()}
    assert files == {adapter.GGUF, adapter.SAFETENSORS}
    assert forecast.SERVERS.keys() == engines.ENGINES.keys()
