"""llama.cpp for comparisons: a whole prompt's logits and greedy tokens, with one adapter or none.

Low-level calls with every shortcut off; the product's engine is another (agent/inference).
"""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CONTEXT = 512


class Reference:
    """One loaded model. Positions start at zero in every call: nothing is kept between them."""

    def __init__(self, library: Any, model: Any, context: Any) -> None:
        self._library, self._model, self._context = library, model, context
        self._vocabulary = library.llama_model_get_vocab(model)
        self.words = library.llama_vocab_n_tokens(self._vocabulary)

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """[position, word] for a prompt of at most 512 tokens."""
        library = self._library
        library.llama_memory_clear(library.llama_get_memory(self._context), True)
        return self._decode(tokens, 0)

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """The ``count`` likeliest tokens after the prompt, one by one, through the cache."""
        last, found = self.logits(tokens)[-1], []
        for number in range(count):
            found.append(int(last.argmax()))
            last = self._decode(found[-1:], len(tokens) + number)[-1]
        return found

    def use_adapter(self, path: Path | None) -> None:
        library = self._library
        adapters = []
        if path is not None:
            adapters.append(library.llama_adapter_lora_init(self._model, str(path).encode()))
            assert adapters[0], f"llama.cpp refuses {path}"
        array = (library.llama_adapter_lora_p_ctypes * len(adapters))(*adapters)
        scales = (ctypes.c_float * len(adapters))(*[1.0] * len(adapters))
        assert not library.llama_set_adapters_lora(self._context, array, len(adapters), scales)

    def tokens(self, text: str) -> list[int]:
        """With what the file says is put in front, special tokens recognised."""
        data, library = text.encode(), self._library
        out = (library.llama_token * (len(data) + 8))()
        count = library.llama_tokenize(self._vocabulary, data, len(data), out, len(out), True, True)
        return list(out[:count])

    def text(self, tokens: Sequence[int]) -> str:
        """The pieces joined, special tokens left out."""
        return b"".join(self._piece(token) for token in tokens).decode()

    def is_end(self, token: int) -> bool:
        return bool(self._library.llama_vocab_is_eog(self._vocabulary, token))

    def _piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        size = self._library.llama_token_to_piece(
            self._vocabulary, token, buffer, len(buffer), 0, False
        )
        return buffer.raw[:size]

    def _decode(self, tokens: Sequence[int], start: int) -> npt.NDArray[np.float32]:
        library = self._library
        batch = library.llama_batch_init(len(tokens), 0, 1)
        for number, token in enumerate(tokens):
            batch.token[number], batch.pos[number] = token, start + number
            batch.n_seq_id[number], batch.seq_id[number][0] = 1, 0
            batch.logits[number] = 1
        batch.n_tokens = len(tokens)
        assert library.llama_decode(self._context, batch) == 0
        values = library.llama_get_logits(self._context)
        found = np.ctypeslib.as_array(values, shape=(len(tokens), self.words)).copy()
        library.llama_batch_free(batch)
        return found


@contextmanager
def reference(path: Path) -> Iterator[Reference]:
    import llama_cpp

    library: Any = llama_cpp
    library.llama_log_set(_silent(library), ctypes.c_void_p(0))
    settings = library.llama_model_default_params()
    settings.n_gpu_layers = 0
    model = library.llama_model_load_from_file(str(path).encode(), settings)
    assert model, f"llama.cpp refuses {path}"
    settings = library.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = CONTEXT
    settings.n_threads = settings.n_threads_batch = 1
    # A float32 cache: with the usual float16 one the bounds would measure the cache.
    settings.type_k = settings.type_v = library.GGML_TYPE_F32
    context = library.llama_init_from_model(model, settings)
    assert context
    try:
        yield Reference(library, model, context)
    finally:
        library.llama_free(context)
        library.llama_model_free(model)


_callbacks: list[Any] = []


def _silent(library: Any) -> Any:
    """Kept for the life of the process: llama.cpp keeps the pointer."""
    if not _callbacks:
        _callbacks.append(library.llama_log_callback(lambda level, text, data: None))
    return _callbacks[0]
