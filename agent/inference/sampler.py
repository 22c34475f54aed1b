"""Choosing the next token, in C: over a vocabulary of 262,144, Python would take as long as a
layer of the model.

Forbidden tokens first, then top-k, which makes everything after it cheap, penalties (llama.cpp's
own chain has them before top-k, its header advises against that), top-p, min-p, temperature, and a
seeded draw. At temperature 0 the most likely token is taken and the filters that cannot change it
are left out.

llama.cpp computes in 32 bits and checks nothing: a value that makes a logit infinite gives no
error but always the last token of the vocabulary. So the ranges end where that could begin.
"""

import ctypes
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import NewType

import llama_cpp
import numpy as np
import numpy.typing as npt

from agent.inference.engine import Sampling
from agent.inference.failures import invalid_sampling, nothing_allowed

# How far back a token counts as repeated: llama.cpp's own default.
PENALTY_WINDOW = 64
# Below, the draw is the most likely token, and dividing by it comes near the end of 32 bits.
GREEDY_BELOW = 1e-4
LEAST_PENALTY = 0.01
MOST_BIAS = 1e6
# A C object that nobody owns until a chain does.
_Link = NewType("_Link", object)
# llama_token_data.
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
# To this seed llama.cpp gives the meaning "random".
_RANDOM_SEED = 0xFFFFFFFF


def check(sampling: Sampling, vocabulary_size: int) -> None:
    """Raises InvalidRequest (INVALID_SAMPLING) that names the value and its range."""
    _check_range("temperature", sampling.temperature, 0, 100)
    _check_range("top_k", sampling.top_k, 0, math.inf)
    _check_range("top_p", sampling.top_p, 0, 1)
    _check_range("min_p", sampling.min_p, 0, 1)
    if sampling.repeat_penalty != 0:
        _check_range("repeat_penalty", sampling.repeat_penalty, LEAST_PENALTY, 100)
    _check_bias(sampling.logit_bias, vocabulary_size)


def _check_bias(biases: Mapping[int, float], vocabulary_size: int) -> None:
    for token, bias in biases.items():
        if not 0 <= token < vocabulary_size:
            raise invalid_sampling("logit_bias", token, f"for tokens below {vocabulary_size}")
        if bias != -math.inf and not abs(bias) <= MOST_BIAS:
            raise invalid_sampling(
                "logit_bias", bias, "from -1,000,000 to 1,000,000, or minus infinity"
            )
    if list(biases.values()).count(-math.inf) == vocabulary_size:
        raise nothing_allowed()


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        raise invalid_sampling(name, value, f"at least {low:g}{upper}")


class Sampler:
    """A chain for one request: it remembers the tokens that it has seen. Close it after use."""

    def __init__(self, sampling: Sampling, vocabulary_size: int) -> None:
        check(sampling, vocabulary_size)
        self._vocabulary_size = vocabulary_size
        self._owned = ExitStack()
        params = llama_cpp.llama_sampler_chain_default_params()
        params.no_perf = True
        self._chain = llama_cpp.llama_sampler_chain_init(params)
        # The chain owns what is added to it.
        self._owned.callback(llama_cpp.llama_sampler_free, self._chain)
        for link in _links(sampling, vocabulary_size):
            llama_cpp.llama_sampler_chain_add(self._chain, link)

    def see(self, prompt: Sequence[int]) -> None:
        """The prompt's end counts for the repeat penalty."""
        for token in prompt[-PENALTY_WINDOW:]:
            llama_cpp.llama_sampler_accept(self._chain, token)

    def choose(self, context: int) -> int:
        """The next token, from the logits of the last one that ``context`` decoded."""
        return int(llama_cpp.llama_sampler_sample(self._chain, context, -1))

    def choose_from(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token, from logits of another origin; what lies beyond the vocabulary is
        padding."""
        candidates = self._candidates()
        candidates["logit"] = logits[: len(candidates)]
        array = llama_cpp.llama_token_data_array(
            data=candidates.ctypes.data_as(llama_cpp.llama_token_data_p),
            size=len(candidates),
            selected=-1,
            sorted=False,
        )
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        llama_cpp.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        self._owned.close()

    def _candidates(self) -> npt.NDArray[np.void]:
        """llama_token_data of every token; the chain sorts and shortens it in place."""
        candidates = np.zeros(self._vocabulary_size, dtype=_CANDIDATE)
        candidates["id"] = np.arange(self._vocabulary_size)
        return candidates


def _links(sampling: Sampling, vocabulary_size: int) -> list[_Link]:
    """The filters in their order."""
    links: list[_Link] = []
    if sampling.logit_bias:
        links.append(_logit_bias(sampling, vocabulary_size))
    if sampling.top_k:
        top_k = min(sampling.top_k, vocabulary_size)
        links.append(llama_cpp.llama_sampler_init_top_k(top_k))
    if sampling.repeat_penalty not in (0, 1):
        links.append(
            llama_cpp.llama_sampler_init_penalties(
                vocabulary_size, PENALTY_WINDOW, sampling.repeat_penalty, 0.0, 0.0
            )
        )
    if sampling.temperature < GREEDY_BELOW:
        return [*links, llama_cpp.llama_sampler_init_greedy()]
    if 0 < sampling.top_p < 1:
        links.append(llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p:
        links.append(llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1))
    links.append(llama_cpp.llama_sampler_init_temp(sampling.temperature))
    links.append(llama_cpp.llama_sampler_init_dist(folded_seed(sampling.seed)))
    return links


def _logit_bias(sampling: Sampling, vocabulary_size: int) -> _Link:
    entries = [llama_cpp.llama_logit_bias(t, b) for t, b in sampling.logit_bias.items()]
    array = (llama_cpp.llama_logit_bias * len(entries))(*entries)
    return _Link(llama_cpp.llama_sampler_init_logit_bias(vocabulary_size, len(entries), array))


def folded_seed(seed: int) -> int:
    """A 64-bit seed in the 32 bits that llama.cpp takes, never its value for "random"."""
    folded = (seed ^ (seed >> 32)) & 0xFFFFFFFF
    return folded - 1 if folded == _RANDOM_SEED else folded
