"""The golden vector is what Transformers answers, and holds for each engine's build."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agent.inference import engines, proof
from agent.inference.engine import Engine, EngineOptions
from agent.inference.llama import LlamaEngine
from agent.tokens import vocabulary as vocabularies
from agent.tokens.vocabulary import Vocabulary
from protos.errors import WorkerFailed
from tests.agent.inference import golden


class Counted:
    """An engine's class that counts how often it is opened."""

    def __init__(self, engine_type: type[Engine]) -> None:
        self._type = engine_type
        self.opened = 0

    def open(self, base: Path, options: EngineOptions) -> Engine:
        self.opened += 1
        return self._type.open(base, options)


CASES = json.loads((proof.FOLDER / proof.VECTOR).read_text())


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    with vocabularies.opened(proof.FOLDER / proof.MODEL) as found:
        yield found


def test_the_vector_is_what_transformers_answers_by_a_clear_margin(vocabulary: Vocabulary) -> None:
    answers = golden.Answers(proof.FOLDER / proof.MODEL, vocabulary)
    assert [answers.to(case["prompt"]) for case in CASES] == [case["tokens"] for case in CASES]


@pytest.mark.parametrize("wrong", golden.WRONG, ids=str)
def test_what_is_computed_a_little_wrong_answers_otherwise(
    wrong: Mapping[str, int | float], vocabulary: Vocabulary
) -> None:
    answers = golden.Answers(proof.FOLDER / proof.MODEL, vocabulary, wrong)
    found = [answers.to(case["prompt"], margin=0) for case in CASES]
    assert found != [case["tokens"] for case in CASES]


@pytest.mark.parametrize("name", engines.ENGINES)
def test_every_engine_proves_itself_once(name: str, tmp_path: Path) -> None:
    engine_type = Counted(engines.imported(name))
    proof.prove(name, engine_type, tmp_path)
    proof.prove(name, engine_type, tmp_path)
    assert engine_type.opened == 1
    assert (tmp_path / "proved" / name).read_text() == proof.build_id(name)


def test_another_build_proves_itself_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_type = Counted(LlamaEngine)
    proof.prove("llama", engine_type, tmp_path)
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", "/another/build")
    proof.prove("llama", engine_type, tmp_path)
    assert engine_type.opened == 2


def test_a_build_that_computes_something_else_is_refused(lively_base: Path, tmp_path: Path) -> None:
    class Wrong(LlamaEngine):
        @classmethod
        def open(cls, base: Path, options: EngineOptions) -> "Wrong":
            return cls(lively_base, options)

    with pytest.raises(WorkerFailed, match="wrong answers on this machine") as raised:
        proof.prove("llama", Wrong, tmp_path)
    assert "--force-reinstall" in raised.value.fix
    assert not (tmp_path / "proved").exists()
