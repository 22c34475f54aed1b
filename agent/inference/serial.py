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
from agent.inference.candidates import LooseRow
from agent.inference.choice import Choice, ChoiceMaker
from agent.inference.completion import Completion
from agent.inference.decoder import BATCH_TOKENS, Decoder, Logits
from agent.inference.engine import Engine, EngineOptions, Feature, Finish, Message, Piece, Request
from agent.inference.prompt import Prompts
from agent.inference.sequences import Sequences
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
    features = frozenset((Feature.GRAMMAR, Feature.SUPPRESSION, Feature.LOGPROBS))

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
            self._warm_up(path)
            self._owned = owned.pop_all()

    def tokenise(self, prompt: str | Sequence[Message]) -> list[int]:
        return self._prompts.tokens(prompt)

    def generate(self, request: Request, cancelled: threading.Event) -> Iterator[Piece]:
        self.check_features(request)
        prompt = self._prompts.checked(request, self.context_length)
        limit = min(request.max_tokens, self.context_length - len(prompt))
        with closing(self._choices.make(request, prompt)) as choice:
            self._decoder.wear(request.adapter)
            turn = self._begin(request, prompt, limit)
            try:
                yield from self._answer(turn, choice, Completion(request.stop, limit), cancelled)
            finally:
                self._sequences.release(turn)

    def close(self) -> None:
        self._owned.close()

    def _warm_up(self, path: Path) -> None:
        """One token: shows whether the weights work at all."""
        if not isfinite(np.max(self._decoder.decode(0, [max(self.vocabulary.bos, 0)], 0))):
            raise failures.unusable_base(path.name)
        self._decoder.drop(0)

    def _begin(self, request: Request, prompt: list[int], limit: int) -> Turn:
        """Makes room in the attention cache and takes over what it holds of the prompt."""
        key = (request.adapter.digest, request.adapter.scale) if request.adapter else None
        turn = self._sequences.claim(key, prompt, limit)
        if turn is None:
            raise InternalError("The engine was asked for one answer while it gives another.")
        return turn

    def _answer(
        self, turn: Turn, choice: Choice, completion: Completion, cancelled: threading.Event
    ) -> Iterator[Piece]:
        finish = None
        while finish is None:
            logits = self._advance(turn, cancelled)
            if logits is None:
                finish = Finish.CANCELED
                break
            began_s = self._clock()
            if not isfinite(np.max(logits)):
                raise self._sequences.poisoned(turn)
            # What lies beyond the vocabulary is padding.
            finish = choice.extend(completion, LooseRow(logits[: self.vocabulary.size]))
            turn.spend(self._clock() - began_s, decoding=True)
            if finish is None:
                turn.pending = completion.tokens[-1:]
                if piece := completion.piece():
                    yield piece
        yield completion.last(finish, turn.usage(len(completion.tokens)))

    def _advance(self, turn: Turn, cancelled: threading.Event) -> Logits | None:
        """Computes what is pending after what the sequence holds; None when it was cancelled."""
        logits = None
        decoding = turn.is_decoding
        began_s = self._clock()
        while turn.pending:
            if cancelled.is_set():
                logits = None
                break
            part = turn.pending[:BATCH_TOKENS]
            logits = self._decoder.decode(turn.sequence, part, len(turn.held))
            turn.computed(len(part))
        turn.spend(self._clock() - began_s, decoding=decoding)
        return logits
