"""The llama.cpp engine, on the binding's low-level calls.

The binding's own ``Llama`` class is not used: an adapter turns its mapping off (+1 GB anonymous
for a 1B model), its prefix cache is blind to the adapter (wrong tokens), and its streaming gets
slower with the length of the answer.

The base is mapped, and stays so: ``use_extra_bufts`` would make a second, anonymous copy of the
weights in another layout on most Arm processors. Frees run in the reverse order of creation
(ExitStack): adapters and context before the model that they point into.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import inf
from pathlib import Path

import llama_cpp

from agent.inference import batching, binding, failures
from agent.inference.adapters import AdapterPool
from agent.inference.choice import ChoiceMaker
from agent.inference.completion import Completion
from agent.inference.context import Context, Span
from agent.inference.decoder import BATCH_TOKENS
from agent.inference.engine import (
    Adapter,
    Answer,
    BatchingEngine,
    Embedding,
    EmbedRequest,
    EngineOptions,
    Message,
    Piece,
    Request,
    Score,
    ScoreRequest,
)
from agent.inference.prompt import Prompts
from agent.inference.reading import Reader
from agent.inference.sequences import Sequences, key_of
from agent.inference.streams import News, Stream, Streams
from agent.tokens.vocabulary import ModelHandle, Vocabulary
from protos.errors import InternalError, InvalidRequest, NanofleetError, OutOfMemory

# Prefixes kept at the same time, for clients or adapters that take turns; also the most streams.
SEQUENCES = 4
# Batches of each size when it is measured how many streams pay, of which the fastest counts; fewer
# where one takes long, for somebody waits for the model.
PROBES = 3
PROBES_S = 0.3


class LlamaEngine(BatchingEngine):
    def __init__(
        self, base: Path, options: EngineOptions, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = clock
        binding.start()
        with ExitStack() as owned:
            model = _load(base)
            owned.callback(llama_cpp.llama_model_free, model)
            trained = llama_cpp.llama_model_n_ctx_train(model)
            self.context_length = min(options.context_length, trained)
            options = replace(options, context_length=self.context_length)
            self.vocabulary = Vocabulary(model)
            self._prompts = Prompts(_chat_template(model), self.vocabulary)
            self._choices = ChoiceMaker(self.vocabulary)
            sequences, whole = (1, BATCH_TOKENS) if options.exact else (SEQUENCES, 1)
            self._context = Context(model, options, sequences)
            owned.callback(self._context.close)
            self._adapters = AdapterPool(model, self._context.take_off, options.freed)
            owned.callback(self._adapters.close)
            self._sequences = Sequences(self._context, self.context_length, sequences, whole)
            self._reader = Reader(
                self._context, self._prompts, self._sequences, self._wear, self.context_length
            )
            self._streams = Streams(self._context, self._sequences, clock)
            self._worn: Hashable = None
            self._warm_up(base)
            self.streams = min(options.streams, sequences) or self._worthwhile_streams()
            self._owned = owned.pop_all()

    @classmethod
    def open(cls, base: Path, options: EngineOptions) -> "LlamaEngine":
        return cls(base, options)

    def tokenise(self, prompt: str | Sequence[Message]) -> list[int]:
        return self._prompts.tokens(prompt)

    def generate(self, request: Request, cancelled: threading.Event) -> Iterator[Piece]:
        stream = self.begin(request, cancelled)
        if stream is None:
            raise InternalError("The engine was asked for one answer while it gives another.")
        try:
            while stream in self._streams:
                for _, news in self.step():
                    if isinstance(news, NanofleetError):
                        raise news
                    yield news
        finally:
            self.end(stream)

    def begin(self, request: Request, cancelled: threading.Event) -> Stream | None:
        if self._streams and key_of(request.adapter) != self._worn:
            return None
        prompt = self._prompts.checked(request, self.context_length)
        limit = min(request.max_tokens, self.context_length - len(prompt))
        with ExitStack() as owned:
            choice = self._choices.make(request, prompt, cancelled.is_set)
            owned.callback(choice.close)
            self._wear(request.adapter)
            turn = self._sequences.claim(self._worn, prompt, limit)
            if turn is None:
                return None
            owned.pop_all()
        stream = Stream(turn, choice, Completion(request.stop, limit), cancelled)
        self._streams.add(stream)
        return stream

    def step(self) -> Iterator[News]:
        return self._streams.step()

    def end(self, answer: Answer) -> None:
        assert isinstance(answer, Stream)
        self._streams.end(answer)

    def embed(self, request: EmbedRequest, cancelled: threading.Event) -> Iterator[Embedding]:
        return self._reader.embed(request, cancelled)

    def score(self, request: ScoreRequest, cancelled: threading.Event) -> Iterator[Score]:
        return self._reader.score(request, cancelled)

    def close(self) -> None:
        self._owned.close()

    def _wear(self, adapter: Adapter | None) -> None:
        if adapter is None:
            self._context.wear(None)
        else:
            self._context.wear(self._adapters.get(adapter), adapter.scale)
        self._worn = key_of(adapter)

    def _warm_up(self, base: Path) -> None:
        """One token: reads the weights into the page cache and shows whether they work at all."""
        self._probe(1)
        if not self._context.logits_are_finite():
            raise failures.unusable_base(base.name)

    def _worthwhile_streams(self) -> int:
        """Measured here and now: it depends on the board, the build and the weights' type. In
        turns, so that whatever else the board does concerns all sizes alike."""
        sizes = (1, 2, SEQUENCES)
        fastest_s = dict.fromkeys(sizes, inf)
        began_s = self._clock()
        for _ in range(PROBES):
            for size in sizes:
                fastest_s[size] = min(fastest_s[size], self._probe(size))
            if self._clock() - began_s > PROBES_S:
                break
        return batching.worthwhile(fastest_s)

    def _probe(self, streams: int) -> float:
        """The seconds of a batch with one token of each of so many sequences."""
        tokens = [max(self.vocabulary.bos, 0)]
        began_s = self._clock()
        self._context.run([Span(sequence, 0, tokens, 1) for sequence in range(streams)])
        took_s = self._clock() - began_s
        for sequence in range(streams):
            self._context.drop(sequence)
        return took_s


def _load(base: Path) -> ModelHandle:
    params = llama_cpp.llama_model_default_params()
    params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP
    # What a build for the GPU would gain on these boards is not measured yet.
    params.n_gpu_layers = 0
    params.use_extra_bufts = False
    binding.log.clear()
    model = llama_cpp.llama_model_load_from_file(bytes(base), params)
    if model:
        return ModelHandle(model)
    why = binding.log.explanation()
    if "alloc" in why:
        raise OutOfMemory(f"There is no memory for {base.name}.", why=why)
    raise InvalidRequest(
        f"{base.name} could not be loaded as a base model.",
        why=why,
        fix="Check that it is a complete GGUF file of a supported architecture; import it again.",
    )


def _chat_template(model: ModelHandle) -> str:
    source = llama_cpp.llama_model_chat_template(model, None)
    return bytes(source).decode("utf-8", "replace") if source else ""
