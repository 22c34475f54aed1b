"""A model that turns tokens into logits: all that an engine of ours has to bring along.

The tokenizer, the chat template, the sampling chain and the loop are the same for every decoder
(agent/inference/serial.py), so that what differs between two such engines is arithmetic alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from agent.inference.engine import Adapter

Logits = npt.NDArray[np.float32]

# Tokens of one call of ``decode``: between two of them a cancellation is noticed.
BATCH_TOKENS = 64


class Decoder(ABC):
    """Holds the keys and values of some sequences, numbered from 0; computes one at a time."""

    @abstractmethod
    def wear(self, adapter: Adapter | None) -> None:
        """From now on with this adapter, or with none. Raises Refused (ADAPTER_UNUSABLE)."""

    @abstractmethod
    def decode(self, sequence: int, tokens: Sequence[int], position: int) -> Logits:
        """Computes at most BATCH_TOKENS tokens after the first ``position`` of the sequence, and
        returns the logits (vocabulary) after the last of them; valid until the next call."""

    @abstractmethod
    def drop(self, sequence: int, position: int = 0) -> None:
        """Forgets the sequence from ``position`` on."""

    def keepable(self, sequence: int, keep: int) -> int:
        """``keep``, when the sequence can be gone on with there: all of it is kept."""
        return keep

    @abstractmethod
    def close(self) -> None:
        """Frees everything; may be called twice."""
