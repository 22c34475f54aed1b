"""A llama.cpp context: the attention cache, and running the model over tokens.

Tokens go in by 64, and logits come out for the newest one only: with a vocabulary of 262,144 the
compute buffer is 519 MiB at llama.cpp's defaults, 64 MiB with batches of 64, and 4 MiB when the
outputs are bounded as well. A cancelled request is noticed between batches and, by the abort
callback, inside one.
"""

import ctypes
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from math import isfinite

import llama_cpp
import numpy as np

from agent.inference import binding
from agent.inference.adapters import AdapterHandle
from agent.inference.engine import EngineOptions
from agent.inference.prefix import usable
from agent.tokens.vocabulary import ModelHandle
from protos.errors import InternalError, OutOfMemory

BATCH_TOKENS = 64
# Up to here the whole cache is kept even where the model looks back over a window only (52 MiB for
# a 1B model at 2,048), so that a prefix can be reused. Also then llama.cpp gives cells that a
# window has left behind to another sequence when it meets them first: `keepable` always asks.
FULL_CACHE_TOKENS = 2048
_ABORTED = 2


class Context:
    def __init__(self, model: ModelHandle, options: EngineOptions, sequences: int) -> None:
        self._owned = ExitStack()
        self._watched: threading.Event | None = None
        self._adapter: tuple[AdapterHandle, float] | None = None
        self._window: int = llama_cpp.llama_model_n_swa(model)
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
        self._abort = llama_cpp.ggml_abort_callback(lambda _data: self._is_cancelled())
        llama_cpp.llama_set_abort_callback(self.handle, self._abort, None)

    def watch(self, cancelled: threading.Event | None) -> None:
        """From now on ``decode`` ends early when this event is set."""
        self._watched = cancelled

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

    def decode(self, sequence: int, tokens: Sequence[int], position: int) -> int:
        """Runs the model over ``tokens`` at ``position``; returns how many are in the cache now.

        Fewer than given when the request was cancelled. The last token's logits are kept.
        """
        for start in range(0, len(tokens), BATCH_TOKENS):
            part = tokens[start : start + BATCH_TOKENS]
            self._fill(sequence, part, position + start)
            if self._is_cancelled() or not self._run():
                self.drop(sequence, position + start)
                return start
        return len(tokens)

    def keepable(self, sequence: int, keep: int) -> int:
        """``keep``, when the cache can go on there; 0 when the sequence must be computed anew."""
        first = llama_cpp.llama_memory_seq_pos_min(self._memory, sequence)
        return keep if usable(keep, first, self._window) else 0

    def drop(self, sequence: int, position: int = 0) -> None:
        """Forgets the sequence from ``position`` on."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, position, -1)

    def logits_are_finite(self, vocabulary_size: int) -> bool:
        """NaN and infinity show in the largest logit; one pass, 0.1 ms at 262,144."""
        pointer = llama_cpp.llama_get_logits_ith(self.handle, -1)
        return isfinite(np.ctypeslib.as_array(pointer, shape=(vocabulary_size,)).max())

    def close(self) -> None:
        self._owned.close()

    def _fill(self, sequence: int, tokens: Sequence[int], position: int) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for at, token in enumerate(tokens):
            batch.token[at] = token
            batch.pos[at] = position + at
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = sequence
            batch.logits[at] = at == len(tokens) - 1

    def _run(self) -> bool:
        """False when the abort callback ended it."""
        binding.log.clear()
        code = llama_cpp.llama_decode(self.handle, self._batch)
        if code not in (0, _ABORTED):
            raise InternalError(f"llama_decode returned {code}.", why=binding.log.explanation())
        return bool(code == 0)

    def _is_cancelled(self) -> bool:
        return self._watched is not None and self._watched.is_set()


def _params(options: EngineOptions, sequences: int) -> object:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = options.context_length
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.n_seq_max = sequences
    # Fewer than one for each sequence is refused, by an assertion.
    params.n_outputs_max = sequences
    params.kv_unified = True
    params.n_threads = params.n_threads_batch = options.threads
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO
    params.swa_full = options.context_length <= FULL_CACHE_TOKENS
    params.no_perf = True
    return params
