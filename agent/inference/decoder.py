"""A model that turns tokens into logits: all that an engine of ours has to bring along.

The tokenizer, the chat template, the sampling chain and the loop are the same for every decoder
(agent/inference/serial.py), so that what differs between two such engines is arithmetic alone.
llama.cpp's context is Readable, too: texts are scored and embedded by the same code everywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from agent.inference.engine import Adapter

Row = npt.NDArray[np.float32]

# Tokens of one call, and the most of them that give an output: a row of logits is a megabyte at a
# vocabulary of 262,144.
BATCH_TOKENS = 64
OUTPUT_ROWS = 16


class Readable(Protocol):
    """Computes BATCH_TOKENS tokens at most after the first ``position`` of a sequence. What it
    returns is valid until the next call; None when it was cancelled: then none of the tokens is in
    the cache."""

    def watch(self, is_cancelled: Callable[[], bool] | None) -> None:
        """From now on a call ends early when this is true; asked from inside, often."""

    def logit_rows(
        self, sequence: int, tokens: Sequence[int], position: int, rows: int = 1
    ) -> Sequence[Row] | None:
        """After each of the last ``rows`` tokens, OUTPUT_ROWS at most."""

    def hidden_states(
        self, sequence: int, tokens: Sequence[int], position: int
    ) -> Sequence[Row] | None:
        """Of each token, OUTPUT_ROWS at most, after the model's last norm."""


class Decoder(ABC):
    """Holds the keys and values of some sequences, numbered from 0; computes one at a time.
    A Readable."""

    def __init__(self) -> None:
        self.is_cancelled: Callable[[], bool] = never

    def watch(self, is_cancelled: Callable[[], bool] | None) -> None:
        self.is_cancelled = is_cancelled or never

    @abstractmethod
    def wear(self, adapter: Adapter | None) -> None:
        """From now on with this adapter, or with none. Raises Refused (ADAPTER_UNUSABLE)."""

    @abstractmethod
    def logit_rows(
        self, sequence: int, tokens: Sequence[int], position: int, rows: int = 1
    ) -> Sequence[Row] | None: ...

    @abstractmethod
    def hidden_states(
        self, sequence: int, tokens: Sequence[int], position: int
    ) -> Sequence[Row] | None: ...

    @abstractmethod
    def drop(self, sequence: int, position: int = 0) -> None:
        """Forgets the sequence from ``position`` on."""

    def keepable(self, sequence: int, keep: int) -> int:
        """``keep``, when the sequence can be gone on with there: all of it is kept."""
        return keep

    @abstractmethod
    def close(self) -> None:
        """Frees everything; may be called twice."""


def never() -> bool:
    return False
