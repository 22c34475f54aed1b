"""An engine around any decoder: one request at a time, everything but the arithmetic shared.

Tokens, control tokens and the sampling chain are llama.cpp's, from the base's own file: the
vocabulary is opened without the weights (30 MB at 262,144 tokens), and the C chain takes logits
from anywhere. So a prompt is the same tokens here, and a seed draws the same numbers from the same
logits. Where two engines answer differently, their logits differ.

The whole cache is kept also where the model looks back over a window only: any prefix can be used
again.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from math import isfinite
from pathlib import Path

import numpy as np

from agent.inference import binding, failures
from agent.inference.candidates import Interrupted, LooseRow
from agent.inference.choice import Choice, ChoiceMaker
from agent.inference.completion import Completion
from agent.inference.decoder import BATCH_TOKENS, Decoder, Row
from agent.inference.engine import (
    Embedding,
    EmbedRequest,
    Engine,
    EngineOptions,
    Finish,
    Message,
    Piece,
    Request,
    Score,
    ScoreRequest,
)
from agent.inference.prompt import Prompts
from agent.inference.reading import Reader
from agent.inference.sequences import Sequences, key_of
from agent.inference.turn import Turn
from agent.tokens import vocabulary as vocabularies
from artifacts import base_model
from artifacts.base_model import BaseModel
from protos.errors import InternalError

# Prefixes kept at the same time, for clients or adapters that take turns.
SEQUENCES = 4

# Makes the decoder of a base.
MakeDecoder = Callable[[BaseModel, EngineOptions], Decoder]


class SerialEngine(Engine):
    def __init__(
        self,
        path: Path,
        options: EngineOptions,
        make: MakeDecoder,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        binding.start()
        base = base_model.read(path)
        self.context_length = min(options.context_length, base.context_length)
        with ExitStack() as owned:
            self.vocabulary = owned.enter_context(vocabularies.opened(path))
            self._prompts = Prompts(base.chat_template or "", self.vocabulary)
            self._decoder = make(base, replace(options, context_length=self.context_length))
            owned.callback(self._decoder.close)
            sequences, whole = (1, BATCH_TOKENS) if options.exact else (SEQUENCES, 1)
            self._sequences = Sequences(self._decoder, self.context_length, sequences, whole)
            self._choices = ChoiceMaker(self.vocabulary)
            wear, length = self._decoder.wear, self.context_length
            self._reader = Reader(self._decoder, self._prompts, self._sequences, wear, length)
            self._warm_up(path)
            self._owned = owned.pop_all()

    def tokenise(self, prompt: str | Sequence[Message]) -> list[int]:
        return self._prompts.tokens(prompt)

    def generate(self, request: Request, cancelled: threading.Event) -> Iterator[Piece]:
        prompt = self._prompts.checked(request, self.context_length)
        limit = min(request.max_tokens, self.context_length - len(prompt))
        with closing(self._choices.make(request, prompt, cancelled.is_set)) as choice:
            self._decoder.wear(request.adapter)
            turn = self._begin(request, prompt, limit)
            self._decoder.watch(cancelled.is_set)
            try:
                yield from self._answer(turn, choice, Completion(request.stop, limit))
            finally:
                self._decoder.watch(None)
                self._sequences.release(turn)

    def embed(self, request: EmbedRequest, cancelled: threading.Event) -> Iterator[Embedding]:
        return self._reader.embed(request, cancelled)

    def score(self, request: ScoreRequest, cancelled: threading.Event) -> Iterator[Score]:
        return self._reader.score(request, cancelled)

    def close(self) -> None:
        self._owned.close()

    def _warm_up(self, path: Path) -> None:
        """One token: shows whether the weights work at all."""
        rows = self._decoder.logit_rows(0, [max(self.vocabulary.bos, 0)], 0)
        if rows is None or not isfinite(np.max(rows[0])):
            raise failures.unusable_base(path.name)
        self._decoder.drop(0)

    def _begin(self, request: Request, prompt: list[int], limit: int) -> Turn:
        """Makes room in the attention cache and takes over what it holds of the prompt."""
        turn = self._sequences.claim(key_of(request.adapter), prompt, limit)
        if turn is None:
            raise InternalError("The engine was asked for one answer while it gives another.")
        return turn

    def _answer(self, turn: Turn, choice: Choice, completion: Completion) -> Iterator[Piece]:
        finish = None
        while finish is None:
            logits = self._advance(turn)
            if logits is None:
                finish = Finish.CANCELED
                break
            began_s = self._clock()
            if not isfinite(np.max(logits)):
                raise self._sequences.poisoned(turn)
            try:
                # What lies beyond the vocabulary is padding.
                finish = choice.extend(completion, LooseRow(logits[: self.vocabulary.size]))
            except Interrupted:
                finish = Finish.CANCELED
            turn.spend(self._clock() - began_s, decoding=True)
            if finish is None:
                turn.pending = completion.tokens[-1:]
                if piece := completion.piece():
                    yield piece
        yield completion.last(finish, turn.usage(len(completion.tokens)))

    def _advance(self, turn: Turn) -> Row | None:
        """Computes what is pending after what the sequence holds; None when it was cancelled."""
        rows = None
        decoding = turn.is_decoding
        began_s = self._clock()
        while part := turn.pending[:BATCH_TOKENS]:
            rows = self._decoder.logit_rows(turn.sequence, part, len(turn.held))
            if rows is None:
                break
            turn.computed(len(part))
        turn.spend(self._clock() - began_s, decoding=decoding)
        return rows[0] if rows else None
