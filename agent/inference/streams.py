"""The requests that are being answered, one batch at a time for all of them together.

A step computes one chosen token of each, and as much of the prompts that have come in since as the
batch has room for; then the next token of each is chosen from its own row of logits by its own
sampler. One request alone goes the same way.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from agent.inference.batching import shares
from agent.inference.choice import Choice
from agent.inference.completion import Completion
from agent.inference.context import BATCH_TOKENS, Context, ContextRow, Span
from agent.inference.engine import Answer, Finish, Piece
from agent.inference.sequences import Sequences
from agent.inference.turn import Turn
from protos.errors import NanofleetError

News: TypeAlias = tuple[Answer, Piece | NanofleetError]


@dataclass(slots=True, eq=False)
class Stream(Answer):
    turn: Turn
    choice: Choice
    completion: Completion
    cancelled: threading.Event

    def last(self, finish: Finish) -> Piece:
        return self.completion.last(finish, self.turn.usage(len(self.completion.tokens)))


class Streams:
    """All of them wear the adapter that the context has on."""

    def __init__(self, context: Context, sequences: Sequences, clock: Callable[[], float]) -> None:
        self._context = context
        self._sequences = sequences
        self._clock = clock
        self._running: list[Stream] = []

    def __contains__(self, stream: Stream) -> bool:
        return stream in self._running

    def __len__(self) -> int:
        return len(self._running)

    def add(self, stream: Stream) -> None:
        self._running.append(stream)

    def end(self, stream: Stream) -> None:
        """Fine when it has ended."""
        if stream in self._running:
            self._running.remove(stream)
            self._sequences.release(stream.turn)
            stream.choice.close()

    def step(self) -> list[News]:
        news: list[News] = []
        active = [stream for stream in self._running if not stream.cancelled.is_set()]
        rows = self._computed(active) if active else {}
        for stream in list(self._running):
            row = rows.get(stream)
            said = self._next(stream, row) if row is not None else self._canceled(stream)
            if said is not None:
                news.append((stream, said))
        return news

    def _computed(self, active: list[Stream]) -> "dict[Stream, int]":
        """The row of each one's last token in the batch; none when all of them are cancelled."""
        began_s = self._clock()
        decoding = {stream: stream.turn.is_decoding for stream in active}
        given = shares([len(stream.turn.pending) for stream in active], BATCH_TOKENS)
        spans, rows, place = [], {}, 0
        for stream, tokens in zip(active, given, strict=True):
            turn = stream.turn
            spans.append(Span(turn.sequence, len(turn.held), turn.pending[:tokens], outputs=1))
            place += tokens
            rows[stream] = place - 1
        self._context.watch(lambda: all(stream.cancelled.is_set() for stream in active))
        try:
            if not self._context.run(spans):
                return {}
        finally:
            self._context.watch(None)
        for stream, tokens in zip(active, given, strict=True):
            stream.turn.computed(tokens)
            stream.turn.spend(self._clock() - began_s, decoding=decoding[stream])
        return rows

    def _next(self, stream: Stream, row: int) -> Piece | NanofleetError | None:
        """What is new of a stream whose tokens were computed; it has ended if that is its last."""
        if stream.turn.pending:
            return None
        began_s = self._clock()
        try:
            finish = self._choose(stream, row)
        except NanofleetError as error:
            self.end(stream)
            return error
        stream.turn.spend(self._clock() - began_s, decoding=True)
        if finish is None:
            stream.turn.pending = stream.completion.tokens[-1:]
            return stream.completion.piece()
        self.end(stream)
        return stream.last(finish)

    def _choose(self, stream: Stream, row: int) -> Finish | None:
        if not self._context.logits_are_finite(row):
            raise self._sequences.poisoned(stream.turn)
        return stream.choice.extend(stream.completion, ContextRow(self._context, row))

    def _canceled(self, stream: Stream) -> Piece | None:
        if not stream.cancelled.is_set():
            return None
        self.end(stream)
        return stream.last(Finish.CANCELED)
