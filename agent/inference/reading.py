"""Texts that are read and not answered: their hidden states, and how likely each token was.

Rows of outputs are as long as the vocabulary (1 MiB at 262,144), so a text goes through in parts
of OUTPUT_ROWS tokens, and each part's rows are added up before the next overwrites them.
"""

import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from agent.inference.context import BATCH_TOKENS, OUTPUT_ROWS, Context, Span
from agent.inference.logprobs import log_total
from agent.inference.sequences import Sequences
from agent.inference.turn import Turn
from protos.errors import InternalError


class Reader:
    """``key`` is the adapter that the context wears. Nothing else may be running."""

    def __init__(self, context: Context, sequences: Sequences) -> None:
        self._context = context
        self._sequences = sequences

    def mean_hidden_state(
        self, key: Hashable, tokens: Sequence[int], cancelled: threading.Event
    ) -> NDArray[np.float64] | None:
        """Over all tokens, after the model's last norm; None when it was cancelled."""
        total = np.zeros(1)
        with (
            self._context.giving_hidden_states(),
            # No prefix is of use here: the state of every token is needed.
            self._turn(key, (), tokens, cancelled) as turn,
        ):
            while part := turn.pending[:OUTPUT_ROWS]:
                if not self._context.run([_span(turn, part, len(part))]):
                    return None
                turn.computed(len(part))
                states = [self._context.hidden_state(row) for row in range(len(part))]
                total = total + np.sum(states, axis=0, dtype=np.float64)
            mean = total / len(tokens)
            if not np.isfinite(mean).all():
                raise self._sequences.poisoned(turn)
            return mean

    def logprob_sum(
        self, key: Hashable, tokens: Sequence[int], first: int, cancelled: threading.Event
    ) -> float | None:
        """Of the tokens from ``first`` (at least 1) on, each after all before it; None when it was
        cancelled."""
        # The last token is not computed: nothing depends on it.
        with self._turn(key, tokens[:first], tokens[first:-1], cancelled) as turn:
            while part := turn.pending[: min(BATCH_TOKENS, first - 1 - len(turn.held))]:
                if not self._context.run([_span(turn, part, 1)]):
                    return None
                turn.computed(len(part))
            total = 0.0
            while part := turn.pending[:OUTPUT_ROWS]:
                if not self._context.run([_span(turn, part, len(part))]):
                    return None
                turn.computed(len(part))
                followers = tokens[len(turn.held) - len(part) + 1 :]
                for row in range(len(part)):
                    logits = self._context.logits(row)
                    total += float(logits[followers[row]]) - float(log_total(logits))
            if not isfinite(total):
                raise self._sequences.poisoned(turn)
            return total

    @contextmanager
    def _turn(
        self, key: Hashable, prompt: Sequence[int], rest: Sequence[int], cancelled: threading.Event
    ) -> Iterator[Turn]:
        turn = self._sequences.claim(key, prompt, len(rest))
        if turn is None:
            raise InternalError("The engine was asked to read a text while it gives an answer.")
        turn.pending += rest
        self._context.watch(cancelled.is_set)
        try:
            yield turn
        finally:
            self._context.watch(None)
            self._sequences.release(turn)


def _span(turn: Turn, tokens: Sequence[int], outputs: int) -> Span:
    return Span(turn.sequence, len(turn.held), tokens, outputs)
