"""The vocabulary of a base model file, without its weights: what the dataset is tokenised with."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp

from agent.tokens.vocabulary import Vocabulary
from protos.errors import InvalidRequest


def _ignore(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """llama.cpp describes every model that it loads, at length, on stderr."""


# At module level: C calls it for as long as the process lives.
_silent = llama_cpp.llama_log_callback(_ignore)


@contextmanager
def opened(path: Path) -> Iterator[Vocabulary]:
    """The tokenizer in the file; the C object is freed at the end of the block."""
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
    settings = llama_cpp.llama_model_default_params()
    settings.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
    if not model:
        raise InvalidRequest(
            f"llama.cpp cannot read the vocabulary of {path}.",
            fix="Import the base model again.",
        )
    try:
        yield Vocabulary(model)
    finally:
        llama_cpp.llama_model_free(model)
