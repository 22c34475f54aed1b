"""What an inference engine is: one interface, so that engines differ in speed and never in meaning.

An engine holds one base model. ``generate`` streams one request at a time; another thread ends it
through the request's ``cancelled`` event, within about one token. What is wrong with a request is
raised as an error of protos.errors with a stable ``reason`` (see failures.py) and leaves the engine
ready for the next request.

Every engine passes tests/agent/inference/engine_contract.py.
"""

import enum
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType

DEFAULT_CONTEXT_LENGTH = 2048
DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class EngineOptions:
    context_length: int = DEFAULT_CONTEXT_LENGTH
    threads: int = 1


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


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA to apply, as the engine's own file; the digest is that of the adapter artifact."""

    digest: str
    path: Path
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    # Plain text to go on with, or a conversation for the base model's chat template.
    prompt: str | Sequence[Message]
    adapter: Adapter | None = None
    max_tokens: int = DEFAULT_MAX_TOKENS
    sampling: Sampling = field(default_factory=Sampling)
    stop: Sequence[str] = ()


class Finish(enum.Enum):
    STOP = "end of turn, end of text, or a stop string"
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
class Piece:
    """Some more text, whole characters only, and the tokens behind it.

    The last piece of a request, and no other, has ``finish`` and ``usage``. The token that ends a
    turn is not among ``token_ids``.
    """

    text: str
    token_ids: tuple[int, ...]
    finish: Finish | None = None
    usage: Usage | None = None


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
