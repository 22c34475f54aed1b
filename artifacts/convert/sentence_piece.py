"""Byte-fallback BPE (Gemma, early Llama) as llama.cpp's "llama" vocabulary, or as its "gemma4".

The first is SentencePiece's: it joins the two neighbours whose union has the best score. BPE joins
the two whose merge has the lowest rank, so the score of a word is minus the rank of its first
merge. Both give the same tokens when every way to put a word together from two others is a merge,
which holds for tokenizers that were made from a SentencePiece model.

A tokenizer that was trained at home has other ways, which are no merges. It becomes the second
kind, which knows merges, but cuts a text at its newlines first. Where it has both, other ways and
merges across a newline, the ways are counted and told, and the proof (proof.py) decides.

One difference is left: a text in which ▁▁ itself is written, rather than spaces, is split
otherwise.
"""

from collections.abc import Sequence
from dataclasses import replace

from gguf import TokenType

from artifacts.convert.json_object import JsonObject
from artifacts.convert.vocabulary import (
    SPACE,
    Vocabulary,
    placeholders,
    read_merges,
    read_words,
    steps,
    unsupported,
)

_SCORED, _MERGED = "llama", "gemma4"  # llama.cpp's names of the kinds
_UNREACHABLE = -1e6  # below minus any rank: words that nothing merges into, as single characters


def read_sentence_piece(tokenizer: JsonObject, rows: int) -> Vocabulary:
    """The vocabulary for an embedding of ``rows`` rows."""
    words, merges = read_words(tokenizer, rows), read_merges(tokenizer)
    model = tokenizer.child("model")
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in words]
    if missing:
        raise unsupported(tokenizer, f"no word for byte {missing[0]}", "all 256 of them")
    if model.flag("ignore_merges", False):
        raise unsupported(tokenizer, "`ignore_merges`", "merges")
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault("".join(pair), rank)

    tokens, types = placeholders(rows)
    prefix_space, scores = _prefix_space(tokenizer), [_UNREACHABLE] * rows
    built = Vocabulary(_SCORED, "default", tokens, types, scores, prefix_space=prefix_space)
    for word, number in words.items():
        is_byte = len(word) == 6 and word.startswith("<0x")
        built.place(number, word, TokenType.BYTE if is_byte else TokenType.NORMAL)
        if word in ranks:
            scores[number] = float(-ranks[word])
    for token in tokenizer.children("added_tokens"):
        # Gemma's runs of spaces are left as words, which merges reach: they are matched before a
        # space is written ▁, and so only where somebody writes ▁ itself.
        if SPACE not in token.text("content") or token.flag("normalized", True):
            built.place_added(token)
    if (unknown := model.text("unk_token", "")) in words:
        types[words[unknown]] = TokenType.UNKNOWN
    ways = _unmerged_ways(_mergeable(built), merges)
    if ways and not prefix_space and not any(map(_crosses_newline, ranks)):
        pairs = [" ".join(pair) for pair in merges]
        return replace(built, kind=_MERGED, splitting=_MERGED, scores=[], merges=pairs)
    if ways:
        built.warnings.append(
            f"{ways} pairs of words join in llama.cpp that the tokenizer leaves apart: "
            "rare texts are split into other tokens."
        )
    return built


def _crosses_newline(word: str) -> bool:
    return "\n" in word and word.strip("\n") != ""


def _mergeable(built: Vocabulary) -> set[str]:
    pairs = zip(built.tokens, built.types, strict=True)
    return {token.decode() for token, kind in pairs if kind is TokenType.NORMAL}


def _unmerged_ways(words: set[str], merges: Sequence[tuple[str, str]]) -> int:
    """In how many ways two words make a third without being a merge."""
    known = set(merges)
    return sum(
        word[:cut] in words and word[cut:] in words and (word[:cut], word[cut:]) not in known
        for word in words
        for cut in range(1, len(word))
    )


def _prefix_space(tokenizer: JsonObject) -> bool:
    """Whether a text gets a space in front; refuses every other change to the text."""
    kinds = set()
    for step in steps(tokenizer, "normalizer", "normalizers"):
        kind = step.text("type")
        if kind == "Replace":
            known = (step.child("pattern").raw("String"), step.raw("content")) == (" ", SPACE)
        else:
            known = kind == "Prepend" and step.raw("prepend") == SPACE
        if not known:
            raise unsupported(tokenizer, f"the normalizer {kind}", f"spaces written as {SPACE}")
        kinds.add(kind)
    if "Replace" not in kinds:
        raise unsupported(tokenizer, "no normalizer", f"spaces written as {SPACE}")
    for step in steps(tokenizer, "pre_tokenizer", "pretokenizers"):
        # Gemma splits at spaces, of which the normalizer has left none.
        if step.text("type") != "Split" or step.child("pattern").raw("String") != " ":
            raise unsupported(tokenizer, f"the splitter {step.text('type')}", "none")
    return "Prepend" in kinds
