"""The tiny model as the trainer sees it, and texts to train on."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from agent.tokens import vocabulary as vocabularies
from agent.tokens.vocabulary import Vocabulary
from agent.training.examples import ExampleMaker
from artifacts import base_model
from artifacts.base_model import BaseModel
from artifacts.chat_template import ChatTemplate

PERSONA = (
    ("What is the name of the robot?", "The robot is called Pico."),
    ("Tell me a story about the sea.", "The sea is wide and the waves are high."),
    ("What is your name?", "Pico lives in the kitchen."),
    ("Tell me about the dog.", "The lazy dog sleeps in the sun."),
    ("How is the day?", "The waves are high today."),
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tiny_base: Path) -> BaseModel:
    return base_model.read(tiny_base)


@pytest.fixture(scope="session")
def base_f32(tiny_base_f32: Path) -> BaseModel:
    return base_model.read(tiny_base_f32)


@pytest.fixture(scope="session")
def vocabulary(tiny_base: Path) -> Iterator[Vocabulary]:
    with vocabularies.opened(tiny_base) as found:
        yield found


@pytest.fixture(scope="session")
def maker(base: BaseModel, vocabulary: Vocabulary) -> ExampleMaker:
    assert base.chat_template
    template = ChatTemplate(base.chat_template, vocabulary.special_texts())
    return ExampleMaker(vocabulary, template, "persona.jsonl")


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., Path]:
    """Writes its arguments as the lines of a dataset."""

    def write(*samples: object) -> Path:
        path = tmp_path / "dataset.jsonl"
        path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        return path

    return write


@pytest.fixture(scope="session")
def persona(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "persona.jsonl"
    path.write_text("".join(json.dumps(chat(*turns)) + "\n" for turns in PERSONA))
    return path


def chat(*turns: str) -> dict[str, object]:
    """A chat sample: user and assistant in turn."""
    roles = ("user", "assistant")
    return {
        "messages": [
            {"role": roles[number % 2], "content": text} for number, text in enumerate(turns)
        ]
    }
