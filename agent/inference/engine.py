"""What an inference engine is: one interface, so that engines differ in speed and never in meaning.

An engine holds one base model. ``generate`` streams one request at a time; another thread ends it
through the request's ``cancelled`` event, within one token or 50 ms: also inside a long prompt, a
choice by a grammar, a text that is read. What is wrong with a request is raised as an error of
protos.errors with a stable ``reason`` (see failures.py) and leaves the engine ready for the next.

Every engine passes tests/agent/inference/engine_contract.py.
"""

import enum
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TypeAlias

from protos.errors import NanofleetError

DEFAULT_CONTEXT_LENGTH = 2048
DEFAULT_MAX_TOKENS = 256
MOST_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class EngineOptions:
    context_length: int = DEFAULT_CONTEXT_LENGTH
    threads: int = 1
    # A folder for what an engine makes of a base and can make again; None: it is made for once.
    cache: Path | None = None
    # Answers at once of engines that can; 0: as many as pay, measured when the model is opened.
    streams: int = 0
    # Told the digest of an adapter that was freed for another one.
    freed: Callable[[str], None] = lambda digest: None
    # An answer is the same to the last bit whatever was asked before it: of one prompt only whole
    # batches are kept for the next, which computing them anew would give. One answer at a time.
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; the defaults are greedy. Zero switches a filter off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    repeat_penalty: float = 0.0
    seed: int = 0
    # Added to the logits of single tokens; minus infinity forbids one.
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    # Never chosen, whatever their bias.
    suppress_tokens: Sequence[int] = ()
    # Never in the answer's text, however they would be spelled in tokens.
    suppress_texts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA to apply, as the engine's own file; the digest is that of the adapter artifact."""

    digest: str
    path: Path
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Gbnf:
    """llama.cpp's notation; the rule ``root`` is the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """As JSON text; every keyword in it is enforced, or the request refused."""

    text: str


@dataclass(frozen=True, slots=True)
class Request:
    # Plain text to go on with, or a conversation for the base model's chat template.
    prompt: str | Sequence[Message]
    adapter: Adapter | None = None
    max_tokens: int = DEFAULT_MAX_TOKENS
    sampling: Sampling = field(default_factory=Sampling)
    stop: Sequence[str] = ()
    grammar: Gbnf | JsonSchema | None = None
    # So many likeliest tokens beside each token; None: no log-probabilities at all.
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    texts: Sequence[str]
    adapter: Adapter | None = None
    normalized: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """What is scored: ``completion`` after ``prompt``, or the assistant's ``messages``.

    Training labels the same tokens of the same sample (agent/training/examples.py).
    """

    prompt: str = ""
    completion: str = ""
    messages: Sequence[Message] = ()


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    samples: Sequence[Sample]
    adapter: Adapter | None = None


AnyRequest: TypeAlias = Request | EmbedRequest | ScoreRequest


class Finish(enum.Enum):
    STOP = "end of turn, end of text, a stop string, or a complete grammar"
    LENGTH = "max_tokens, or the context is full"
    LOOP = "the model repeats itself"
    CANCELED = "the client does not want it any more"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost. ``decode_s`` is the engine's time, not that of a slow reader."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    decode_tokens_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token and its natural log-probability by the model's own distribution: the softmax of its
    logits with the adapter, before bias, suppression, grammar, penalties, filters and temperature.
    """

    token_id: int
    logprob: float
    # What it stands for: perhaps half a character, empty for a control token.
    data: bytes


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    chosen: Candidate
    # The likeliest first; the chosen one may be among them.
    top: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some more text, whole characters only, and the tokens behind it.

    The last piece of a request, and no other, has ``finish`` and ``usage``. The token that ends a
    turn is not among ``token_ids``. ``logprobs`` belong to ``token_ids``, if they were asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish: Finish | None = None
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Embedding:
    """The mean of a text's final hidden states (after the last norm) over all of its tokens."""

    vector: Sequence[float]
    tokens: int


@dataclass(frozen=True, slots=True)
class Score:
    """The natural log-probabilities of a sample's scored tokens, summed."""

    logprob_sum: float
    tokens: int
    # Before the last answer.
    prompt_tokens: int

    @property
    def logprob_mean(self) -> float:
        return self.logprob_sum / self.tokens


class Engine(ABC):
    """Owns a loaded base model; a context manager. Used by one thread."""

    context_length: int

    @classmethod
    @abstractmethod
    def open(cls, base: Path, options: EngineOptions) -> "Engine":
        """Loads the base model. Raises InvalidRequest, OutOfMemory or WorkerFailed."""

    @abstractmethod
    def tokenise(self, prompt: str | Sequence[Message]) -> list[int]:
        """The prompt's tokens, special ones included, as ``generate`` would see them."""

    @abstractmethod
    def generate(self, request: Request, cancelled: threading.Event) -> Iterator[Piece]:
        """Streams the answer. Closing the iterator early is fine."""

    @abstractmethod
    def embed(self, request: EmbedRequest, cancelled: threading.Event) -> Iterator[Embedding]:
        """One for each text, in their order; ends early when it is cancelled."""

    @abstractmethod
    def score(self, request: ScoreRequest, cancelled: threading.Event) -> Iterator[Score]:
        """One for each sample, in their order; ends early when it is cancelled."""

    @abstractmethod
    def close(self) -> None:
        """Frees everything; may be called twice."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Answer:
    """A request that an engine is answering together with others."""


class BatchingEngine(Engine):
    """An engine that may compute several answers with one adapter in the same batches.

    A request gets the tokens that it gets alone, up to what floating point makes of another order
    of additions.
    """

    # How many at once are worth it on this machine.
    streams: int = 1

    @abstractmethod
    def begin(self, request: Request, cancelled: threading.Event) -> Answer | None:
        """Takes the request in. None when it cannot run beside those that do: later it can, and
        alone it always can. Raises what is wrong with it."""

    @abstractmethod
    def step(self) -> Iterator[tuple[Answer, Piece | NanofleetError]]:
        """Computes one batch for all of them: what is new of each, as soon as it is known. One that
        has ended or failed is over, and no longer among them."""

    @abstractmethod
    def end(self, answer: Answer) -> None:
        """Gives an answer up; nothing happens when it is over."""
