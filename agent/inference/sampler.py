"""Choosing the next token, in C: over a vocabulary of 262,144, Python would take as long as a
layer of the model.

Forbidden tokens first, then top-k, which makes everything after it cheap, penalties (llama.cpp's
own chain has them before top-k, its header advises against that), top-p, min-p, temperature, and a
seeded draw. At temperature 0 the most likely token is taken and the filters that cannot change it
are left out.

A grammar and texts that must not be said (Constraints) judge the chosen token only. When one of
them turns it down, the choice is made once more among the tokens that they all permit.

llama.cpp computes in 32 bits and checks nothing: a value that makes a logit infinite gives no
error but always the last token of the vocabulary. So the ranges end where that could begin.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import NewType, Protocol

import llama_cpp

from agent.inference import suppression
from agent.inference.candidates import Candidates, Row, SamplerHandle
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
    _check_tokens("logit_bias", sampling.logit_bias, vocabulary_size)
    _check_tokens("suppress_tokens", sampling.suppress_tokens, vocabulary_size)
    _check_bias(sampling.logit_bias)
    suppression.check(sampling.suppress_texts)


def _check_tokens(name: str, tokens: Iterable[int], vocabulary_size: int) -> None:
    for token in tokens:
        if not 0 <= token < vocabulary_size:
            raise invalid_sampling(name, token, f"for tokens below {vocabulary_size}")


def _check_bias(biases: Mapping[int, float]) -> None:
    for bias in biases.values():
        if bias != -math.inf and not abs(bias) <= MOST_BIAS:
            raise invalid_sampling(
                "logit_bias", bias, "from -1,000,000 to 1,000,000, or minus infinity"
            )


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        raise invalid_sampling(name, value, f"at least {low:g}{upper}")


class Constraint(Protocol):
    """What the answer may say next, beside what is likely."""

    def permits(self, token: int) -> bool: ...

    def restrict(self, candidates: Candidates) -> None:
        """Makes minus infinity of the logits that are not permitted. Raises Interrupted."""

    def take(self, token: int) -> None:
        """The token is a part of the answer."""


class Sampler:
    """A chain for one request: it remembers the tokens that it has seen. Close it after use.

    ``forbidden`` tokens are never chosen; ``constraints`` depend on the answer so far.
    """

    def __init__(
        self,
        sampling: Sampling,
        vocabulary_size: int,
        forbidden: Collection[int] = (),
        constraints: Sequence[Constraint] = (),
    ) -> None:
        biases = {**sampling.logit_bias, **dict.fromkeys(forbidden, -math.inf)}
        if list(biases.values()).count(-math.inf) == vocabulary_size:
            raise nothing_allowed()
        self._forbidden = [token for token, bias in biases.items() if bias == -math.inf]
        self._constraints = constraints
        self._candidates = Candidates(vocabulary_size if constraints else 0)
        self._owned = ExitStack()
        params = llama_cpp.llama_sampler_chain_default_params()
        params.no_perf = True
        chain = llama_cpp.llama_sampler_chain_init(params)
        self._chain = SamplerHandle(chain)
        # The chain owns what is added to it.
        self._owned.callback(llama_cpp.llama_sampler_free, chain)
        for link in _links(sampling, biases, vocabulary_size):
            llama_cpp.llama_sampler_chain_add(chain, link)

    def see(self, prompt: Sequence[int]) -> None:
        """The prompt's end counts for the repeat penalty."""
        for token in prompt[-PENALTY_WINDOW:]:
            llama_cpp.llama_sampler_accept(self._chain, token)

    def choose(self, row: Row) -> int | None:
        """The next token; None when none is permitted."""
        if not self._constraints:
            return row.sampled(self._chain)
        candidates = self._candidates
        candidates.fill(row.logits)
        candidates.apply(self._chain)
        token = candidates.selected
        if not all(constraint.permits(token) for constraint in self._constraints):
            second = self._second_choice(row)
            if second is None:
                return None
            token = second
        llama_cpp.llama_sampler_accept(self._chain, token)
        return token

    def take(self, token: int) -> None:
        """The chosen token is a part of the answer: it does not end it."""
        for constraint in self._constraints:
            constraint.take(token)

    def close(self) -> None:
        self._owned.close()

    def _second_choice(self, row: Row) -> int | None:
        candidates = self._candidates
        candidates.fill(row.logits)
        candidates.forbid(self._forbidden)
        for constraint in self._constraints:
            constraint.restrict(candidates)
        if candidates.is_empty:
            return None
        candidates.apply(self._chain)
        return candidates.selected


def _links(sampling: Sampling, biases: Mapping[int, float], vocabulary_size: int) -> list[_Link]:
    """The filters in their order."""
    links: list[_Link] = []
    if biases:
        links.append(_logit_bias(biases, vocabulary_size))
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


def _logit_bias(biases: Mapping[int, float], vocabulary_size: int) -> _Link:
    entries = [llama_cpp.llama_logit_bias(t, b) for t, b in biases.items()]
    array = (llama_cpp.llama_logit_bias * len(entries))(*entries)
    return _Link(llama_cpp.llama_sampler_init_logit_bias(vocabulary_size, len(entries), array))


def folded_seed(seed: int) -> int:
    """A 64-bit seed in the 32 bits that llama.cpp takes, never its value for "random"."""
    folded = (seed ^ (seed >> 32)) & 0xFFFFFFFF
    return folded - 1 if folded == _RANDOM_SEED else folded
