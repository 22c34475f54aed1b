"""The four shapes that a line of a dataset may have."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


class Shape(enum.Enum):
    CHAT = "chat"
    ALPACA = "alpaca"
    COMPLETION = "completion"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatSample:
    """``{"messages": [{"role", "content"}, …]}``: system at most first, then user and assistant."""

    line: int
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class AlpacaSample:
    """``{"instruction", "input", "output"}``; ``input`` may be missing or empty."""

    line: int
    instruction: str
    input: str
    output: str


@dataclass(frozen=True, slots=True)
class CompletionSample:
    """``{"prompt", "completion"}``."""

    line: int
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class TextSample:
    """``{"text"}``: raw text, learned whole."""

    line: int
    text: str


Sample: TypeAlias = ChatSample | AlpacaSample | CompletionSample | TextSample


def shape_of(sample: Sample) -> Shape:
    return _SHAPES[type(sample)]


def texts_of(sample: Sample) -> tuple[str, ...]:
    """All text of a sample, in order: what makes two samples the same."""
    if isinstance(sample, ChatSample):
        return tuple(
            part for message in sample.messages for part in (message.role, message.content)
        )
    if isinstance(sample, AlpacaSample):
        return (sample.instruction, sample.input, sample.output)
    if isinstance(sample, CompletionSample):
        return (sample.prompt, sample.completion)
    return (sample.text,)


def characters_of(sample: Sample) -> int:
    """The characters that somebody wrote: without the names of roles."""
    if isinstance(sample, ChatSample):
        return sum(len(message.content) for message in sample.messages)
    return sum(map(len, texts_of(sample)))


_SHAPES: Mapping[type[Sample], Shape] = {
    ChatSample: Shape.CHAT,
    AlpacaSample: Shape.ALPACA,
    CompletionSample: Shape.COMPLETION,
    TextSample: Shape.TEXT,
}
