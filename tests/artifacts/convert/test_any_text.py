"""Every text becomes the same tokens in llama.cpp as in the tokenizers library, and comes back."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from agent.tokens.vocabulary import Vocabulary, opened
from artifacts import base_model
from artifacts.convert import convert_model
from artifacts.convert.check_text import CHECK_TEXTS
from tests.artifacts.convert.tokenizers_at_home import KINDS
from tests.llama import Reference, reference
from tests.tiny import SENTENCES

CONTROL = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<pad>")
BYTE_CONTROL = ("<|begin_of_text|>", "<|end_of_text|>", "<|im_end|>")
# What merges are made of, and where rules of splitting meet.
_PIECES = st.sampled_from(
    [
        *(word for sentence in SENTENCES for word in sentence.split()),
        *(" ", "  ", "\n", "\n\n", "\r\n", "\t", "'s", "'LL", "12", "1234", "a", "é", "e\u0301"),
        *("🧑🏽‍🚀", "🏳️‍🌈", "\u200b", "\u00a0", "\u3000", "...", "!?", "\x00", "\x1f", "<", "|>"),
    ]
)
TEXTS = st.one_of(st.lists(_PIECES, max_size=24).map("".join), st.text(max_size=60))


@dataclass
class Pair:
    tokenizer: Tokenizer
    llama: Reference
    file: Path
    kind: str


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    folder = KINDS[request.param](tmp_path_factory.mktemp("kinds") / "model")
    file = folder.with_suffix(".gguf")
    assert convert_model(folder, file).warnings == ()
    with reference(file) as llama:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        yield Pair(tokenizer, llama, file, request.param)


@given(text=TEXTS)
def test_any_text_becomes_the_same_tokens(pair: Pair, text: str) -> None:
    # In SentencePiece's kind a ▁ that somebody writes is a space (sentence_piece.py).
    text = text.replace("▁", "_")
    expected = pair.tokenizer.encode(text).ids
    assert pair.llama.tokens(text) == expected


def test_the_check_texts_become_the_same_tokens_and_come_back(pair: Pair) -> None:
    for text in (*CHECK_TEXTS, *SENTENCES):
        expected = pair.tokenizer.encode(text).ids
        assert pair.llama.tokens(text) == expected, text
        came_back = pair.llama.text(expected)
        if pair.kind == "llama 2":  # a space is put in front, and behind each added token
            assert came_back.removeprefix(" ") == pair.tokenizer.decode(expected)
        else:
            assert came_back == text


@given(text=TEXTS, control=st.sampled_from([*CONTROL, *BYTE_CONTROL]), more=TEXTS)
def test_a_control_token_in_what_people_write_stays_text(
    vocabulary: Vocabulary, text: str, control: str, more: str
) -> None:
    tokens = vocabulary.plain(text + control + more)
    assert not any(vocabulary.is_control(token) for token in tokens)


@pytest.fixture(scope="module")
def vocabulary(pair: Pair) -> Iterator[Vocabulary]:
    with opened(pair.file) as found:
        yield found


def test_each_kind_is_llama_cpps_own(pair: Pair) -> None:
    kinds = {"gemma": "llama", "llama 2": "llama", "gemma at home": "gemma4"}
    metadata = base_model.read(pair.file).metadata
    assert metadata["tokenizer.ggml.model"] == kinds.get(pair.kind, "gpt2")
