"""llama.cpp splits every text as the tokenizers library does, in all scripts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifacts.convert import convert_model
from protos.errors import InvalidRequest, NotFound
from tests.llama import reference
from tests.tiny import CHAT_TEMPLATE, SENTENCES, TEXT

# Beyond what the tokenizers were trained on: words that fall back to bytes, and odd spacing.
TEXTS = (
    *SENTENCES,
    TEXT,
    "",
    " ",
    "  two  three   four    five     ten          spaces ",
    "line\n\nparagraph\n\n\n\nfar\r\nwindows\ttab\t\ttabs\n ",
    "unseen: ქართული, Հայերեն, አማርኛ, ភាសាខ្មែរ, বাংলা, ਪੰਜਾਬੀ, తెలుగు, 𒀀𒁀",
    "emoji 🧑🏽‍🚀🏳️‍🌈 and \u200bzero width\u00a0no-break \ufeffmark",
    "it's we'll I'M they'RE 1234567 3.14 x_y__z a-b/c\\d #!$%^&*()",
    "literal ▁ mark, <0x41>, <unk>?",
)
SPECIAL_TEXTS = {
    "gemma3": "<start_of_turn>user\nनमस्ते<end_of_turn>\n<start_of_turn>model\n",
    "qwen2": "hello<|im_end|>\nworld <tool_call> 你好<|end_of_text|>",
}
SPECIAL_TEXTS |= {"qwen3": SPECIAL_TEXTS["qwen2"], "llama": SPECIAL_TEXTS["qwen2"]}


def test_tokens_are_the_same(checkpoint: Path, exact: Path, family: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    with reference(exact) as llama:
        for text in (*TEXTS, SPECIAL_TEXTS[family]):
            expected = tokenizer.encode(text).ids
            assert llama.tokens(text) == expected, text
            assert llama.text(expected) == tokenizer.decode(expected), text


def test_a_generation_ends_at_the_end_of_text_and_of_turn(tiny_base: Path) -> None:
    with reference(tiny_base) as llama:
        ends = [token for token in range(llama.words) if llama.is_end(token)]
        assert [llama.tokens("<eos>")[1], llama.tokens("<end_of_turn>")[1]] == ends


def test_the_tiny_tokenizer_converts_without_warnings(tiny_folder: Path, tmp_path: Path) -> None:
    assert convert_model(tiny_folder, tmp_path / "m.gguf").warnings == ()


def test_an_older_tokenizer_config_means_the_same(
    tiny_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """The template within the config, tokens as objects, merges as texts."""
    folder = _copied(tiny_folder, tmp_path)
    (folder / "chat_template.jinja").unlink()

    def edit_config(config: dict[str, Any]) -> None:
        config["chat_template"] = CHAT_TEMPLATE
        config["bos_token"] = {"__type": "AddedToken", "content": "<bos>"}

    _edit(folder / "tokenizer_config.json", edit_config)

    def edit_merges(tokenizer: dict[str, Any]) -> None:
        model = tokenizer["model"]
        model["merges"] = [" ".join(pair) for pair in model["merges"]]

    _edit(folder / "tokenizer.json", edit_merges)
    convert_model(folder, tmp_path / "old.gguf")
    assert (tmp_path / "old.gguf").read_bytes() == tiny_base.read_bytes()


def test_a_token_beyond_the_rows_is_left_out_with_a_warning(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Gemma 3 1B's tokenizer has <image_soft_token>, its embedding no row for it."""
    folder = _copied(tiny_folder, tmp_path)

    def edit(tokenizer: dict[str, Any]) -> None:
        extra = {"id": 640, "content": "<image_soft_token>", "special": True}
        tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | extra)

    _edit(folder / "tokenizer.json", edit)
    (warning,) = convert_model(folder, tmp_path / "m.gguf").warnings
    assert "<image_soft_token>" in warning


def test_merges_that_llama_cpp_cannot_follow_are_counted(tiny_folder: Path, tmp_path: Path) -> None:
    folder = _copied(tiny_folder, tmp_path)

    def edit(tokenizer: dict[str, Any]) -> None:
        merges = tokenizer["model"]["merges"]
        words = ["".join(pair) for pair in merges]
        again = next(n for n, word in enumerate(words) if word in words[:n] and "\n" not in word)
        del merges[again]

    _edit(folder / "tokenizer.json", edit)
    (warning,) = convert_model(folder, tmp_path / "m.gguf").warnings
    assert warning.startswith("1 pairs of words")


def _drop_byte(tokenizer: dict[str, Any]) -> None:
    del tokenizer["model"]["vocab"]["<0x41>"]


def _unigram(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["type"] = "Unigram"


def _lowercase(tokenizer: dict[str, Any]) -> None:
    tokenizer["normalizer"] = {"type": "Lowercase"}


def _no_normalizer(tokenizer: dict[str, Any]) -> None:
    tokenizer["normalizer"] = None


def _digits(tokenizer: dict[str, Any]) -> None:
    tokenizer["pre_tokenizer"] = {"type": "Digits", "individual_digits": True}


def _too_many(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["vocab"]["zzz"] = 5000


def _prepend(tokenizer: dict[str, Any]) -> None:
    prepend = {"type": "Prepend", "prepend": "▁"}
    tokenizer["normalizer"] = {
        "type": "Sequence",
        "normalizers": [prepend, tokenizer["normalizer"]],
    }
    tokenizer["decoder"] = None


def _nothing_in_front(tokenizer: dict[str, Any]) -> None:
    tokenizer["post_processor"] = None


def _unmarked(tokenizer: dict[str, Any]) -> None:
    for token in tokenizer["added_tokens"]:
        token["special"] = False


@pytest.mark.parametrize("edit", [_prepend, _nothing_in_front, _unmarked])
def test_variants_of_the_tokenizer_split_the_same(
    tiny_folder: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    """A space in front (Llama 2), no <bos>, and turns that are not marked special (Gemma 2)."""
    from tokenizers import Tokenizer

    folder = _copied(tiny_folder, tmp_path)
    _edit(folder / "tokenizer.json", edit)
    convert_model(folder, tmp_path / "m.gguf")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with reference(tmp_path / "m.gguf") as llama:
        for text in (*SENTENCES, SPECIAL_TEXTS["gemma3"]):
            assert llama.tokens(text) == tokenizer.encode(text).ids, text


def _eos_behind(tokenizer: dict[str, Any]) -> None:
    single = tokenizer["post_processor"]["single"]
    single.append({"SpecialToken": {"id": "<eos>", "type_id": 0}})


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (_eos_behind, "around a text"),
        (_drop_byte, "no word for byte 65"),
        (_unigram, "Unigram"),
        (_lowercase, "Lowercase"),
        (_no_normalizer, "no normalizer"),
        (_digits, "Digits"),
        (_too_many, "do not belong together"),
    ],
)
def test_tokenizers_that_would_split_otherwise_are_refused(
    tiny_folder: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None], named: str
) -> None:
    folder = _copied(tiny_folder, tmp_path)
    _edit(folder / "tokenizer.json", edit)
    with pytest.raises(InvalidRequest, match=named):
        convert_model(folder, tmp_path / "m.gguf")


def test_an_unknown_splitting_rule_is_refused(tmp_path: Path) -> None:
    from tests.artifacts.convert import shapes

    folder = shapes.build("qwen2", tmp_path / "qwen2")

    def edit(tokenizer: dict[str, Any]) -> None:
        split = tokenizer["pre_tokenizer"]["pretokenizers"][0]
        split["pattern"]["Regex"] = r"\w+|\s+"

    _edit(folder / "tokenizer.json", edit)
    with pytest.raises(InvalidRequest, match=r"splitting rule .*Qwen 2 and Llama 3"):
        convert_model(folder, tmp_path / "m.gguf")


def test_a_missing_tokenizer_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    folder = _copied(tiny_folder, tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(NotFound, match=r"tokenizer\.json is missing"):
        convert_model(folder, tmp_path / "m.gguf")


def _copied(source: Path, parent: Path) -> Path:
    return Path(shutil.copytree(source, parent / source.name))


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
