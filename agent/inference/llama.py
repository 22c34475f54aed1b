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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import llama_cpp

from agent.inference import binding, failures
from agent.inference.adapters import AdapterPool
from agent.inference.completion import Completion
from agent.inference.context import Context
from agent.inference.engine import (
    Adapter,
    Engine,
    EngineOptions,
    Finish,
    Message,
    Piece,
    Request,
)
from agent.inference.prefix import PrefixCache
from agent.inference.prompt import Prompts
from agent.inference.sampler import Sampler
from agent.inference.turn import Turn
from agent.tokens.vocabulary import ModelHandle, Vocabulary
from protos.errors import InvalidRequest, OutOfMemory

# Prefixes kept at the same time, for clients or adapters that take turns.
SEQUENCES = 4


class LlamaEngine(Engine):
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
            self._context = Context(model, options, SEQUENCES)
            owned.callback(self._context.close)
            self._adapters = AdapterPool(model, self._context.take_off)
            owned.callback(self._adapters.close)
            self._cache = PrefixCache(self.context_length, SEQUENCES)
            self._warm_up(base)
            self._owned = owned.pop_all()

    @classmethod
    def open(cls, base: Path, options: EngineOptions) -> "LlamaEngine":
        return cls(base, options)

    def tokenise(self, prompt: str | Sequence[Message]) -> list[int]:
        return self._prompts.tokens(prompt)

    def generate(self, request: Request, cancelled: threading.Event) -> Iterator[Piece]:
        prompt = self._prompts.checked(request, self.context_length)
        limit = min(request.max_tokens, self.context_length - len(prompt))
        completion = Completion(request.stop, limit)
        with closing(Sampler(request.sampling, self.vocabulary.size)) as sampler:
            sampler.see(prompt)
            self._wear(request.adapter)
            turn = self._begin(request, prompt, limit)
            self._context.watch(cancelled)
            try:
                yield from self._answer(turn, sampler, completion)
            finally:
                self._context.watch(None)
                self._cache.record(turn.sequence, turn.key, turn.held)

    def close(self) -> None:
        self._owned.close()

    def _wear(self, adapter: Adapter | None) -> None:
        if adapter is None:
            self._context.wear(None)
        else:
            self._context.wear(self._adapters.get(adapter), adapter.scale)

    def _begin(self, request: Request, prompt: list[int], limit: int) -> Turn:
        """Makes room in the attention cache and takes over what it holds of the prompt."""
        key = (request.adapter.digest, request.adapter.scale) if request.adapter else None
        plan = self._cache.plan(key, prompt, limit)
        for sequence in plan.evict:
            self._cache.forget(sequence)
            self._context.drop(sequence)
        keep = self._context.keepable(plan.sequence, plan.keep) if plan.keep else 0
        self._context.drop(plan.sequence, keep)
        return Turn(key, plan.sequence, prompt, keep, self._clock)

    def _answer(self, turn: Turn, sampler: Sampler, completion: Completion) -> Iterator[Piece]:
        with turn.prefill:
            finish = self._advance(turn, turn.prompt[turn.cached :])
        while finish is None:
            with turn.decode:
                finish = self._choose(turn, sampler, completion)
            if finish is None:
                if piece := completion.piece():
                    yield piece
                with turn.decode:
                    finish = self._advance(turn, completion.tokens[-1:])
        yield completion.last(finish, turn.usage(len(completion.tokens)))

    def _choose(self, turn: Turn, sampler: Sampler, completion: Completion) -> Finish | None:
        if not self._context.logits_are_finite(self.vocabulary.size):
            # What led to them is poisoned as well.
            turn.held.clear()
            self._context.drop(turn.sequence)
            raise failures.adapter_not_finite() if turn.key else failures.base_not_finite()
        token = sampler.choose(self._context.handle)
        if self.vocabulary.ends_answer(token):
            return Finish.STOP
        return completion.add(token, self.vocabulary.bytes_of(token))

    def _advance(self, turn: Turn, tokens: Sequence[int]) -> Finish | None:
        """Computes ``tokens`` after what the sequence holds."""
        done = self._context.decode(turn.sequence, tokens, len(turn.held))
        turn.held.extend(tokens[:done])
        return None if done == len(tokens) else Finish.CANCELED

    def _warm_up(self, base: Path) -> None:
        """One token: reads the weights into the page cache and shows whether they work at all."""
        self._context.decode(0, [max(self.vocabulary.bos, 0)], 0)
        if not self._context.logits_are_finite(self.vocabulary.size):
            raise failures.unusable_base(base.name)
        self._context.drop(0)


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
