"""A llama.cpp context: the attention cache, and running the model over tokens.

Tokens go in by 64, and outputs come out for 16 of them at most: with a vocabulary of 262,144 the
compute buffer is 519 MiB at llama.cpp's defaults, 64 MiB with batches of 64, and 16 MiB when the
outputs are bounded as well, of which an answer, which needs one row, touches one. A cancelled
request is noticed between batches and, by the abort callback, inside one.
"""

import ctypes
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite

import llama_cpp
import numpy as np

from agent.inference import binding
from agent.inference.adapters import AdapterHandle
from agent.inference.candidates import SamplerHandle
from agent.inference.decoder import BATCH_TOKENS, OUTPUT_ROWS, Row, never
from agent.inference.engine import EngineOptions
from agent.inference.prefix import usable
from agent.tokens.vocabulary import ModelHandle
from protos.errors import InternalError, OutOfMemory

# Up to here the whole cache is kept even where the model looks back over a window only (52 MiB for
# a 1B model at 2,048), so that a prefix can be reused. Also then llama.cpp gives cells that a
# window has left behind to another sequence when it meets them first: `keepable` always asks.
FULL_CACHE_TOKENS = 2048
_ABORTED = 2


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one sequence in a batch, from ``position`` on."""

    sequence: int
    position: int
    tokens: Sequence[int]
    # How many of the last ones give an output.
    outputs: int


class Context:
    def __init__(self, model: ModelHandle, options: EngineOptions, sequences: int) -> None:
        self._owned = ExitStack()
        self._is_cancelled: Callable[[], bool] = never
        self._adapter: tuple[AdapterHandle, float] | None = None
        self._window: int = llama_cpp.llama_model_n_swa(model)
        self._width: int = llama_cpp.llama_model_n_embd(model)
        self._vocabulary_size: int = llama_cpp.llama_vocab_n_tokens(
            llama_cpp.llama_model_get_vocab(model)
        )
        binding.log.clear()
        self.handle: int = llama_cpp.llama_init_from_model(model, _params(options, sequences))
        if not self.handle:
            raise OutOfMemory(
                f"No context of {options.context_length} tokens could be made.",
                why=binding.log.explanation(),
                fix="Load the model with a smaller context_length.",
            )
        self._owned.callback(llama_cpp.llama_free, self.handle)
        self._memory = llama_cpp.llama_get_memory(self.handle)
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._owned.callback(llama_cpp.llama_batch_free, self._batch)
        # The attribute keeps the callback alive as long as C may call it.
        self._abort = llama_cpp.ggml_abort_callback(lambda _data: self._aborts())
        llama_cpp.llama_set_abort_callback(self.handle, self._abort, None)

    def watch(self, is_cancelled: Callable[[], bool] | None) -> None:
        """From now on a computation ends early when this is true; asked from inside, often."""
        self._is_cancelled = is_cancelled or never

    def wear(self, adapter: AdapterHandle | None, scale: float = 1.0) -> None:
        """Applies one adapter, or none. Setting the same one again is free."""
        wanted = (adapter, scale) if adapter is not None else None
        if wanted == self._adapter:
            return
        handles = [wanted[0]] if wanted else []
        array = (llama_cpp.llama_adapter_lora_p_ctypes * len(handles))(*handles)
        scales = (ctypes.c_float * len(handles))(*[scale for _ in handles])
        if llama_cpp.llama_set_adapters_lora(self.handle, array, len(handles), scales):
            raise InternalError("The adapter could not be set.", why=binding.log.explanation())
        self._adapter = wanted

    def take_off(self, adapter: AdapterHandle) -> None:
        """Before the adapter is freed."""
        if self._adapter and self._adapter[0] == adapter:
            self.wear(None)

    def run(self, spans: Sequence[Span]) -> bool:
        """One batch; an output's row is its token's place in the batch.

        False when it was cancelled: then none of its tokens is in the cache.
        """
        self._fill(spans)
        if not self._is_cancelled() and self._computed():
            return True
        for span in spans:
            self.drop(span.sequence, span.position)
        return False

    def keepable(self, sequence: int, keep: int) -> int:
        """``keep``, when the cache can go on there; 0 when the sequence must be computed anew."""
        first = llama_cpp.llama_memory_seq_pos_min(self._memory, sequence)
        return keep if usable(keep, first, self._window) else 0

    def drop(self, sequence: int, position: int = 0) -> None:
        """Forgets the sequence from ``position`` on."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, position, -1)

    def logits(self, row: int = -1) -> Row:
        """Of the last batch, valid until the next; -1 is its last output."""
        pointer = llama_cpp.llama_get_logits_ith(self.handle, row)
        return np.ctypeslib.as_array(pointer, shape=(self._vocabulary_size,))

    def logits_are_finite(self, row: int = -1) -> bool:
        """NaN and infinity show in the largest logit; one pass, 0.1 ms at 262,144."""
        return isfinite(self.logits(row).max())

    def logit_rows(
        self, sequence: int, tokens: Sequence[int], position: int, rows: int = 1
    ) -> Sequence[Row] | None:
        """As a Readable of decoder.py."""
        if not self.run([Span(sequence, position, tokens, rows)]):
            return None
        return [self.logits(row) for row in range(len(tokens) - rows, len(tokens))]

    def hidden_states(
        self, sequence: int, tokens: Sequence[int], position: int
    ) -> Sequence[Row] | None:
        """As a Readable of decoder.py."""
        llama_cpp.llama_set_embeddings(self.handle, True)
        try:
            if not self.run([Span(sequence, position, tokens, len(tokens))]):
                return None
            return [self._hidden_state(row) for row in range(len(tokens))]
        finally:
            llama_cpp.llama_set_embeddings(self.handle, False)

    def close(self) -> None:
        self._owned.close()

    def _hidden_state(self, row: int) -> Row:
        pointer = llama_cpp.llama_get_embeddings_ith(self.handle, row)
        return np.ctypeslib.as_array(pointer, shape=(self._width,))

    def _fill(self, spans: Sequence[Span]) -> None:
        batch = self._batch
        at = 0
        for span in spans:
            first_output = len(span.tokens) - span.outputs
            for number, token in enumerate(span.tokens):
                batch.token[at] = token
                batch.pos[at] = span.position + number
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = span.sequence
                batch.logits[at] = number >= first_output
                at += 1
        batch.n_tokens = at

    def _aborts(self) -> bool:
        binding.log.is_muted = self._is_cancelled()
        return binding.log.is_muted

    def _computed(self) -> bool:
        """False when the abort callback ended it."""
        binding.log.clear()
        code = llama_cpp.llama_decode(self.handle, self._batch)
        binding.log.is_muted = False
        if code not in (0, _ABORTED):
            raise InternalError(f"llama_decode returned {code}.", why=binding.log.explanation())
        return bool(code == 0)


@dataclass(frozen=True, slots=True)
class ContextRow:
    """A row of the context's last batch; the chain reads it where it lies."""

    context: Context
    number: int

    @property
    def logits(self) -> Row:
        return self.context.logits(self.number)

    def sampled(self, chain: SamplerHandle) -> int:
        return int(llama_cpp.llama_sampler_sample(chain, self.context.handle, self.number))


def _params(options: EngineOptions, sequences: int) -> object:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = options.context_length
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.n_seq_max = sequences
    params.n_outputs_max = OUTPUT_ROWS
    params.kv_unified = True
    params.n_threads = params.n_threads_batch = options.threads
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO
    # A windowed cache puts later tokens wherever there is room, and sums in another order then.
    params.swa_full = options.exact or options.context_length <= FULL_CACHE_TOKENS
    params.no_perf = True
    return params
