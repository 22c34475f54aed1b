"""The tokens that may come next with their logits, where llama.cpp's samplers and numpy both work.

Three megabytes at a vocabulary of 262,144: made for those requests only whose choice must be looked
at before it is taken, and filled again for each token.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NewType, Protocol

import llama_cpp
import numpy as np
from numpy.typing import NDArray

# A C sampler, or a chain of them.
SamplerHandle = NewType("SamplerHandle", object)

# llama_token_data.
_ENTRY = np.dtype([("token", np.int32), ("logit", np.float32), ("probability", np.float32)])
# A grammar judges so many tokens in 2 ms, on a small board in 10.
_PART = 8192


class Interrupted(Exception):
    """The request was cancelled while its next token was being chosen: there is none."""


class Row(Protocol):
    """What a token is chosen from: the logits of the whole vocabulary."""

    @property
    def logits(self) -> NDArray[np.float32]: ...

    def sampled(self, chain: SamplerHandle) -> int:
        """The token that the chain chooses and remembers."""


class Candidates:
    def __init__(self, vocabulary_size: int) -> None:
        self._entries = np.zeros(vocabulary_size, _ENTRY)
        self._tokens = np.arange(vocabulary_size, dtype=np.int32)
        self._array = _array(self._entries)

    def fill(self, logits: NDArray[np.float32]) -> None:
        """All tokens, as if nothing had been applied."""
        self._entries["token"] = self._tokens
        self._entries["logit"] = logits
        self._array = _array(self._entries)

    def forbid(self, tokens: Sequence[int]) -> None:
        """Before anything is applied: a sampler may put them in another order."""
        self._entries["logit"][list(tokens)] = -np.inf

    def apply(self, sampler: SamplerHandle) -> None:
        """The sampler may change logits, the order, and how many there are."""
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(self._array))

    def judge(self, sampler: SamplerHandle, is_cancelled: Callable[[], bool]) -> None:
        """Applies a sampler that judges each token by itself. Before anything that may change their
        order. Raises Interrupted."""
        for begin in range(0, len(self._entries), _PART):
            if is_cancelled():
                raise Interrupted
            part = _array(self._entries[begin : begin + _PART])
            llama_cpp.llama_sampler_apply(sampler, ctypes.byref(part))

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be chosen: to be asked before a chain draws from them."""
        return not isfinite(self._entries["logit"].max())

    @property
    def selected(self) -> int:
        """The token that a chain has chosen."""
        return int(self._entries["token"][self._array.selected])


def permits(sampler: SamplerHandle, token: int) -> bool:
    """Whether the sampler, a grammar, leaves the token possible: a thousandth of asking of all."""
    entry = np.array([(token, 0.0, 0.0)], _ENTRY)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(_array(entry)))
    return isfinite(entry["logit"][0])


def _array(entries: NDArray[np.void]) -> llama_cpp.llama_token_data_array:
    return llama_cpp.llama_token_data_array(
        data=entries.ctypes.data_as(llama_cpp.llama_token_data_p),
        size=len(entries),
        selected=-1,
        sorted=False,
    )


@dataclass(frozen=True, slots=True)
class LooseRow:
    """Logits that are not llama.cpp's own."""

    logits: NDArray[np.float32]

    def sampled(self, chain: SamplerHandle) -> int:
        candidates = Candidates(len(self.logits))
        candidates.fill(self.logits)
        candidates.apply(chain)
        llama_cpp.llama_sampler_accept(chain, candidates.selected)
        return candidates.selected
