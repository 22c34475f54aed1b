"""The tokenizer of a Hugging Face folder inside the GGUF: words, special tokens, chat template.

``tokenizer.json`` is what the tokenizers library runs, so it is the truth about splitting and about
what is put in front of a text; ``tokenizer_config.json`` names the special tokens.
"""

from pathlib import Path

import gguf

from artifacts.convert.byte_level import read_byte_level
from artifacts.convert.json_object import JsonObject
from artifacts.convert.sentence_piece import read_sentence_piece
from artifacts.convert.vocabulary import Vocabulary, steps, unsupported
from protos.errors import InvalidRequest


def add_tokenizer(header: gguf.GGUFWriter, folder: Path, rows: int) -> list[str]:
    """Puts the tokenizer into the header; returns warnings."""
    tokenizer = JsonObject.read(folder / "tokenizer.json")
    config = JsonObject.read(folder / "tokenizer_config.json")
    if tokenizer.child("model").flag("byte_fallback", False):
        vocabulary = read_sentence_piece(tokenizer, rows)
    else:
        vocabulary = read_byte_level(tokenizer, rows)
    numbers = {token.decode(): number for number, token in enumerate(vocabulary.tokens)}
    _add_vocabulary(header, vocabulary)
    _add_special(header, folder, config, numbers)
    header.add_add_bos_token(_opens_with(tokenizer, _named(config, "bos_token")))
    header.add_add_eos_token(False)
    if template := _chat_template(folder, config):
        header.add_chat_template(template)
    return vocabulary.warnings


def _add_vocabulary(header: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    header.add_tokenizer_model(vocabulary.kind)
    header.add_tokenizer_pre(vocabulary.splitting)
    header.add_token_list(vocabulary.tokens)
    header.add_token_types(vocabulary.types)
    if vocabulary.scores:
        header.add_token_scores(vocabulary.scores)
        header.add_add_space_prefix(vocabulary.prefix_space)
    else:
        header.add_token_merges(vocabulary.merges)


def _add_special(
    header: gguf.GGUFWriter, folder: Path, config: JsonObject, numbers: dict[str, int]
) -> None:
    adders = {
        "bos_token": header.add_bos_token_id,
        "eos_token": header.add_eos_token_id,
        "pad_token": header.add_pad_token_id,
        "unk_token": header.add_unk_token_id,
    }
    found = {key: numbers[name] for key in adders if (name := _named(config, key)) in numbers}
    if "eos_token" not in found:
        raise InvalidRequest(
            f"{config.where}: the vocabulary has no `eos_token`.",
            why="A generation would never end.",
        )
    for key, number in found.items():
        adders[key](number)
    # The end of a turn, where it is not the end of a text. llama.cpp stops at it as well; it would
    # know <end_of_turn> by its text, but not every other name.
    others = _generation_ends(folder) - {found["eos_token"]}
    if len(others) == 1:
        header.add_eot_token_id(others.pop())


def _generation_ends(folder: Path) -> set[int]:
    path = folder / "generation_config.json"
    if not path.is_file():
        return set()
    config = JsonObject.read(path)
    if isinstance(config.raw("eos_token_id"), list):
        return set(config.whole_numbers("eos_token_id"))
    return {config.integer("eos_token_id")} if "eos_token_id" in config else set()


def _named(config: JsonObject, key: str) -> str:
    """A token is written as its text or as an object with its text."""
    if isinstance(config.raw(key), dict):
        return config.child(key).text("content", "")
    return config.text(key, "")


def _opens_with(tokenizer: JsonObject, token: str) -> bool:
    """Whether every text gets ``token`` in front; refuses whatever else would be put around it."""
    opens = False
    for step in steps(tokenizer, "post_processor", "processors"):
        parts = [_part(part) for part in step.children("single")]
        if parts not in ([], [None], [token, None]):
            raise unsupported(
                tokenizer, f"{parts} around a text", f"{token!r} in front, or nothing"
            )
        opens = opens or parts == [token, None]
    return opens


def _part(part: JsonObject) -> str | None:
    """A part of the template: a token's text, or None for the text itself."""
    return part.child("SpecialToken").text("id") if "SpecialToken" in part else None


def _chat_template(folder: Path, config: JsonObject) -> str:
    """Since Transformers 5 a file of its own; before, a text or a list of named texts."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if isinstance(config.raw("chat_template"), list):
        named = {
            item.text("name"): item.text("template") for item in config.children("chat_template")
        }
        return named.get("default", "")
    return config.text("chat_template", "")
