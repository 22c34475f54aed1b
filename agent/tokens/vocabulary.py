"""Text to tokens and back, by the vocabulary inside the GGUF file.

For both workers: the tokenizer that serves is the one that trains. The calls are llama.cpp's
low-level ones: their signatures move between releases, which is why the agent pins one.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NewType

import llama_cpp

from protos.errors import InvalidRequest

ModelHandle = NewType("ModelHandle", int)
VocabularyHandle = NewType("VocabularyHandle", int)

_NONE = -1
_CONTROL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
# Tokens are a few bytes long; a longer one gets a buffer of its own.
_PIECE_BYTES = 128


class Vocabulary:
    """Borrowed from a loaded model, which must outlive it."""

    def __init__(self, model: ModelHandle) -> None:
        self.handle = VocabularyHandle(llama_cpp.llama_model_get_vocab(model))
        self.size: int = llama_cpp.llama_vocab_n_tokens(self.handle)
        self.bos: int = llama_cpp.llama_vocab_bos(self.handle)
        self.eos: int = llama_cpp.llama_vocab_eos(self.handle)
        self._adds_bos = self.bos != _NONE and bool(llama_cpp.llama_vocab_get_add_bos(self.handle))
        self._buffer = ctypes.create_string_buffer(_PIECE_BYTES)

    def plain(self, text: str) -> list[int]:
        """Text as text: what looks like a control token is spelled out. No BOS, no EOS."""
        return self._tokenise(text, parse_special=False)

    def rendered(self, text: str) -> list[int]:
        """A rendered chat template: control tokens are recognised. No further BOS or EOS."""
        return self._tokenise(text, parse_special=True)

    def control_tokens_in(self, text: str) -> Iterator[int]:
        """The control tokens whose texts are in ``text``, in their order."""
        return filter(self.is_control, self.rendered(text))

    def is_control(self, token: int) -> bool:
        """Whether ``rendered`` makes it of its text. Byte and user-defined tokens are not among
        them: llama.cpp recognises those in all text."""
        return bool(llama_cpp.llama_vocab_get_attr(self.handle, token) & _CONTROL)

    def with_bos(self, tokens: list[int]) -> list[int]:
        """BOS in front, once, if the model was trained with it."""
        if not self._adds_bos or tokens[:1] == [self.bos]:
            return tokens
        return [self.bos, *tokens]

    def bytes_of(self, token: int) -> bytes:
        """What a token stands for: empty for control tokens, and perhaps half a character."""
        size = self._piece(token, self._buffer)
        if size >= 0:
            return self._buffer.raw[:size]
        larger = ctypes.create_string_buffer(-size)
        return larger.raw[: self._piece(token, larger)]

    def text_of(self, token: int) -> str:
        """A token's name in the vocabulary; for control tokens, the text that they are read by."""
        if token == _NONE:
            return ""
        return bytes(llama_cpp.llama_vocab_get_text(self.handle, token)).decode("utf-8", "replace")

    def ends_answer(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self.handle, token))

    def special_texts(self) -> dict[str, str]:
        """What chat templates call ``bos_token`` and ``eos_token``."""
        return {"bos_token": self.text_of(self.bos), "eos_token": self.text_of(self.eos)}

    def _tokenise(self, text: str, *, parse_special: bool) -> list[int]:
        data = text.encode()
        # A token is at least a byte long, but for a space that some vocabularies put in front.
        out = (llama_cpp.llama_token * (len(data) + 1))()
        count = llama_cpp.llama_tokenize(
            self.handle, data, len(data), out, len(out), False, parse_special
        )
        if count < 0:
            raise InvalidRequest("The text cannot be tokenised.", field="prompt")
        return list(out[:count])

    def _piece(self, token: int, buffer: "ctypes.Array[ctypes.c_char]") -> int:
        return int(
            llama_cpp.llama_token_to_piece(self.handle, token, buffer, len(buffer), 0, False)
        )


def _ignore(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """llama.cpp describes every model that it loads, at length, on stderr."""


# At module level: C calls it for as long as the process lives.
_silent = llama_cpp.llama_log_callback(_ignore)


@contextmanager
def opened(path: Path) -> Iterator[Vocabulary]:
    """The tokenizer in a base model's file, without the weights; freed at the end of the block."""
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
