"""What both kinds of llama.cpp's vocabularies share: rows, token types, added tokens.

Rows that no token has get the placeholder that llama.cpp's own converter writes. Of the added
tokens, control tokens are those that a text from outside must not be able to write and that never
show in an answer. The files mark most of them as special, but not all: Gemma's <unused5> and
Qwen's <|fim_prefix|> are not marked, so the look counts too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gguf import TokenType

from artifacts.convert.json_object import JsonObject
from protos.errors import InvalidRequest

SPACE = "▁"  # ▁, SentencePiece's way to write a space

_CONTROL = re.compile(r"<\|.*\|>|<(pad|mask|2mass|start_of_turn|end_of_turn|unused\d+)>|\[@BOS@\]")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """``kind`` and ``splitting`` are llama.cpp's names; the first three lists run by token id."""

    kind: str
    splitting: str
    tokens: list[bytes]
    types: list[TokenType]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    prefix_space: bool = False
    warnings: list[str] = field(default_factory=list)

    def place(self, number: int, text: str, kind: TokenType) -> None:
        self.tokens[number] = text.encode()
        self.types[number] = kind

    def place_added(self, token: JsonObject) -> None:
        """A token that is matched in a text as it is written, before anything else."""
        number, text = token.integer("id"), token.text("content")
        if number >= len(self.tokens):
            self.warnings.append(f"The token {text!r} has no row in the model and is left out.")
        elif token.flag("special", False) or _CONTROL.fullmatch(text):
            self.place(number, text, TokenType.CONTROL)
        else:
            self.place(number, text.replace(SPACE, " "), TokenType.USER_DEFINED)


def placeholders(rows: int) -> tuple[list[bytes], list[TokenType]]:
    """Names and types of ``rows`` unused rows."""
    return [f"[PAD{number}]".encode() for number in range(rows)], [TokenType.UNUSED] * rows


def read_words(tokenizer: JsonObject, rows: int) -> Mapping[str, int]:
    """The words of a BPE model with their numbers, all below ``rows``."""
    model = tokenizer.child("model")
    if model.text("type", "") != "BPE":
        raise unsupported(tokenizer, f"a {model.text('type', 'nameless')} model", "BPE")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.raw(key):
            raise unsupported(tokenizer, f"`{key}`", "none")
    vocabulary = model.child("vocab")
    words = {word: vocabulary.integer(word) for word in vocabulary}
    for word, number in words.items():
        if number >= rows:
            raise InvalidRequest(
                f"{tokenizer.where}: the word {word!r} has number {number}.",
                why=f"The model has {rows} rows; tokenizer and model do not belong together.",
            )
    return words


def read_merges(tokenizer: JsonObject) -> list[tuple[str, str]]:
    """By rank. Written as pairs, or before tokenizers 0.20 as one text with a space between."""
    model = tokenizer.child("model")
    pairs: list[tuple[str, str]] = []
    for item in model.array("merges"):
        parts = item.split(" ") if isinstance(item, str) else item
        if not isinstance(parts, list) or len(parts) != 2:
            raise InvalidRequest(f"{model.where}: {item!r} is not a merge.")
        pairs.append((str(parts[0]), str(parts[1])))
    return pairs


def steps(tokenizer: JsonObject, stage: str, within: str) -> list[JsonObject]:
    """The steps of a stage: one, a sequence of them (under the key ``within``), or none."""
    if stage not in tokenizer:
        return []
    found = tokenizer.child(stage)
    return found.children(within) if found.text("type") == "Sequence" else [found]


def unsupported(tokenizer: JsonObject, found: str, expected: str) -> InvalidRequest:
    return InvalidRequest(
        f"{tokenizer.where}: {found} cannot be represented.",
        why=f"llama.cpp has {expected}.",
        reason="UNSUPPORTED_TOKENIZER",
    )
