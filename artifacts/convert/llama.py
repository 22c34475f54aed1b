"""What llama.cpp makes of a GGUF file: tokens of a text, and logits of a prompt.

For the proof of a conversion only: the worker that serves has an engine of its own. The calls are
llama.cpp's low-level ones, of the release that is pinned.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from artifacts.convert.families import Rows
from protos.errors import InvalidRequest

# The binding has no types.
_LIBRARY: Any = llama_cpp


def _ignore(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """llama.cpp describes every model that it loads, at length, on stderr."""


# At module level: C calls it for as long as the process lives.
_silent = _LIBRARY.llama_log_callback(_ignore)


def tokens(file: Path, texts: Sequence[str]) -> list[list[int]]:
    """Of each text, as it opens a conversation, control tokens recognised."""
    with _loaded(file, weights=False) as model:
        vocabulary = _LIBRARY.llama_model_get_vocab(model)
        return [_tokenised(vocabulary, text) for text in texts]


def logits(file: Path, prompt: Sequence[int]) -> Rows:
    """(tokens, vocabulary) of one prompt, with float32 keys and values."""
    with ExitStack() as stack:
        model = stack.enter_context(_loaded(file, weights=True))
        settings = _LIBRARY.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = len(prompt)
        settings.n_threads = settings.n_threads_batch = len(os.sched_getaffinity(0))
        settings.type_k = settings.type_v = _LIBRARY.GGML_TYPE_F32
        context = _LIBRARY.llama_init_from_model(model, settings)
        if not context:
            raise _refused(file)
        stack.callback(_LIBRARY.llama_free, context)
        batch = _LIBRARY.llama_batch_init(len(prompt), 0, 1)
        stack.callback(_LIBRARY.llama_batch_free, batch)
        for number, token in enumerate(prompt):
            batch.token[number], batch.pos[number] = token, number
            batch.n_seq_id[number], batch.seq_id[number][0] = 1, 0
            batch.logits[number] = 1
        batch.n_tokens = len(prompt)
        if _LIBRARY.llama_decode(context, batch):
            raise _refused(file)
        words = _LIBRARY.llama_vocab_n_tokens(_LIBRARY.llama_model_get_vocab(model))
        values = _LIBRARY.llama_get_logits(context)
        found: Rows = np.ctypeslib.as_array(values, shape=(len(prompt), words)).copy()
        return found


@contextmanager
def _loaded(file: Path, *, weights: bool) -> Iterator[Any]:
    _LIBRARY.llama_log_set(_silent, ctypes.c_void_p(0))
    settings = _LIBRARY.llama_model_default_params()
    settings.n_gpu_layers = 0
    settings.vocab_only = not weights
    # Repacked weights would be a second copy of the model, in anonymous memory.
    settings.use_extra_bufts = False
    model = _LIBRARY.llama_model_load_from_file(str(file).encode(), settings)
    if not model:
        raise _refused(file)
    try:
        yield model
    finally:
        _LIBRARY.llama_model_free(model)


def _tokenised(vocabulary: Any, text: str) -> list[int]:
    data = text.encode()
    # A token is at least a byte long, but for a space and a control token in front.
    out = (_LIBRARY.llama_token * (len(data) + 2))()
    count = _LIBRARY.llama_tokenize(vocabulary, data, len(data), out, len(out), True, True)
    return list(out[: max(count, 0)])


def _refused(file: Path) -> InvalidRequest:
    return InvalidRequest(
        "llama.cpp does not load the file that was made.",
        why=f"{file.name} is refused by llama-cpp-python {_LIBRARY.__version__}.",
        fix="Report it with the model's config.json; this is a fault of the converter.",
        reason="CONVERSION_NOT_PROVED",
    )
