"""Tokenizers trained on a few sentences, in the form of each family's, as folders with a model."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.artifacts.convert import shapes
from tests.tiny import SENTENCES, SPECIAL, TURNS, VOCABULARY_SIZE, build_hugging_face_folder

_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def _byte_level(family: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        return shapes.build(family, folder)

    return build


def _llama_2(folder: Path) -> Path:
    """A space before every text."""
    build_hugging_face_folder(folder)

    def edit(tokenizer: dict[str, Any]) -> None:
        prepend = {"type": "Prepend", "prepend": "▁"}
        steps = [prepend, tokenizer["normalizer"]]
        tokenizer["normalizer"] = {"type": "Sequence", "normalizers": steps}
        strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        tokenizer["decoder"]["decoders"].append(strip)

    return edited(folder, edit)


def _gemma_at_home(folder: Path) -> Path:
    """Merges as the trainer found them, not closed as SentencePiece's are."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    build_hugging_face_folder(folder)
    fixed = [*SPECIAL, *TURNS]
    learned = Tokenizer(BPE(byte_fallback=True))
    learned.normalizer = normalizers.Replace(" ", "▁")
    learned.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    trainer = BpeTrainer(
        vocab_size=VOCABULARY_SIZE - 8, special_tokens=[*fixed, *_BYTES], show_progress=False
    )
    learned.train_from_iterator(SENTENCES, trainer)
    model = json.loads(learned.to_str())["model"]

    def edit(tokenizer: dict[str, Any]) -> None:
        kept = [token for token in tokenizer["added_tokens"] if token["content"] in fixed]
        tokenizer["added_tokens"] = [
            {**token, "id": model["vocab"][token["content"]]} for token in kept
        ]
        tokenizer["model"] |= {"vocab": model["vocab"], "merges": model["merges"]}

    return edited(folder, edit)


def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    edit(tokenizer)
    path.write_text(json.dumps(tokenizer))
    return folder


KINDS: Mapping[str, Callable[[Path], Path]] = {
    "gemma": build_hugging_face_folder,
    "gemma at home": _gemma_at_home,
    "llama 2": _llama_2,
    "llama 3": _byte_level("llama"),
    "qwen": _byte_level("qwen2"),
}
