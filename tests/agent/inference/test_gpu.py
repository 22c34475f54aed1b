"""llama.cpp on a real GPU: the same contract, and the reference's tokens. Skipped where its build
has no GPU in it, or finds none."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest

from agent.inference import proof
from agent.inference.engine import EngineOptions
from agent.inference.engines import CPU, GPU
from agent.inference.llama import LlamaEngine
from protos.errors import WorkerFailed
from tests.agent.inference.conftest import CONTEXT, TinyAdapter
from tests.agent.inference.engine_contract import (
    PROMPT,
    ChoiceContract,
    EngineContract,
    ReadingContract,
    ask,
)
from tests.agent.inference.test_llama import transformers_greedy, worn

has_gpu = llama_cpp.llama_supports_gpu_offload()
needs_gpu = pytest.mark.skipif(not has_gpu, reason="llama.cpp finds no GPU, or has none in it")


@pytest.fixture
def engine(lively_base: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine.open(lively_base, EngineOptions(CONTEXT, device=GPU)) as opened:
        yield opened


@needs_gpu
class TestContract(EngineContract, ChoiceContract, ReadingContract):
    pass


@needs_gpu
def test_the_golden_vector_holds(tmp_path: Path) -> None:
    proof.prove("llama", LlamaEngine, tmp_path, GPU)
    assert (tmp_path / "proved" / "llama-cuda").is_file()
    assert not (tmp_path / "proved" / "llama").exists()


@needs_gpu
def test_tokens_are_those_of_transformers_whichever_adapter_was_worn_before(
    engine: LlamaEngine, lively_folder: Path, first: TinyAdapter, second: TinyAdapter
) -> None:
    prompt = engine.tokenise(PROMPT)
    for tiny in (None, first, second, first, None):
        folder = tiny.folder if tiny else None
        expected = transformers_greedy(lively_folder, prompt, 24, folder)
        assert ask(engine, worn(PROMPT, tiny)).tokens == expected


@needs_gpu
@pytest.mark.parametrize(("device", "is_on_gpu"), [(CPU, False), (GPU, True)])
def test_the_gpu_is_left_alone_unless_asked_for(
    device: str, is_on_gpu: bool, lively_base: Path
) -> None:
    if not shutil.which("nvidia-smi"):
        pytest.skip("no nvidia-smi")
    used = _used_mib()
    with LlamaEngine.open(lively_base, EngineOptions(CONTEXT, device=device)) as engine:
        ask(engine, worn(PROMPT, None))
        more = _used_mib() - used
    # The context that the other tests of this process made stays with it.
    assert (more > 0) is is_on_gpu, more


@pytest.mark.skipif(has_gpu, reason="this build has a GPU")
def test_without_a_gpu_the_setting_is_refused(lively_base: Path) -> None:
    with pytest.raises(WorkerFailed, match="has no GPU in it, or finds none") as caught:
        LlamaEngine.open(lively_base, EngineOptions(CONTEXT, device=GPU))
    assert 'set inference.device to "cpu"' in str(caught.value.fix)


def _used_mib() -> int:
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    shown = subprocess.run(query, capture_output=True, text=True, check=True, env=os.environ)
    return int(shown.stdout.splitlines()[0])
