"""Byte-level BPE (Qwen, Llama 3) as llama.cpp's "gpt2" vocabulary, merges as they are.

The rule that cuts a text before merging is built into llama.cpp, which knows it by a name. The
official converter finds the name by the hash of an encoded text, and fails on every tokenizer that
was trained at home; here the rule itself, the regular expression in the file, is compared.
"""

from gguf import TokenType

from artifacts.convert.json_object import JsonObject
from artifacts.convert.vocabulary import (
    Vocabulary,
    placeholders,
    read_merges,
    read_words,
    steps,
    unsupported,
)

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA_3 = "llama-bpe"
_SPLITTINGS = {
    _LETTERS + r"\p{N}" + _REST: "qwen2",
    _LETTERS + r"\p{N}{1,3}" + _REST: _LLAMA_3,
}


def read_byte_level(tokenizer: JsonObject, rows: int) -> Vocabulary:
    """The vocabulary for an embedding of ``rows`` rows."""
    words, merges = read_words(tokenizer, rows), read_merges(tokenizer)
    splitting = _splitting(tokenizer)
    # Whole words before merges: llama.cpp does it for this rule, and for no other.
    if tokenizer.child("model").flag("ignore_merges", False) != (splitting == _LLAMA_3):
        raise unsupported(tokenizer, "`ignore_merges`", "it for Llama 3, and for no other")
    tokens, types = placeholders(rows)
    built = Vocabulary("gpt2", splitting, tokens, types, merges=[" ".join(pair) for pair in merges])
    for step in steps(tokenizer, "normalizer", "normalizers"):
        if step.text("type") != "NFC":
            raise unsupported(tokenizer, f"the normalizer {step.text('type')}", "none")
        built.warnings.append(
            "llama.cpp does not compose characters (NFC): texts that come decomposed are split "
            "into other tokens."
        )
    for word, number in words.items():
        built.place(number, word, TokenType.NORMAL)
    for token in tokenizer.children("added_tokens"):
        built.place_added(token)
    return built


def _splitting(tokenizer: JsonObject) -> str:
    """llama.cpp's name of the rule."""
    rule, byte_level = None, None
    for step in steps(tokenizer, "pre_tokenizer", "pretokenizers"):
        kind = step.text("type")
        if kind == "Split" and rule is None:
            rule = step.child("pattern").text("Regex", "")
        elif kind == "ByteLevel" and byte_level is None:
            byte_level = step
        else:
            raise unsupported(tokenizer, f"the splitter {kind}", "one rule, then bytes")
    if byte_level is None:
        raise unsupported(tokenizer, "BPE on neither bytes nor byte fallback", "one of them")
    if rule is None and byte_level.flag("use_regex", True):
        return "gpt-2"
    if rule in _SPLITTINGS:
        return _SPLITTINGS[rule]
    raise unsupported(tokenizer, f"the splitting rule {rule!r}", "those of Qwen 2 and Llama 3")
