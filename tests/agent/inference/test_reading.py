"""Embeddings and scores of the llama engine against Transformers, and against our own training."""

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agent.inference.engine import EmbedRequest, EngineOptions, Message, Sample, ScoreRequest
from agent.inference.llama import LlamaEngine
from agent.tokens.vocabulary import Vocabulary
from agent.training import graph
from agent.training.examples import ExampleMaker
from agent.training.samples import TokenSample
from agent.training.token_file import Example
from agent.training.weights import MappedWeights
from artifacts import base_model, samples
from artifacts.base_model import BaseModel
from artifacts.chat_template import ChatTemplate
from protos.errors import Refused
from tests.agent.inference.conftest import ALL, CONTEXT, TinyAdapter, transformers_model
from tests.agent.training.driver import recipe
from tests.tiny import SENTENCES

NEVER = threading.Event()
PROMPT = "Tell me about the dog."
# Longer than a batch and than the sliding window.
LONG = " ".join(SENTENCES[:4])
PAIRS = (
    (PROMPT, "The lazy dog sleeps in the sun."),
    ("What is your name?", "I am Pico, and the waves are high today."),
    ("नमस्ते!", " It ends with <end_of_turn> as text. "),
)


@pytest.mark.parametrize("adapted", [False, True])
def test_embeddings_are_the_mean_of_transformers_last_states(
    engine: LlamaEngine, lively_folder: Path, first: TinyAdapter, adapted: bool
) -> None:
    model = transformers_model(lively_folder, first.folder if adapted else None)
    adapter = first.adapter if adapted else None
    for text in (LONG, "the sea"):
        tokens = torch.tensor([engine.tokenise(text)])
        with torch.no_grad():
            states = model(input_ids=tokens, output_hidden_states=True).hidden_states[-1][0]
        (found,) = engine.embed(EmbedRequest([text], adapter), NEVER)
        assert found.tokens == tokens.shape[1]
        mean = states.mean(0)
        # The attention cache is in 16 bits.
        assert (torch.tensor(found.vector) - mean).norm() < 5e-3 * mean.norm()


@pytest.mark.parametrize("adapted", [False, True])
def test_a_score_is_the_loss_of_transformers(
    engine: LlamaEngine, lively_folder: Path, first: TinyAdapter, adapted: bool
) -> None:
    model = transformers_model(lively_folder, first.folder if adapted else None)
    vocabulary = engine.vocabulary
    prompt = vocabulary.with_bos(vocabulary.plain(PROMPT))
    answer = [*vocabulary.plain(LONG), vocabulary.eos]
    whole = torch.tensor([prompt + answer])
    labels = whole.clone()
    labels[:, : len(prompt)] = -100
    with torch.no_grad():
        loss = model(input_ids=whole, labels=labels).loss.item()
    request = ScoreRequest([Sample(PROMPT, LONG)], first.adapter if adapted else None)
    for _ in ("cold", "from a cached prefix"):
        (score,) = engine.score(request, NEVER)
        assert (score.tokens, score.prompt_tokens) == (len(answer), len(prompt))
        assert -score.logprob_mean == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize("adapted", [False, True])
def test_the_score_of_a_dataset_is_its_loss_in_training(
    lively_base_q8: Path, first: TinyAdapter, adapted: bool
) -> None:
    """The same file in its 8 bits, the same samples and adapter, in the other engine."""
    base = base_model.read(lively_base_q8)
    trained = in_training(base, first.folder if adapted else None)
    with LlamaEngine.open(lively_base_q8, EngineOptions(CONTEXT)) as engine:
        pairs = in_both_forms(base, engine.vocabulary)
        request = ScoreRequest([asked for asked, _ in pairs], first.adapter if adapted else None)
        scores = list(engine.score(request, NEVER))
    losses = []
    for (_, examples), score in zip(pairs, scores, strict=True):
        assert score.tokens == sum(len(example.labelled) for example in examples)
        with torch.no_grad():
            losses.append(sum(trained.summed_loss(example).item() for example in examples))
        assert -score.logprob_sum == pytest.approx(losses[-1], rel=1e-2)
    assert -sum(score.logprob_sum for score in scores) == pytest.approx(sum(losses), rel=1e-2)


def test_an_adapter_that_gives_no_numbers_gives_neither_embedding_nor_score(
    engine: LlamaEngine, broken: TinyAdapter
) -> None:
    with pytest.raises(Refused, match="Train it again"):
        list(engine.embed(EmbedRequest([PROMPT], broken.adapter), NEVER))
    with pytest.raises(Refused, match="Train it again"):
        list(engine.score(ScoreRequest([Sample(PROMPT, LONG)], broken.adapter), NEVER))
    assert list(engine.embed(EmbedRequest([PROMPT]), NEVER))
    assert list(engine.score(ScoreRequest([Sample(PROMPT, LONG)]), NEVER))


def in_training(base: BaseModel, adapter: Path | None) -> graph.TrainedModel:
    spec = recipe(lora_rank=4, lora_alpha=8, lora_targets=ALL)
    model = graph.build(base, MappedWeights(base, torch.float32), spec)
    if adapter is not None:
        weights = load_file(adapter / "adapter_model.safetensors")
        for name, parameter in model.parameters.items():
            parameter.data.copy_(weights[f"base_model.model.model.{name}"])
    return model


def in_both_forms(
    base: BaseModel, vocabulary: Vocabulary
) -> list[tuple[Sample, list[TokenSample]]]:
    """Completions, texts and chats: as a request for a score, and as training labels them."""
    assert base.chat_template
    template = ChatTemplate(base.chat_template, vocabulary.special_texts())
    maker = ExampleMaker(vocabulary, template, "dataset")
    forms: list[tuple[Sample, samples.Sample]] = []
    for prompt, answer in PAIRS:
        forms += [
            (Sample(prompt, answer), samples.CompletionSample(1, prompt, answer)),
            (Sample("", prompt + answer), samples.TextSample(1, prompt + answer)),
            chat((prompt, answer)),
        ]
    forms.append(chat(*PAIRS))
    return [(asked, [_tokens(found) for found in maker.make(sample)]) for asked, sample in forms]


def chat(*turns: tuple[str, str]) -> tuple[Sample, samples.Sample]:
    """Questions and answers in turn."""
    messages = [
        (role, text)
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return (
        Sample(messages=[Message(*message) for message in messages]),
        samples.ChatSample(1, tuple(samples.Message(*message) for message in messages)),
    )


def _tokens(example: Example) -> TokenSample:
    labelled = torch.tensor(example.labelled).nonzero().flatten()
    return TokenSample(torch.tensor(example.tokens), labelled)
