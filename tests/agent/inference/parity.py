"""What an engine around a decoder must agree with: Transformers in logits, and llama.cpp in tokens.

Subclasses of Parity give ``engine_type`` and ``own_file``: which file of an adapter it reads.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import controller.demo.tiny as demo_tiny
from agent.inference.adapters import KEPT
from agent.inference.decoder import BATCH_TOKENS, Row
from agent.inference.engine import (
    Adapter,
    EmbedRequest,
    Engine,
    EngineOptions,
    Message,
    Request,
    Sample,
    ScoreRequest,
    TokenLogprob,
)
from agent.inference.llama import LlamaEngine
from agent.inference.serial import SEQUENCES, SerialEngine
from artifacts import adapter as archives
from artifacts.convert import FileType, convert_adapter, convert_model
from protos.errors import Refused
from tests.agent.inference.conftest import CONTEXT, TinyAdapter
from tests.agent.inference.engine_contract import CHAT, PROMPT, WARM, ask
from tests.agent.training import reference
from tests.artifacts.convert import shapes
from tests.tiny import SENTENCES, build_hugging_face_folder

LONG = " ".join(SENTENCES[:4])
SHIPPED = Path(demo_tiny.__file__).with_name("tiny-gemma3.gguf")
ANSWER = Message("assistant", "I am Pico, and the waves are high today.")


@dataclass(frozen=True, slots=True)
class Case:
    """A base, an adapter's folder, and Transformers' logits at every position without and with."""

    base: Path
    adapter: Path
    tokens: list[int]
    plain: Row
    adapted: Row


def case(family: str, file_type: FileType, folder: Path) -> Case:
    source = shapes.build(family, folder / "model")
    base, adapter = folder / "base.gguf", folder / "adapter"
    convert_model(source, base, file_type)
    tokens = shapes.prompt(150)
    model = reference.stock_model(source, base)
    plain = shapes.logits(model, tokens)
    adapted = shapes.logits(shapes.write_adapter(model, adapter), tokens)
    convert_adapter(adapter, base, adapter / "adapter.gguf")
    assert np.abs(adapted - plain).max() > 0.5
    return Case(base, adapter, tokens, plain, adapted)


def furthest(engine: Engine, worn: Adapter | None, tokens: Sequence[int], expected: Row) -> float:
    """The largest difference of a logit: after a batch, after part of one, and token by token."""
    assert isinstance(engine, SerialEngine)
    decoder = engine._decoder
    decoder.wear(worn)
    decoder.drop(0)
    differences, at = [], 0
    for size in (BATCH_TOKENS, 30, *[1] * (len(tokens) - BATCH_TOKENS - 30)):
        rows = decoder.logit_rows(0, tokens[at : at + size], at)
        assert rows
        at += size
        differences.append(np.abs(rows[0] - expected[at - 1]).max())
    return float(max(differences))


class Parity:
    engine_type: type[Engine]
    own_file: str
    # The largest difference of a logit that a base of this type may show.
    tolerances: ClassVar[dict[FileType, float]]
    # The largest difference of a log-probability between this engine and llama.cpp in Q8_0; 0.075
    # is the largest that was seen, 0.027 with random weights.
    rounding = 0.1

    def worn(self, tiny: TinyAdapter | None, scale: float = 1.0) -> Adapter | None:
        """The adapter as this engine's own file."""
        if tiny is None:
            return None
        path = tiny.adapter.path if self.own_file == archives.GGUF else tiny.folder / self.own_file
        return Adapter(tiny.adapter.digest, path, scale)

    @pytest.fixture
    def engine(self, lively_base: Path) -> Iterator[Engine]:
        with self.engine_type.open(lively_base, EngineOptions(CONTEXT)) as engine:
            yield engine

    @pytest.fixture
    def llama(self, lively_base: Path) -> Iterator[LlamaEngine]:
        with LlamaEngine.open(lively_base, EngineOptions(CONTEXT)) as engine:
            yield engine

    @pytest.mark.parametrize("family", shapes.FAMILIES)
    @pytest.mark.parametrize("file_type", [FileType.F32, FileType.Q8_0, FileType.Q4_0])
    def test_logits_are_those_of_transformers_with_and_without_an_adapter(
        self, family: str, file_type: FileType, tmp_path: Path
    ) -> None:
        made = case(family, file_type, tmp_path)
        adapter = Adapter("sha256:a", made.adapter / self.own_file)
        bound = self.tolerances[file_type]
        with self.engine_type.open(made.base, EngineOptions(CONTEXT)) as engine:
            for worn, expected in ((None, made.plain), (adapter, made.adapted), (None, made.plain)):
                assert furthest(engine, worn, made.tokens, expected) < bound

    def test_greedy_equals_llama_for_base_and_adapters_in_any_order(
        self, engine: Engine, llama: LlamaEngine, first: TinyAdapter, second: TinyAdapter
    ) -> None:
        expected = {
            tiny: ask(llama, Request(LONG, tiny.adapter if tiny else None, 24)).tokens
            for tiny in (None, first, second)
        }
        assert len({tuple(tokens) for tokens in expected.values()}) == 3
        for tiny in (None, first, None, second, first, None):
            assert ask(engine, Request(LONG, self.worn(tiny), 24)).tokens == expected[tiny]

    @pytest.mark.parametrize("seed", [1, 2**40])
    def test_a_seed_draws_what_it_draws_in_llama(
        self, engine: Engine, llama: LlamaEngine, seed: int
    ) -> None:
        request = Request(PROMPT, max_tokens=16, sampling=replace(WARM, seed=seed))
        assert ask(engine, request).tokens == ask(llama, request).tokens

    def test_a_prefix_is_never_shared_between_adapters_and_scales(
        self, engine: Engine, first: TinyAdapter, second: TinyAdapter
    ) -> None:
        turns = [self.worn(None), self.worn(first), self.worn(second), self.worn(first, 0.5)]
        assert len(turns) == SEQUENCES
        cold = [ask(engine, Request(PROMPT, adapter, 8)) for adapter in turns]
        assert [answer.usage.cached_tokens for answer in cold] == [0, 0, 0, 0]
        cached = [ask(engine, Request(PROMPT, adapter, 8)) for adapter in turns]
        assert all(answer.usage.cached_tokens > 0 for answer in cached)
        assert [answer.tokens for answer in cached] == [answer.tokens for answer in cold]

    def test_the_scale_of_an_adapter_matters(self, engine: Engine, first: TinyAdapter) -> None:
        plain = ask(engine, Request(LONG, max_tokens=24)).tokens
        assert ask(engine, Request(LONG, self.worn(first, 0.0), 24)).tokens == plain
        assert ask(engine, Request(LONG, self.worn(first), 24)).tokens != plain

    def test_more_adapters_than_are_kept_take_turns(
        self, lively_base: Path, first: TinyAdapter, second: TinyAdapter
    ) -> None:
        freed: list[str] = []
        options = EngineOptions(CONTEXT, freed=freed.append)
        with self.engine_type.open(lively_base, options) as engine:
            expected = ask(engine, Request(LONG, self.worn(first), 24)).tokens
            for number in range(KEPT + 1):
                other = self.worn(second)
                assert other
                ask(engine, Request(LONG, replace(other, digest=f"sha256:{number}"), 2))
            assert freed == [first.adapter.digest, "sha256:0"]
            assert ask(engine, Request(LONG, self.worn(first), 24)).tokens == expected
        assert freed == [first.adapter.digest, "sha256:0", "sha256:1"]

    def test_a_file_that_is_no_adapter_is_refused(
        self, engine: Engine, lively_base: Path, tmp_path: Path
    ) -> None:
        garbage = tmp_path / self.own_file
        garbage.write_bytes(b"GGUF" + bytes(range(200)))
        for path in (tmp_path / "missing" / self.own_file, garbage, lively_base):
            with pytest.raises(Refused, match="trained on this base model") as raised:
                ask(engine, Request(PROMPT, Adapter("sha256:bad", path), 4))
            assert raised.value.reason == "ADAPTER_UNUSABLE"
        assert ask(engine, Request(PROMPT, max_tokens=4)).tokens

    def test_an_adapter_of_another_shape_is_refused(
        self, first: TinyAdapter, tmp_path: Path
    ) -> None:
        folder = build_hugging_face_folder(tmp_path / "wide", hidden=192)
        convert_model(folder, tmp_path / "wide.gguf", FileType.F32)
        with self.engine_type.open(tmp_path / "wide.gguf", EngineOptions(256)) as wide:
            with pytest.raises(Refused) as raised:
                ask(wide, Request(PROMPT, self.worn(first), 4))
            assert raised.value.reason == "ADAPTER_UNUSABLE"
            assert ask(wide, Request(PROMPT, max_tokens=4)).finish

    def test_logits_that_are_no_numbers_end_one_request_only(
        self, engine: Engine, broken: TinyAdapter, first: TinyAdapter
    ) -> None:
        expected = ask(engine, Request(PROMPT, self.worn(first), 8)).tokens
        for _ in range(2):
            with pytest.raises(Refused, match="Train it again") as raised:
                ask(engine, Request(PROMPT, self.worn(broken), 8))
            assert raised.value.reason == "NON_FINITE_LOGITS"
        assert ask(engine, Request(PROMPT, self.worn(first), 8)).tokens == expected

    def test_scores_and_embeddings_are_those_of_llama(
        self, engine: Engine, llama: LlamaEngine, first: TinyAdapter
    ) -> None:
        """In F32, up to llama.cpp's attention cache in 16 bits."""
        never = threading.Event()
        samples = [Sample(PROMPT, LONG), Sample("", LONG), Sample(messages=(*CHAT, ANSWER))]
        for tiny in (None, first):
            adapter = tiny.adapter if tiny else None
            expected = list(llama.score(ScoreRequest(samples, adapter), never))
            scores = list(engine.score(ScoreRequest(samples, self.worn(tiny)), never))
            for found, right in zip(scores, expected, strict=True):
                assert (found.tokens, found.prompt_tokens) == (right.tokens, right.prompt_tokens)
                assert found.logprob_sum == pytest.approx(right.logprob_sum, rel=1e-3)
            texts = [LONG, "the sea"]
            vectors = list(llama.embed(EmbedRequest(texts, adapter), never))
            own = list(engine.embed(EmbedRequest(texts, self.worn(tiny)), never))
            for mine, theirs in zip(own, vectors, strict=True):
                assert mine.tokens == theirs.tokens
                difference = np.subtract(mine.vector, theirs.vector)
                assert np.linalg.norm(difference) < 5e-3 * np.linalg.norm(theirs.vector)

    def test_an_adapter_that_gives_no_numbers_gives_neither_embedding_nor_score(
        self, engine: Engine, broken: TinyAdapter
    ) -> None:
        never, worn = threading.Event(), self.worn(broken)
        with pytest.raises(Refused, match="Train it again"):
            list(engine.embed(EmbedRequest([PROMPT], worn), never))
        with pytest.raises(Refused, match="Train it again"):
            list(engine.score(ScoreRequest([Sample(PROMPT, LONG)], worn), never))
        assert list(engine.embed(EmbedRequest([PROMPT]), never))

    @pytest.mark.parametrize("family", [*shapes.FAMILIES, "shipped"])
    def test_greedy_in_q8_0_is_that_of_llama_wherever_it_is_clear(
        self, family: str, tmp_path: Path
    ) -> None:
        """Of random weights, and of the trained model of the demo. The engines round activations
        differently, so where the two likeliest tokens are closer than that, either is right, and
        the answers part. Until then each token is the same, and its log-probability up to
        ``rounding``."""
        base = SHIPPED
        if family != "shipped":
            base = tmp_path / "base.gguf"
            convert_model(shapes.build(family, tmp_path / "model"), base, FileType.Q8_0)
        options = EngineOptions(CONTEXT)
        texts = [*SENTENCES[:8], *(text[: len(text) // 2] for text in SENTENCES[:8])]
        requests = [Request(text, max_tokens=24, top_logprobs=2) for text in texts]
        with LlamaEngine.open(base, options) as llama:
            expected = [entries(llama, request) for request in requests]
        with self.engine_type.open(base, options) as engine:
            found = [entries(engine, request) for request in requests]
        compared = 0
        for theirs, mine in zip(expected, found, strict=True):
            for right, own in zip(theirs, mine, strict=False):
                margin = right.top[0].logprob - right.top[1].logprob
                if own.chosen.token_id != right.chosen.token_id:
                    assert margin < 2 * self.rounding
                    break
                assert own.chosen.logprob == pytest.approx(right.chosen.logprob, abs=self.rounding)
                compared += margin >= 2 * self.rounding
        assert compared > 3 * len(requests), "too few to prove anything"


def entries(engine: Engine, request: Request) -> list[TokenLogprob]:
    return [entry for piece in ask(engine, request).pieces for entry in piece.logprobs]
