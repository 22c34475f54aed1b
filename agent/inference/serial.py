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
from agent.inference.completion import Completion
from agent.inference.decoder import BATCH_TOKENS, Decoder, Logits
from agent.inference.engine import Engine, EngineOptions, Finish, Message, Piece, Request
from agent.inference.prefix import PrefixCache
from agent.inference.prompt import Prompts
from agent.inference.sampler import Sampler
from agent.inference.turn import Turn
from agent.tokens import vocabulary as vocabularies
from artifacts import base_model
from artifacts.base_model import BaseModel

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
            self._cache = PrefixCache(self.context_length, SEQUENCES)
            self._warm_up(path)
            self._owned = owned.pop_all()

    def tokenise(self, prompt: str | Sequence[Message]) -> list[int]:
        return self._prompts.tokens(prompt)

    def generate(self, request: Request, cancelled: threading.Event) -> Iterator[Piece]:
        self.check_features(request)
        prompt = self._prompts.checked(request, self.context_length)
        limit = min(request.max_tokens, self.context_length - len(prompt))
        completion = Completion(request.stop, limit)
        with closing(Sampler(request.sampling, self.vocabulary.size)) as sampler:
            sampler.see(prompt)
            self._decoder.wear(request.adapter)
            turn = self._begin(request, prompt, limit)
            try:
                yield from self._answer(turn, sampler, completion, cancelled)
            finally:
                self._cache.record(turn.sequence, turn.key, turn.held)

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
        plan = self._cache.plan(key, prompt, limit)
        for sequence in plan.evict:
            self._cache.forget(sequence)
            self._decoder.drop(sequence)
        self._decoder.drop(plan.sequence, plan.keep)
        return Turn(key, plan.sequence, prompt, plan.keep, self._clock)

    def _answer(
        self, turn: Turn, sampler: Sampler, completion: Completion, cancelled: threading.Event
    ) -> Iterator[Piece]:
        with turn.prefill:
            logits = self._advance(turn, turn.prompt[turn.cached :], cancelled)
        finish = None
        while logits is not None:
            with turn.decode:
                finish = self._choose(turn, logits, sampler, completion)
            if finish:
                break
            if piece := completion.piece():
                yield piece
            with turn.decode:
                logits = self._advance(turn, completion.tokens[-1:], cancelled)
        yield completion.last(finish or Finish.CANCELED, turn.usage(len(completion.tokens)))

    def _advance(
        self, turn: Turn, tokens: Sequence[int], cancelled: threading.Event
    ) -> Logits | None:
        """Computes ``tokens`` after what the sequence holds; None when it was cancelled."""
        logits = None
        for start in range(0, len(tokens), BATCH_TOKENS):
            if cancelled.is_set():
                return None
            part = tokens[start : start + BATCH_TOKENS]
            logits = self._decoder.decode(turn.sequence, part, len(turn.held))
            turn.held.extend(part)
        return logits

    def _choose(
        self, turn: Turn, logits: Logits, sampler: Sampler, completion: Completion
    ) -> Finish | None:
        if not isfinite(np.max(logits)):
            # What led to them is poisoned as well.
            turn.held.clear()
            self._decoder.drop(turn.sequence)
            raise failures.adapter_not_finite() if turn.key else failures.base_not_finite()
        token = sampler.choose_from(logits)
        if self.vocabulary.ends_answer(token):
            return Finish.STOP
        return completion.add(token, self.vocabulary.bytes_of(token))
