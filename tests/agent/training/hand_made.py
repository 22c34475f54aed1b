"""Vocabularies whose tokens one can tell by hand: bytes, some words, a family's control tokens.

A word is one token; everything else is a token for each byte. The words' merges go from left to
right, as in "us", "use", "user".
"""

import json
from pathlib import Path

from artifacts.convert import FileType, convert_model
from tests.artifacts.convert import shapes

# As byte-level BPE writes them: Ġ is a space, Ċ a line feed.
WORDS = (
    *("system", "user", "assistant", "ĊĊ", "###", "ĠInstruction", "ĠInput", "ĠResponse"),
    *("Be", "Ġbrief", "Hi", "Hello", "And", "Ġyou", "Fine", "Add", "one", "Ġand", "Ġtwo", "three"),
    *("The", "Ġsea", "Ġis", "Ġwide", "You", "Ġare", "ĠQwen"),
)
# The first two have to be BOS and the end of an answer: the tiny checkpoints name them so.
CONTROL = {
    "qwen2": ("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
    "llama": (
        *("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        "<|end_of_text|>",
    ),
}


def build(family: str, folder: Path, template: str) -> Path:
    """A GGUF file of the family's shape with such a vocabulary; no template if it is empty."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE

    shapes.build(family, folder)
    control = CONTROL[family]
    tokens = [*control, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            merge = (word[: end - 1], word[end - 1])
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append(merge)
    numbers = {token: number for number, token in enumerate(tokens)}
    is_llama = family == "llama"
    tokenizer = Tokenizer(BPE(vocab=numbers, merges=merges, ignore_merges=is_llama))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(shapes.SPLITS[family]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in control]
    )
    if is_llama:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{control[0]} $A", special_tokens=[(control[0], 0)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "bos_token": control[0] if is_llama else None,
        "eos_token": control[1],
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    target = folder.parent / f"{folder.name}.gguf"
    convert_model(folder, target, FileType.Q8_0)
    return target
