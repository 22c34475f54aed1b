"""Texts that are read and not answered: their hidden states, and how likely each token was.

Rows of outputs are as long as the vocabulary (1 MiB at 262,144), so a text goes through in parts
of OUTPUT_ROWS tokens, and each part's rows are added up before the next overwrites them. The same
for every engine, which brings what computes.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from threading import Event

import numpy as np
from numpy.typing import NDArray

from agent.inference import failures
from agent.inference.decoder import BATCH_TOKENS, OUTPUT_ROWS, Readable
from agent.inference.engine import Adapter, Embedding, EmbedRequest, Score, ScoreRequest
from agent.inference.logprobs import log_total
from agent.inference.prompt import Prompts
from agent.inference.sequences import Sequences, key_of
from agent.inference.turn import Turn
from protos.errors import InternalError


class Reader:
    """Nothing else may be running. ``wear`` puts an adapter on what reads."""

    def __init__(
        self,
        readable: Readable,
        prompts: Prompts,
        sequences: Sequences,
        wear: Callable[[Adapter | None], None],
        context_length: int,
    ) -> None:
        self._readable = readable
        self._prompts = prompts
        self._sequences = sequences
        self._wear = wear
        self._context_length = context_length

    def embed(self, request: EmbedRequest, cancelled: Event) -> Iterator[Embedding]:
        texts = []
        for text in request.texts:
            if cancelled.is_set():
                return
            texts.append(self._prompts.plain(text))
        self._check_lengths(texts, "texts")
        self._wear(request.adapter)
        for tokens in texts:
            mean = self._mean_hidden_state(key_of(request.adapter), tokens, cancelled)
            if mean is None:
                return
            length = float(np.linalg.norm(mean)) if request.normalized else 1.0
            yield Embedding((mean / (length or 1.0)).tolist(), len(tokens))

    def score(self, request: ScoreRequest, cancelled: Event) -> Iterator[Score]:
        samples = []
        for sample in request.samples:
            if cancelled.is_set():
                return
            samples.append(self._prompts.parts(sample))
        wholes = [before + scored for parts in samples for before, scored in parts]
        self._check_lengths(wholes, "items")
        self._wear(request.adapter)
        for parts in samples:
            total, tokens = 0.0, 0
            for before, scored in parts:
                # Nothing stands before the first token from which to predict it.
                first = max(1, len(before))
                whole = before + scored
                found = self._logprob_sum(key_of(request.adapter), whole, first, cancelled)
                if found is None:
                    return
                total, tokens = total + found, tokens + len(whole) - first
            yield Score(total, tokens, len(before))

    def _check_lengths(self, texts: Sequence[Sequence[int]], field: str) -> None:
        if not texts:
            raise failures.nothing_to_read(field)
        longest = max(map(len, texts))
        if longest > self._context_length:
            raise failures.text_too_long(longest, self._context_length, field)

    def _mean_hidden_state(
        self, key: Hashable, tokens: Sequence[int], cancelled: Event
    ) -> NDArray[np.float64] | None:
        """Over all tokens; None when it was cancelled."""
        total = np.zeros(1)
        # No prefix is of use here: the state of every token is needed.
        with self._turn(key, (), tokens, cancelled) as turn:
            while part := turn.pending[:OUTPUT_ROWS]:
                states = self._readable.hidden_states(turn.sequence, part, len(turn.held))
                if states is None:
                    return None
                turn.computed(len(part))
                total = total + np.sum(states, axis=0, dtype=np.float64)
            mean = total / len(tokens)
            if not np.isfinite(mean).all():
                raise self._sequences.poisoned(turn)
            return mean

    def _logprob_sum(
        self, key: Hashable, tokens: Sequence[int], first: int, cancelled: Event
    ) -> float | None:
        """Of the tokens from ``first`` (at least 1) on, each after all before it; None when it was
        cancelled."""
        # The last token is not computed: nothing depends on it.
        with self._turn(key, tokens[:first], tokens[first:-1], cancelled) as turn:
            while part := turn.pending[: min(BATCH_TOKENS, first - 1 - len(turn.held))]:
                if self._readable.logit_rows(turn.sequence, part, len(turn.held), 1) is None:
                    return None
                turn.computed(len(part))
            total = 0.0
            while part := turn.pending[:OUTPUT_ROWS]:
                rows = self._readable.logit_rows(turn.sequence, part, len(turn.held), len(part))
                if rows is None:
                    return None
                turn.computed(len(part))
                followers = tokens[len(turn.held) - len(part) + 1 :]
                for row, follower in zip(rows, followers, strict=False):
                    total += float(row[follower]) - float(log_total(row))
            if not isfinite(total):
                raise self._sequences.poisoned(turn)
            return total

    @contextmanager
    def _turn(
        self, key: Hashable, prompt: Sequence[int], rest: Sequence[int], cancelled: Event
    ) -> Iterator[Turn]:
        turn = self._sequences.claim(key, prompt, len(rest))
        if turn is None:
            raise InternalError("The engine was asked to read a text while it gives an answer.")
        turn.pending += rest
        self._readable.watch(cancelled.is_set)
        try:
            yield turn
        finally:
            self._readable.watch(None)
            self._sequences.release(turn)
