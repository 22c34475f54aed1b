"""The requests that are being answered, one batch at a time for all of them together.

A step computes one chosen token of each, and as much of the prompts that have come in since as the
batch has room for; then the next token of each is chosen from its own row of logits by its own
sampler. One request alone goes the same way.

A request that is cancelled ends at once: the batch is broken off, and the others' part of it is
computed again. A batch of four tokens takes 200 ms on one core, one with a part of a prompt most of
a second. But no two batches in a row are broken off while somebody waits for an answer, so that
clients that come and go hold nobody up.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from agent.inference.batching import shares
from agent.inference.candidates import Interrupted
from agent.inference.choice import Choice
from agent.inference.completion import Completion
from agent.inference.context import Context, ContextRow, Span
from agent.inference.decoder import BATCH_TOKENS
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
        self._was_broken_off = False

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

    def step(self) -> Iterator[News]:
        """What is new of each, as soon as it is known: choosing for one may take a while."""
        active = [stream for stream in self._running if not stream.cancelled.is_set()]
        rows = self._computed(active) if active else {}
        yield from self._canceled()
        for stream in active:
            if stream in self._running and stream in rows:
                said = self._next(stream, rows[stream])
                if said is not None:
                    yield stream, said
                yield from self._canceled()

    def _computed(self, active: list[Stream]) -> "dict[Stream, int]":
        """The row of each one's last token in the batch; none when it was broken off."""
        began_s = self._clock()
        decoding = {stream: stream.turn.is_decoding for stream in active}
        given = shares([len(stream.turn.pending) for stream in active], BATCH_TOKENS)
        spans, rows, place = [], {}, 0
        for stream, tokens in zip(active, given, strict=True):
            turn = stream.turn
            spans.append(Span(turn.sequence, len(turn.held), turn.pending[:tokens], outputs=1))
            place += tokens
            rows[stream] = place - 1
        cancelled = [stream.cancelled.is_set for stream in active]
        enough = all if self._was_broken_off else any
        self._context.watch(lambda: enough(is_set() for is_set in cancelled))
        try:
            self._was_broken_off = not self._context.run(spans)
            if self._was_broken_off:
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
        except Interrupted:
            finish = Finish.CANCELED
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

    def _canceled(self) -> Iterator[News]:
        for stream in [stream for stream in self._running if stream.cancelled.is_set()]:
            self.end(stream)
            yield stream, stream.last(Finish.CANCELED)
